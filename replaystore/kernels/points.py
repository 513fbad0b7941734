"""Encodes and decodes differences in the published form: index pairs and values."""

from __future__ import annotations

from typing import Any

import numpy as np

from replaystore.kernels.compiled import kernel
from replaystore.kernels.pointers import Int
from replaystore.kernels.spans import U8


@kernel
def encode_points(frame: U8, reference: U8, width: int, wide: bool, out: U8) -> int:
    """Encodes each changed pixel as (row, column, int16 difference). Returns the bytes written, or -1.

    `frame` and `reference` are uint8 (n,), seen as (n // width, width). Rows and columns are u8, or u16 with `wide`.
    """
    step = 6 if wide else 4
    at = 0
    for i in range(frame.size):
        if frame[i] == reference[i]:
            continue
        if at + step > out.size:
            return -1
        row = i // width
        column = i - row * width
        difference = (np.int64(frame[i]) - np.int64(reference[i])) & 0xFFFF
        if wide:
            out[at] = row & 0xFF
            out[at + 1] = row >> 8
            out[at + 2] = column & 0xFF
            out[at + 3] = column >> 8
        else:
            out[at] = row
            out[at + 1] = column
        out[at + step - 2] = difference & 0xFF
        out[at + step - 1] = difference >> 8
        at += step
    return at


@kernel
def decode_points(points: U8, frame: U8, width: Int, wide: Any) -> int:
    """Adds points to `frame`, which holds the reference. Returns 0, or -1 if one leaves a buffer or the range."""
    step = 6 if wide else 4
    if points.size % step != 0:
        return -1
    for at in range(0, points.size, step):
        if wide:
            row = np.int64(points[at]) | (np.int64(points[at + 1]) << 8)
            column = np.int64(points[at + 2]) | (np.int64(points[at + 3]) << 8)
        else:
            row = np.int64(points[at])
            column = np.int64(points[at + 1])
        pixel = row * width + column
        if column >= width or pixel >= frame.size:
            return -1
        difference = np.int64(points[at + step - 2]) | (np.int64(points[at + step - 1]) << 8)
        value = np.int64(frame[pixel]) + difference - ((difference >> 15) << 16)
        if value < 0 or value > 255:
            return -1
        frame[pixel] = value
    return 0
