"""Writes decoded frames into observations: channel order, color transform and stacking in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.kernels.compiled import kernel
from replaystore.kernels.pointers import Int

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


class PixelLayout(NamedTuple):
    """How the pixels of a frame are arranged where it is stored, and in an observation.

    Attributes:
        num_pixels: pixels of a frame.
        num_channels: bytes of a pixel.
        source_last: whether a stored frame has its channels last. If not, it is planar.
        add_green: whether R and B are stored minus G.
        target_last: whether an observation has its channels last. If not, it is planar.
    """

    num_pixels: int
    num_channels: int
    source_last: bool
    add_green: bool
    target_last: bool


@kernel
def copy_bytes(source: U8, target: U8) -> None:
    """Copies as many bytes as `target` has.

    Args:
        source: uint8, at least as long as `target`.
        target: uint8 (n,), filled.
    """
    for i in range(target.size):
        target[i] = source[i]


@kernel
def _planes_of_three(source: U8, red: U8, green: U8, blue: U8, add_green: bool) -> None:
    # Slices that start at 0 and constant strides let the compiler shuffle whole vectors.
    count = green.size
    if add_green:
        for i in range(count):
            g = source[3 * i + 1]
            red[i] = np.uint8(source[3 * i] + g)
            green[i] = g
            blue[i] = np.uint8(source[3 * i + 2] + g)
    else:
        for i in range(count):
            red[i] = source[3 * i]
            green[i] = source[3 * i + 1]
            blue[i] = source[3 * i + 2]


@kernel
def _copy_strided(source: U8, source_step: int, target: U8, target_step: int, count: int) -> None:
    if source_step == 1 and target_step == 1:
        copy_bytes(source, target[:count])
    else:
        for i in range(count):
            target[i * target_step] = source[i * source_step]


@kernel
def _add_strided(green: U8, target: U8, step: int, count: int) -> None:
    if step == 1:
        for i in range(count):
            target[i] = np.uint8(target[i] + green[i])
    else:
        for i in range(count):
            target[i * step] = np.uint8(target[i * step] + green[i * step])


@kernel
def emit_frame(source: U8, target: U8, slot: Int, depth: Int, layout: PixelLayout) -> Any:
    """Writes one stored frame into an observation.

    In an observation with channels last, the frames of each pixel are together. In a planar observation, frame follows
    frame.

    Args:
        source: uint8 (frame bytes,).
        target: uint8 (depth * frame bytes,), the observation.
        slot: which frame of the observation it becomes.
        depth: frames in the observation.
        layout: arrangement of the pixels of both. The arrays must have its sizes.
    """
    pixels, channels = layout.num_pixels, layout.num_channels
    size = pixels * channels
    source_step = channels if layout.source_last else 1
    source_plane = 1 if layout.source_last else pixels
    target_step = channels * depth if layout.target_last else 1
    target_plane = 1 if layout.target_last else pixels
    start = slot * (channels if layout.target_last else size)
    if channels == 3 and layout.source_last and not layout.target_last:
        end = start + pixels
        _planes_of_three(
            source, target[start:end], target[end : end + pixels], target[end + pixels : start + size], layout.add_green
        )
        return
    if source_step == target_step and source_plane == target_plane:
        copy_bytes(source, target[start : start + size])
    else:
        for c in range(channels):
            _copy_strided(
                source[c * source_plane :], source_step, target[start + c * target_plane :], target_step, pixels
            )
    if layout.add_green and channels == 3:
        green = target[start + target_plane :]
        for c in range(0, 3, 2):  # one call: each is a copy of the loop for the compiler
            _add_strided(green, target[start + c * target_plane :], target_step, pixels)


@kernel
def emit_frames(frames: U8, sources: I64, targets: I64, slots: I64, depth: int, layout: PixelLayout, out: U8) -> int:
    """Writes many stored frames into observations.

    Args:
        frames: uint8 (k, frame bytes).
        sources: int64 (n,), positions in `frames`.
        targets: int64 (n,), the observation that each becomes a part of.
        slots: int64 (n,), which frame of the observation it becomes.
        depth: frames in an observation.
        layout: arrangement of the pixels of frames and observations.
        out: uint8 (batch, depth * frame bytes), the observations.

    Returns:
        0, or -1 for an index outside a buffer.
    """
    size = layout.num_pixels * layout.num_channels
    if frames.shape[1] != size or out.shape[1] != depth * size:
        return -1
    for j in range(sources.size):
        if sources[j] < 0 or sources[j] >= frames.shape[0] or targets[j] < 0 or targets[j] >= out.shape[0]:
            return -1
        if slots[j] < 0 or slots[j] >= depth:
            return -1
        emit_frame(frames[sources[j]], out[targets[j]], slots[j], depth, layout)
    return 0
