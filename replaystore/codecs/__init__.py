"""Codecs for the rows of a field, for numcodecs and for Zarr format 3.

`round_clamp.RoundClamp` stores floats rounded and clamped. `frame_delta.FrameDelta` stores image sequences without
loss. `zarr_v3` wraps both for Zarr format 3. Importing this package imports none of them. numcodecs and Zarr find the
codecs through entry points.

A codec here is a numcodecs `Codec`: it turns an array into the bytes of a chunk and back. A `RowCodec` in
`replaystore.columns` is the kind of a whole column, and calls a `Codec` where the field has a scheme.
"""
