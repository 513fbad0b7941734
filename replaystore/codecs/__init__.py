"""Codecs for the rows of a field, as numcodecs codecs and for Zarr v3.

`round_clamp.RoundClamp` stores floats rounded and clamped, `frame_delta.FrameDelta` image sequences without loss;
`zarr_v3` wraps both for Zarr format 3 and `formulas` has the sizes that were published. Importing this package
imports none of them; numcodecs and Zarr find the codecs through entry points.
"""
