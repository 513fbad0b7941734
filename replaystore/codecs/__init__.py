"""Codecs for the rows of a field, for numcodecs and for Zarr format 3.

`round_clamp.RoundClamp` stores floats rounded and clamped. `frame_delta.FrameDelta` stores image sequences without
loss. `zarr_v3` wraps both for Zarr format 3. Importing this package imports none of them. numcodecs and Zarr find the
codecs through entry points.
"""
