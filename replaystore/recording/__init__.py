"""Takes in episodes, whole or row by row, and keeps the limits of a store."""
