"""Sampling, compared with other replay buffers."""
