"""Keyframe filters and sums of frames, on flat uint8 frames. Arithmetic on pixels is modulo 256."""

from __future__ import annotations

import numpy as np

from replaystore.kernels.compiled import kernel
from replaystore.kernels.pointers import Int
from replaystore.kernels.spans import U8

FILTER_NONE, FILTER_LEFT, FILTER_UP = 0, 1, 2
REFERENCE_KEYFRAME, REFERENCE_PREVIOUS, REFERENCE_INWARD = 0, 1, 2
FRAME_RAW, FRAME_BLOCK, FRAME_SPANS, FRAME_POINTS8, FRAME_POINTS16 = 0, 1, 2, 3, 4
FRAME_PACKED, FRAME_PACKED_ALONE = 5, 6


@kernel
def add_into(target: U8, reference: U8) -> None:
    """Adds `reference` to `target`, modulo 256. Both are uint8 (n,)."""
    for i in range(target.size):
        target[i] = np.uint8(target[i] + reference[i])


@kernel
def undo_filter(frame: U8, keyframe_filter: Int, pixels: Int, channels: Int) -> None:
    """Undoes a keyframe filter in place, on a uint8 frame (rows * pixels * channels,)."""
    width = pixels * channels
    if keyframe_filter == FILTER_LEFT:
        for row in range(0, frame.size, width):
            for i in range(row + channels, row + width):
                frame[i] = np.uint8(frame[i] + frame[i - channels])
    elif keyframe_filter == FILTER_UP:
        for row in range(width, frame.size, width):
            above = frame[row - width : row]
            here = frame[row : row + width]
            for i in range(width):
                here[i] = np.uint8(here[i] + above[i])
