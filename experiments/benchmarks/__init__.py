"""Sampling beside other replay buffers."""
