"""Encodes groups of frames with entropy `packed`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.kernels.compiled import inlined, kernel
from replaystore.kernels.filters import FRAME_PACKED, FRAME_PACKED_ALONE, FRAME_RAW, FRAME_SPANS
from replaystore.kernels.observations import copy_bytes
from replaystore.kernels.octets import (
    MORE_BYTES,
    OctetLayout,
    OctetRoom,
    octet_room,
    pack_octets,
    packed_bytes,
    slot_bytes,
    slot_margin,
)
from replaystore.kernels.pointers import Int, bytes_at, store_u8, store_u32
from replaystore.kernels.spans import encode_spans

U8 = NDArray[np.uint8]

_ALONE_FROM = 3  # packing without a reference is tried from this part of the frame on


@kernel
def packed_group_bytes(num_rows: Int, frame_bytes: Int) -> Any:
    """Returns the bytes that `pack_group` needs as `out`."""
    return num_rows * (5 + frame_bytes) + packed_bytes(frame_bytes) + MORE_BYTES


@inlined
def _pack_frame(frame: Int, reference: Int, layout: OctetLayout, room: OctetRoom, other: U8, out: Int) -> Any:
    """Writes the kind of a frame and its bytes. Returns their number."""
    frame_bytes = layout.frame_bytes
    body = out + 1
    kind = FRAME_PACKED if reference else FRAME_PACKED_ALONE
    size, changed = pack_octets(frame, reference, layout, room, body)
    if reference != 0 and changed < size:  # so many bytes and their heads are the spans
        length = encode_spans(bytes_at(frame, frame_bytes), bytes_at(reference, frame_bytes), other)
        if 0 <= length <= size:
            kind, size = FRAME_SPANS, length
            copy_bytes(other, bytes_at(body, size))
    elif reference != 0 and size * _ALONE_FROM > frame_bytes:
        length, _ = pack_octets(frame, np.int64(0), layout, room, np.int64(other.ctypes.data))
        if length < size:
            kind, size = FRAME_PACKED_ALONE, length
            copy_bytes(other, bytes_at(body, size))
    if size >= frame_bytes:
        kind, size = FRAME_RAW, frame_bytes
        copy_bytes(bytes_at(frame, size), bytes_at(body, size))
    store_u8(out, kind)
    return 1 + size


@kernel
def _pack_frames(
    frames: U8, middle: Int, by_keyframe: bool, layout: OctetLayout, room: OctetRoom, slots: U8, other: U8, out: U8
) -> Any:
    """Writes a group, with memory for three frames in `slots` and for one packed frame in `other`."""
    num_rows, frame_bytes = frames.shape
    step = slot_bytes(layout)
    keyframe = np.int64(slots.ctypes.data) + slot_margin(layout)
    frame = keyframe
    start = np.int64(out.ctypes.data)
    bodies = start + 4 * num_rows
    at = bodies
    for place in range(num_rows):
        row = middle + place if place < num_rows - middle else num_rows - 1 - place
        reference = np.int64(0)
        if place > 0:
            reference = keyframe if by_keyframe or row == middle - 1 else frame
            frame = keyframe + (step if frame != keyframe + step else 2 * step)
        copy_bytes(frames[row], bytes_at(frame, frame_bytes))
        at += _pack_frame(frame, reference, layout, room, other, at)
        store_u32(start + 4 * place, np.uint32(at - bodies))
    for k in range(MORE_BYTES):
        store_u8(at + k, 0)
    return at + MORE_BYTES - start


@kernel
def pack_group(frames: U8, middle: Int, by_keyframe: bool, layout: OctetLayout, out: U8) -> Any:
    """Encodes a group in form 4, and `MORE_BYTES` zeros behind it.

    Each frame takes the smallest of these: spans, octets with a reference or without, raw.

    Args:
        frames: uint8 (rows, frame bytes), C-contiguous, in payload form.
        middle: row of the keyframe.
        by_keyframe: whether the keyframe is the reference of all frames. If not, the neighbour nearer to it is.
        layout: layout of the frames.
        out: uint8 (`packed_group_bytes`,).

    Returns:
        Bytes written.
    """
    slots = np.zeros(3 * slot_bytes(layout), np.uint8)
    other = np.empty(packed_bytes(layout.frame_bytes), np.uint8)
    return _pack_frames(frames, middle, by_keyframe, layout, octet_room(layout), slots, other, out)
