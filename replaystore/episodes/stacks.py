"""Converts frame stacks to frames and back. Each frame is stored once, and a stack is a window over frames."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from replaystore.errors import EpisodeError
from replaystore.spec import FieldSpec

Array = npt.NDArray[Any]
U8 = npt.NDArray[np.uint8]

_COMPARE_BYTES = 1 << 20  # compared at a time, so that the temporary stays in the cache


class Padding(NamedTuple):
    """How the first stacks of an episode can be read.

    Attributes:
        repeat: the first frame is repeated.
        zeros: zeros come before the first frame.
    """

    repeat: bool
    zeros: bool


def by_frame(spec: FieldSpec, stacks: Array) -> Array:
    """Returns a view of stacks, (rows, *stacked_shape), as (rows, frame_stack, *shape), oldest frame first."""
    rows, stack = len(stacks), spec.frame_stack
    if spec.channels == "last":
        height, width, *channels = spec.shape
        return np.moveaxis(stacks.reshape(rows, height, width, stack, *channels), 3, 1)
    return stacks.reshape(rows, stack, *spec.shape)


def first_padding(stack: Array) -> Padding:
    """Returns the paddings that an episode's first stack, (frame_stack, *shape), allows.

    Neither if it holds other frames.
    """
    if len(stack) == 1:
        return Padding(repeat=True, zeros=True)
    older = stack[:-1]
    return Padding(repeat=bool((older == stack[-1]).all()), zeros=not older.any())


def copy_frames(spec: FieldSpec, frames: Array, out: Array) -> None:
    """Copies `frames` into `out`, both (..., *shape).

    It copies channel by channel if the pixels of a frame are interleaved with those of the stack's other frames. That
    is faster than a loop over the few bytes of each pixel.
    """
    if spec.channels == "last" and len(spec.shape) == 3 and not frames.flags.c_contiguous:
        for channel in range(spec.shape[2]):
            out[..., channel] = frames[..., channel]
    else:
        out[...] = frames


class StackOrder:
    """Finds stacks that do not continue the stacks before them.

    It compares whole stacks byte by byte, without a loop over pixels. A byte of an older frame sits at a fixed distance
    from the same byte in the stack before.

    Args:
        spec: an image field with a frame stack of at least 2.
    """

    def __init__(self, spec: FieldSpec) -> None:
        self._shift = math.prod(spec.shape)
        self._older: U8 | None = None  # 255 for bytes of older frames; None: all but the last frame
        if spec.channels == "last":
            self._shift = math.prod(spec.shape[2:])
            pixels = math.prod(spec.shape[:2])
            pattern = np.full((spec.frame_stack, self._shift), 255, np.uint8)
            pattern[-1] = 0
            self._older = np.tile(pattern.reshape(-1), pixels)[: -self._shift]

    def breaks(self, before: U8, stacks: U8) -> npt.NDArray[np.bool_]:
        """Whether the older frames of each stack differ from the newest frames of the stack before it.

        Args:
            before: uint8 (rows, bytes per stack), the stacks before.
            stacks: uint8 (rows, bytes per stack).

        Returns:
            bool (rows,).
        """
        differs: U8 = np.bitwise_xor(stacks[:, : -self._shift], before[:, self._shift :])
        if self._older is not None:
            np.bitwise_and(differs, self._older, out=differs)
        return np.asarray(differs.any(axis=1))


def split_stacks(spec: FieldSpec, stacks: Array, where: str) -> tuple[Array, Padding]:
    """Returns the newest frame of each stack, and the paddings that the first stack allows.

    See `frames_from_stacks` for arguments and errors.
    """
    windows = by_frame(spec, stacks)
    newest = windows[:, -1]
    if newest.flags.c_contiguous:
        frames = newest
    else:
        frames = np.empty(newest.shape, newest.dtype)
        copy_frames(spec, newest, frames)
    padding = first_padding(windows[0])
    if not any(padding):
        raise foreign_first_stack(spec, where)
    if spec.frame_stack > 1 and len(stacks) > 1:
        order, flat = StackOrder(spec), stacks.reshape(len(stacks), -1)
        rows_at_once = max(1, _COMPARE_BYTES // max(1, flat.shape[1]))
        for start in range(1, len(flat), rows_at_once):
            stop = min(start + rows_at_once, len(flat))
            breaks = order.breaks(flat[start - 1 : stop - 1], flat[start:stop])
            if breaks.any():
                raise broken_stack(spec, where, start + int(np.flatnonzero(breaks)[0]))
    return frames, padding


def foreign_first_stack(spec: FieldSpec, where: str) -> EpisodeError:
    """Returns the error for a first stack that holds frames from before its episode."""
    return EpisodeError(
        f"field {spec.name!r}, {where}, row 0: expected a stack of the first frame {spec.frame_stack} times, or of"
        " zeros before it, got other frames; start the episode at a reset, or give single frames of shape"
        f" {spec.shape}"
    )


def broken_stack(spec: FieldSpec, where: str, row: int) -> EpisodeError:
    """Returns the error for a stack whose older frames differ from the frames of the rows before it."""
    return EpisodeError(
        f"field {spec.name!r}, {where}, row {row}: expected the older {spec.frame_stack - 1} frames of the stack to be"
        " the newest of the rows before it, oldest first, got other frames; check frame_stack and channels,"
        f" or give single frames of shape {spec.shape}"
    )


def frames_from_stacks(spec: FieldSpec, stacks: Array, where: str) -> tuple[Array, bool]:
    """Splits an episode's frame stacks into frames.

    Args:
        spec: an image field.
        stacks: (rows, *stacked_shape) uint8, at least one row, from the episode's first row on.
        where: place to name in errors, such as `"episode 12"`.

    Returns:
        (frames, zero_padding). `frames` holds the newest frame of each row: (rows, *shape), C-contiguous, possibly a
            view. `zero_padding` says whether the first stacks hold zeros before the first frame. It is False if the
            first frame itself is all zeros.

    Raises:
        EpisodeError: an older frame of a stack differs from the frame of the earlier row, or the first stack is padded
            neither with the first frame nor with zeros.
    """
    frames, padding = split_stacks(spec, stacks, where)
    return frames, not padding.repeat


def stacks_from_frames(spec: FieldSpec, frames: Array, zero_padding: bool) -> Array:
    """Builds an episode's frame stacks. It is the inverse of `frames_from_stacks`.

    Args:
        spec: an image field.
        frames: (rows, *shape), at least one row, from the episode's first row on.
        zero_padding: whether zeros come before the first frame, instead of that frame repeated.

    Returns:
        (rows, *stacked_shape), C-contiguous.
    """
    before = np.zeros_like(frames[0]) if zero_padding else frames[0]
    lead = np.broadcast_to(before, (spec.frame_stack - 1, *spec.shape))
    return stacks_after(spec, np.concatenate([lead, frames]))


def stacks_after(spec: FieldSpec, frames: Array) -> Array:
    """Returns the stacks of all frames after the first `frame_stack - 1`.

    Those only complete the stacks of later frames.

    Args:
        spec: an image field.
        frames: (frame_stack - 1 + rows, *shape).

    Returns:
        (rows, *stacked_shape), C-contiguous.
    """
    if spec.frame_stack == 1:
        return np.ascontiguousarray(frames)
    rows = len(frames) - spec.frame_stack + 1
    stacks = np.empty((rows, *spec.stacked_shape), frames.dtype)
    windows = by_frame(spec, stacks)
    for k in range(spec.frame_stack):
        windows[:, k] = frames[k : k + rows]
    return stacks
