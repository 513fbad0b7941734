"""Samplers: which transitions a batch holds."""
