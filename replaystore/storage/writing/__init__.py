"""Commits, sealing and the files of chunks."""
