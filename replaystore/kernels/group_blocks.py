"""Decodes the contents of a group: blocks that hold all frames, or single frames."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.kernels.block_decoders import lz4_prefix, zstd_frame
from replaystore.kernels.compiled import inlined, kernel
from replaystore.kernels.filters import (
    FRAME_BLOCK,
    FRAME_PACKED,
    FRAME_PACKED_ALONE,
    FRAME_POINTS8,
    FRAME_POINTS16,
    FRAME_RAW,
    FRAME_SPANS,
    add_into,
    undo_filter,
)
from replaystore.kernels.frame_layout import ENTROPY_LZ4, ENTROPY_PACKED, ENTROPY_SPANS, ENTROPY_ZSTD, FrameLayout
from replaystore.kernels.group_request import GroupRequest
from replaystore.kernels.observations import copy_bytes
from replaystore.kernels.octets import MORE_BYTES, OctetLayout, OctetRoom, unpack_octets
from replaystore.kernels.pointers import Int, bytes_at, load_u32
from replaystore.kernels.points import decode_points
from replaystore.kernels.spans import decode_spans
from replaystore.kernels.status import BAD_BLOCK, BAD_LIST, OK

U8 = NDArray[np.uint8]


class Decoders(NamedTuple):
    """What decoding needs besides the bytes, made once for many groups.

    Attributes:
        zstd: a decoder for zstd, or 0.
        octets: layout of packed frames.
        room: memory for unpacking one.
    """

    zstd: Int
    octets: OctetLayout
    room: OctetRoom


@kernel
def decode_block(entropy: Int, context: Int, source: Int, size: Int, target: Int, wanted: Int, capacity: Int) -> Any:
    """Decodes a block as far as it is needed.

    Args:
        entropy: one of the `ENTROPY_` constants.
        context: a decoder for zstd.
        source: address of the block.
        size: bytes of the block.
        target: address for the decoded bytes.
        wanted: decoded bytes that are needed.
        capacity: decoded bytes of the whole block.

    Returns:
        Whether at least `wanted` bytes were decoded.
    """
    if size >= 1 << 31 or capacity >= 1 << 31:
        return False
    if entropy == ENTROPY_ZSTD:
        return zstd_frame(context, target, capacity, source, size) == capacity
    if entropy not in (ENTROPY_LZ4, ENTROPY_SPANS, ENTROPY_PACKED):
        return False
    return lz4_prefix(source, target, np.int32(size), np.int32(wanted), np.int32(capacity)) >= wanted


@inlined
def listed_frame(
    request: GroupRequest, g: Int, place: Int, layout: FrameLayout, decoders: Decoders, current: U8, spare: U8
) -> Any:
    """Turns the reference of a frame of a group in form 4 into the frame.

    Args:
        request: the groups.
        g: which group.
        place: which frame, in decoding order.
        layout: layout of all groups.
        decoders: what decoding needs.
        current: uint8 (frame bytes,), in a slot. It holds the reference, and afterwards the frame.
        spare: uint8 (frame bytes,), overwritten.

    Returns:
        `OK`, or the status of the failure.
    """
    group, length = request.places[g], request.lengths[g]
    frame_bytes = current.size
    ends = 4 * request.num_rows[g]
    if length < ends:
        return BAD_LIST
    start = np.int64(load_u32(group + 4 * (place - 1))) if place > 0 else np.int64(0)
    stop = np.int64(load_u32(group + 4 * place))
    if start >= stop or ends + stop > length:
        return BAD_LIST
    at = group + ends + start
    kind = np.int64(bytes_at(at, 1)[0])
    at += 1
    size = stop - start - 1
    if kind == FRAME_RAW:
        if size != frame_bytes:
            return BAD_LIST
        copy_bytes(bytes_at(at, size), current)
        return OK
    if kind == FRAME_BLOCK:
        if not decode_block(
            layout.entropy, decoders.zstd, at, size, np.int64(spare.ctypes.data), frame_bytes, frame_bytes
        ):
            return BAD_BLOCK
        if place == 0:
            copy_bytes(spare, current)
            undo_filter(current, layout.keyframe_filter, layout.filter_pixels, layout.filter_channels)
        else:
            add_into(current, spare)
        return OK
    if place == 0 or kind == FRAME_PACKED_ALONE:
        for i in range(frame_bytes):
            current[i] = 0
    if kind in (FRAME_PACKED, FRAME_PACKED_ALONE):
        if layout.entropy != ENTROPY_PACKED or ends + stop + MORE_BYTES > length:
            return BAD_LIST
        target = np.int64(current.ctypes.data)
        alone = kind == FRAME_PACKED_ALONE
        return OK if unpack_octets(at, size, target, alone, decoders.octets, decoders.room) else BAD_LIST
    status = -1
    if kind == FRAME_SPANS:
        status = decode_spans(at, size, np.int64(current.ctypes.data), frame_bytes)
    elif kind in (FRAME_POINTS8, FRAME_POINTS16):
        status = decode_points(bytes_at(at, size), current, layout.points_width, kind == FRAME_POINTS16)
    return OK if status == 0 else BAD_LIST


@inlined
def decode_blocks(
    request: GroupRequest, g: Int, middle: Int, frames_ahead: Int, frames_behind: Int, layout: FrameLayout,
    context: Int, target: Int,
) -> Any:  # fmt: skip
    """Decodes the one or two blocks of a group as far as needed, each frame to its place.

    Args:
        request: the groups.
        g: which group.
        middle: row of the keyframe in the group.
        frames_ahead: how many frames are needed from the keyframe on.
        frames_behind: how many frames before the keyframe are needed.
        layout: layout of all groups.
        context: a decoder for zstd.
        target: address of the first frame.

    Returns:
        Whether the blocks decode to these frames.
    """
    group, length, num_rows = request.places[g], request.lengths[g], request.num_rows[g]
    frame_bytes = layout.frame_bytes
    entropy = layout.entropy
    if middle == 0:
        return decode_block(entropy, context, group, length, target, frames_ahead * frame_bytes, num_rows * frame_bytes)
    if length < 4:
        return False
    size = np.int64(load_u32(group))
    if 4 + size > length:
        return False
    room = (num_rows - middle) * frame_bytes
    if not decode_block(entropy, context, group + 4, size, target, frames_ahead * frame_bytes, room):
        return False
    return frames_behind == 0 or decode_block(
        entropy,
        context,
        group + 4 + size,
        length - 4 - size,
        target + room,
        frames_behind * frame_bytes,
        middle * frame_bytes,
    )
