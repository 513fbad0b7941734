"""Samplers choose the transitions of a batch."""
