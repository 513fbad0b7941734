"""Frame differences: all arithmetic on pixels is modulo 256, on flat uint8 frames.

A payload frame is seen as (rows, pixels, channels) for the keyframe filters; for planar frames `channels` is 1.
Every kernel that reads encoded bytes checks each offset against the buffer and answers -1 for what does not fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

U8 = NDArray[np.uint8]

FILTER_NONE, FILTER_LEFT, FILTER_UP = 0, 1, 2
REFERENCE_KEYFRAME, REFERENCE_PREVIOUS = 0, 1
FRAME_RAW, FRAME_BLOCK, FRAME_SPANS, FRAME_POINTS8, FRAME_POINTS16 = 0, 1, 2, 3, 4

_MAX_SKIP = 0xFFFF
_MAX_SPAN = 0xFF
_SPAN_HEADER = 3


@njit(cache=True, nogil=True)
def add_into(target: U8, reference: U8) -> None:
    """target += reference (mod 256); both uint8 (n,)."""
    for i in range(target.size):
        target[i] = np.uint8(target[i] + reference[i])


@njit(cache=True, nogil=True)
def undo_filter(frame: U8, keyframe_filter: int, pixels: int, channels: int) -> None:
    """Undoes a keyframe filter in place. frame: uint8 (rows * pixels * channels,)."""
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


@njit(cache=True, nogil=True)
def undo_differences(
    frames: U8, first: int, last: int, reference: int, keyframe_filter: int, pixels: int, channels: int
) -> None:
    """Turns a group of differences into frames, in place, as far as rows `first` to `last` need it.

    frames: uint8 (group rows, frame bytes); row 0 is the filtered keyframe. With reference `previous` rows 0 to
    `last` become frames, with reference `keyframe` row 0 and rows `first` to `last`.
    """
    undo_filter(frames[0], keyframe_filter, pixels, channels)
    if reference == REFERENCE_PREVIOUS:
        for k in range(1, last + 1):
            add_into(frames[k], frames[k - 1])
    else:
        for k in range(max(first, 1), last + 1):
            add_into(frames[k], frames[0])


@njit(cache=True, nogil=True)
def encode_spans(frame: U8, reference: U8, out: U8) -> int:
    """Spans of `frame` that differ from `reference`: (u16 skip, u8 length, new bytes). Returns bytes written, or -1.

    frame, reference: uint8 (n,). out: uint8 buffer; -1 says that the spans do not fit into it. Gaps of at most the
    three bytes that a new span would cost are written through.
    """
    n = frame.size
    at = 0
    end = 0  # where the previous span ended
    i = 0
    while i < n:
        if frame[i] == reference[i]:
            i += 1
            continue
        start = i
        stop = i + 1
        j = stop
        while j < n and j - start < _MAX_SPAN and j - stop <= _SPAN_HEADER:
            if frame[j] != reference[j]:
                stop = j + 1
            j += 1
        skip = start - end
        while skip > _MAX_SKIP:
            if at + _SPAN_HEADER > out.size:
                return -1
            out[at] = 0xFF
            out[at + 1] = 0xFF
            out[at + 2] = 0
            at += _SPAN_HEADER
            skip -= _MAX_SKIP
        if at + _SPAN_HEADER + stop - start > out.size:
            return -1
        out[at] = skip & 0xFF
        out[at + 1] = skip >> 8
        out[at + 2] = stop - start
        at += _SPAN_HEADER
        for k in range(start, stop):
            out[at] = frame[k]
            at += 1
        end = stop
        i = stop
    return at


@njit(cache=True, nogil=True)
def decode_spans(spans: U8, frame: U8) -> int:
    """Writes spans over `frame`, which holds the reference. Returns 0, or -1 where they leave a buffer."""
    at = np.int64(0)
    pixel = np.int64(0)
    while at < spans.size:
        if at + _SPAN_HEADER > spans.size:
            return -1
        pixel += np.int64(spans[at]) | (np.int64(spans[at + 1]) << 8)
        length = np.int64(spans[at + 2])
        at += _SPAN_HEADER
        if at + length > spans.size or pixel + length > frame.size:
            return -1
        for k in range(length):
            frame[pixel + k] = spans[at + k]
        at += length
        pixel += length
    return 0


@njit(cache=True, nogil=True)
def encode_points(frame: U8, reference: U8, width: int, wide: bool, out: U8) -> int:
    """The published scheme: (row, column, int16 difference) of each changed pixel. Returns bytes written, or -1.

    frame, reference: uint8 (n,), seen as (n // width, width); row and column are u8, or u16 where `wide`.
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


@njit(cache=True, nogil=True)
def decode_points(points: U8, frame: U8, width: int, wide: bool) -> int:
    """Adds points to `frame`, which holds the reference. Returns 0, or -1 where they leave a buffer or the range."""
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


@njit(cache=True, nogil=True)
def decode_listed_frame(group: U8, num_rows: int, k: int, reference: int, frames: U8, width: int) -> Any:
    """One frame of a group in form 4, unless it is a compressed block. Returns its kind, or -1 for damage.

    group: uint8, the list of end offsets and the frames. frames: uint8 (num_rows, frame bytes); frame k is written,
    its reference (frame 0, or k - 1) must stand there. Kind `FRAME_BLOCK` is left to the caller.
    """
    ends = 4 * num_rows
    if group.size < ends or k >= num_rows:
        return -1
    start = np.int64(0)
    if k > 0:
        start = _u32(group, 4 * (k - 1))
    stop = _u32(group, 4 * k)
    if start >= stop or ends + stop > group.size:
        return -1
    kind = np.int64(group[ends + start])
    body = group[ends + start + 1 : ends + stop]
    frame = frames[k]
    if kind == FRAME_RAW:
        if body.size != frame.size:
            return -1
        for i in range(frame.size):
            frame[i] = body[i]
        return kind
    if kind == FRAME_BLOCK:
        return kind
    if kind > FRAME_POINTS16:
        return -1
    if k == 0:
        for i in range(frame.size):
            frame[i] = 0
    else:
        source = frames[k - 1] if reference == REFERENCE_PREVIOUS else frames[0]
        for i in range(frame.size):
            frame[i] = source[i]
    if kind == FRAME_SPANS:
        status = decode_spans(body, frame)
    else:
        status = decode_points(body, frame, width, kind == FRAME_POINTS16)
    return kind if status == 0 else -1


@njit(cache=True, nogil=True)
def _u32(buffer: U8, at: int) -> Any:
    return (
        np.int64(buffer[at])
        | (np.int64(buffer[at + 1]) << 8)
        | (np.int64(buffer[at + 2]) << 16)
        | (np.int64(buffer[at + 3]) << 24)
    )
