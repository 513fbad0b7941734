"""The commit log, what it says of a store, and opening a store."""
