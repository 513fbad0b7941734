"""Replay buffers for other frameworks, one file for each. Nothing in the package imports them."""
