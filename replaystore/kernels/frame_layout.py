"""How the groups of a chunk are encoded, and how the frames of an observation are arranged."""

from __future__ import annotations

from typing import NamedTuple

from replaystore.kernels.observations import PixelLayout

FORM_RAW, FORM_DELTA, FORM_BLOCK, FORM_RAW_BLOCK, FORM_LIST = 0, 1, 2, 3, 4
ENTROPY_NONE, ENTROPY_LZ4, ENTROPY_ZSTD, ENTROPY_SPANS, ENTROPY_POINTS = 0, 1, 2, 3, 4
ENTROPY_PACKED = 5


class FrameLayout(NamedTuple):
    """The encoding of every group of a chunk, from its header, and the channel order of observations.

    Attributes:
        frame_bytes: bytes of a frame.
        reference: one of the `REFERENCE_` constants.
        entropy: one of the `ENTROPY_` constants.
        keyframe_filter: one of the `FILTER_` constants.
        filter_pixels: pixels per row of a frame, for that filter.
        filter_channels: bytes per pixel, for that filter.
        points_width: columns of a frame, for points.
        pixels: arrangement of the pixels of frames and observations.
    """

    frame_bytes: int
    reference: int
    entropy: int
    keyframe_filter: int
    filter_pixels: int
    filter_channels: int
    points_width: int
    pixels: PixelLayout
