"""The commit log, the catalog that is read from it, and opening a store."""
