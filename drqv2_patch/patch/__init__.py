"""The patch for a checkout of DrQ-v2, and how it is undone."""
