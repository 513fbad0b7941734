"""Commits rows, seals chunks, and writes their files."""
