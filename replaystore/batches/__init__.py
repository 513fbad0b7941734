"""What a drawn row becomes: transitions, gathered from stored rows."""
