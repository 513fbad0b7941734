"""Reads rows from memory, from chunk files and from the tail."""
