"""Writing decoded frames into observations: channel order, color transform and stacking in one pass."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


@njit(cache=True, nogil=True)
def _copy(source: U8, target: U8) -> None:
    for i in range(target.size):
        target[i] = source[i]


@njit(cache=True, nogil=True)
def _copy_strided(source: U8, source_step: int, target: U8, target_step: int, count: int) -> None:
    # Slices that start at 0 and constant strides let the compiler shuffle whole vectors.
    if source_step == 1 and target_step == 1:
        _copy(source, target[:count])
    elif source_step == 3 and target_step == 1:
        for i in range(count):
            target[i] = source[3 * i]
    else:
        for i in range(count):
            target[i * target_step] = source[i * source_step]


@njit(cache=True, nogil=True)
def _add_strided(green: U8, target: U8, step: int, count: int) -> None:
    if step == 1:
        for i in range(count):
            target[i] = np.uint8(target[i] + green[i])
    else:
        for i in range(count):
            target[i * step] = np.uint8(target[i * step] + green[i * step])


@njit(cache=True, nogil=True)
def emit_frames(
    frames: U8,
    sources: I64,
    targets: I64,
    slots: I64,
    pixels: int,
    channels: int,
    source_last: bool,
    add_green: bool,
    target_last: bool,
    depth: int,
    out: U8,
) -> int:
    """Copies payload frames into stacked observations. Returns 0, or -1 for an index outside a buffer.

    frames: uint8 (k, pixels * channels), channels last if `source_last`, else planar; with `add_green`, R and B are
    given minus G. For each j, frame `sources[j]` becomes the `slots[j]`-th of the `depth` frames of observation
    `targets[j]` of out: uint8 (batch, depth * pixels * channels), channels last (each pixel's frames together) if
    `target_last`, else planar, frame after frame.
    """
    size = pixels * channels
    if frames.shape[1] != size or out.shape[1] != depth * size:
        return -1
    source_step = channels if source_last else 1
    source_plane = 1 if source_last else pixels
    target_step = channels * depth if target_last else 1
    target_plane = 1 if target_last else pixels
    for j in range(sources.size):
        if sources[j] < 0 or sources[j] >= frames.shape[0] or targets[j] < 0 or targets[j] >= out.shape[0]:
            return -1
        if slots[j] < 0 or slots[j] >= depth:
            return -1
        source = frames[sources[j]]
        target = out[targets[j]]
        start = slots[j] * (channels if target_last else size)
        if source_step == target_step and source_plane == target_plane:
            _copy(source, target[start : start + size])
        else:
            for c in range(channels):
                _copy_strided(
                    source[c * source_plane :], source_step, target[start + c * target_plane :], target_step, pixels
                )
        if add_green and channels == 3:
            green = target[start + target_plane :]
            _add_strided(green, target[start:], target_step, pixels)
            _add_strided(green, target[start + 2 * target_plane :], target_step, pixels)
    return 0
