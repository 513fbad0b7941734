"""Decoding groups of frames into observations: one call for all groups that a thread needs of a batch.

Groups are found by address, so they may lie in any number of buffers. What their bytes say is not trusted: every
offset is checked, and a group that does not decode to its frames ends the call with its number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.kernels.block_decoders import lz4_prefix, zstd_create, zstd_frame, zstd_free
from replaystore.kernels.compiled import inlined, kernel
from replaystore.kernels.filters import (
    FRAME_BLOCK,
    FRAME_POINTS8,
    FRAME_POINTS16,
    FRAME_RAW,
    FRAME_SPANS,
    REFERENCE_INWARD,
    REFERENCE_KEYFRAME,
    add_into,
    undo_filter,
)
from replaystore.kernels.observations import copy_bytes, emit_frame
from replaystore.kernels.pointers import Int, bytes_at, load_u32
from replaystore.kernels.points import decode_points
from replaystore.kernels.spans import decode_spans

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

FORM_RAW, FORM_DELTA, FORM_BLOCK, FORM_RAW_BLOCK, FORM_LIST = 0, 1, 2, 3, 4
ENTROPY_NONE, ENTROPY_LZ4, ENTROPY_ZSTD, ENTROPY_SPANS, ENTROPY_POINTS = 0, 1, 2, 3, 4

# Why a group did not decode.
BAD_LENGTH, BAD_BLOCK, BAD_LIST, BAD_INDEX = 1, 2, 3, 4

# Entries of a layout: what the header of a chunk says of every group, and where observations have their channels.
_FRAME, _REFERENCE, _ENTROPY, _FILTER, _FILTER_PIXELS, _FILTER_CHANNELS, _POINTS_WIDTH = 0, 1, 2, 3, 4, 5, 6
_PIXELS, _CHANNELS, _SOURCE_LAST, _ADD_GREEN, _TARGET_LAST = 7, 8, 9, 10, 11


@kernel
def decode_block(entropy: Int, context: Int, source: Int, size: Int, target: Int, wanted: Int, capacity: Int) -> Any:
    """Whether at least `wanted` bytes of a block were decoded."""
    if size >= 1 << 31 or capacity >= 1 << 31:
        return False
    if entropy == ENTROPY_ZSTD:
        return zstd_frame(context, target, capacity, source, size) == capacity
    if entropy != ENTROPY_LZ4 and entropy != ENTROPY_SPANS:
        return False
    return lz4_prefix(source, target, np.int32(size), np.int32(wanted), np.int32(capacity)) >= wanted


@inlined
def _listed_frame(
    group: Int, length: Int, num_rows: Int, k: Int, layout: I64, context: Int, current: U8, spare: U8
) -> Any:
    """Turns `current`, the reference of the frame at place k of a group in form 4, into it. Returns 0 or why not."""
    frame_bytes = current.size
    ends = 4 * num_rows
    if length < ends:
        return BAD_LIST
    start = np.int64(load_u32(group + 4 * (k - 1))) if k > 0 else np.int64(0)
    stop = np.int64(load_u32(group + 4 * k))
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
        return 0
    if kind == FRAME_BLOCK:
        if not decode_block(layout[_ENTROPY], context, at, size, np.int64(spare.ctypes.data), frame_bytes, frame_bytes):
            return BAD_BLOCK
        if k == 0:
            copy_bytes(spare, current)
            undo_filter(current, layout[_FILTER], layout[_FILTER_PIXELS], layout[_FILTER_CHANNELS])
        else:
            add_into(current, spare)
        return 0
    if k == 0:
        for i in range(frame_bytes):
            current[i] = 0
    status = -1
    if kind == FRAME_SPANS:
        status = decode_spans(at, size, np.int64(current.ctypes.data), frame_bytes)
    elif kind in (FRAME_POINTS8, FRAME_POINTS16):
        status = decode_points(bytes_at(at, size), current, layout[_POINTS_WIDTH], kind == FRAME_POINTS16)
    return 0 if status == 0 else BAD_LIST


@inlined
def _decode_blocks(
    group: Int, length: Int, num_rows: Int, middle: Int, ahead: Int, behind: Int, layout: I64, context: Int, target: Int
) -> Any:
    """Decodes the block, or the two, of a group as far as needed, to where each frame has its place."""
    frame_bytes = layout[_FRAME]
    entropy = layout[_ENTROPY]
    if middle == 0:
        return decode_block(entropy, context, group, length, target, ahead * frame_bytes, num_rows * frame_bytes)
    if length < 4:
        return False
    size = np.int64(load_u32(group))
    if 4 + size > length:
        return False
    room = (num_rows - middle) * frame_bytes
    if not decode_block(entropy, context, group + 4, size, target, ahead * frame_bytes, room):
        return False
    return behind == 0 or decode_block(
        entropy, context, group + 4 + size, length - 4 - size, target + room, behind * frame_bytes, middle * frame_bytes
    )


@inlined
def _decode_group(
    group: Int, length: Int, form: Int, num_rows: Int, local: I64, start: Int, stop: Int, targets: I64, slots: I64,
    depth: Int, layout: I64, context: Int, scratch: U8, out: U8,
) -> Any:  # fmt: skip
    """Decodes the frames wanted of a group and writes them into observations. Returns 0 or why not.

    Frames stand in the order in which they are decoded: the keyframe and those after it, then those before it, going
    back. What is done with a frame stands here once, and functions with one caller are inlined before they are
    compiled: the compiler spends its time on every copy of a loop over pixels, and again in every function around it.
    """
    frame_bytes = layout[_FRAME]
    current = scratch[:frame_bytes]
    spare = scratch[frame_bytes : 2 * frame_bytes]
    keyframe = scratch[2 * frame_bytes : 3 * frame_bytes]
    by_keyframe = layout[_REFERENCE] == REFERENCE_KEYFRAME
    middle = num_rows // 2 if layout[_REFERENCE] == REFERENCE_INWARD else np.int64(0)
    is_plain = form in (FORM_RAW, FORM_RAW_BLOCK)
    from_keyframe = start  # the first entry from the keyframe on
    while from_keyframe < stop and local[from_keyframe] < middle:
        from_keyframe += 1
    ahead = local[stop - 1] - middle + 1 if from_keyframe < stop else np.int64(1)
    behind = middle - local[start] if from_keyframe > start else np.int64(0)

    source = group
    if form in (FORM_RAW, FORM_DELTA):
        if length != num_rows * frame_bytes:
            return BAD_LENGTH
    elif form != FORM_LIST:
        source = np.int64(scratch.ctypes.data) + 3 * frame_bytes
        if not _decode_blocks(group, length, num_rows, middle, ahead, behind, layout, context, source):
            return BAD_BLOCK

    j = from_keyframe
    for number in range(ahead + behind):
        if number < ahead:
            place, row, step = number, middle + number, 1
        else:
            row = middle - 1 - (number - ahead)
            place, step = num_rows - 1 - row, -1
            if number == ahead:
                j = from_keyframe - 1
        is_wanted = start <= j < stop and local[j] == row
        if (by_keyframe or is_plain) and number > 0 and not is_wanted:
            continue  # no other frame needs it
        frame = bytes_at(source + place * frame_bytes, frame_bytes)
        if not is_plain:
            if number > 0 and (by_keyframe or number == ahead):
                copy_bytes(keyframe, current)
            if form == FORM_LIST:
                status = _listed_frame(group, length, num_rows, place, layout, context, current, spare)
                if status != 0:
                    return status
            elif place > 0:
                add_into(current, frame)
            else:
                copy_bytes(frame, current)
                undo_filter(current, layout[_FILTER], layout[_FILTER_PIXELS], layout[_FILTER_CHANNELS])
            if number == 0 and (by_keyframe or behind > 0):
                copy_bytes(current, keyframe)
            frame = bytes_at(current.ctypes.data, frame_bytes)
        while start <= j < stop and local[j] == row:
            emit_frame(
                frame, out[targets[j]], slots[j], depth, layout[_PIXELS], layout[_CHANNELS], layout[_SOURCE_LAST] != 0,
                layout[_ADD_GREEN] != 0, layout[_TARGET_LAST] != 0,
            )  # fmt: skip
            j += step
    return 0


@kernel
def decode_groups(
    addresses: I64, lengths: I64, forms: I64, num_rows: I64, bounds: I64, local: I64, targets: I64, slots: I64,
    depth: Int, layout: I64, interval: Int, out: U8,
) -> Any:  # fmt: skip
    """Decodes frames of many groups into observations.

    Args:
        addresses, lengths, forms, num_rows: int64 (groups,); `addresses[g]` holds `lengths[g]` bytes.
        bounds: int64 (groups + 1,); group g gives the entries from `bounds[g]` to `bounds[g + 1]`, at least one.
        local, targets, slots: int64 (entries,); frame `local[j]` of its group, ascending in each group, becomes the
            `slots[j]`-th of the `depth` frames of out[targets[j]].
        layout: int64 (12,), see above.
        interval: most rows in a group.
        out: uint8 (batch, depth * frame bytes).

    Returns:
        -1; or 8 * g + why, for the first group g that is damaged.
    """
    frame_bytes = layout[_FRAME]
    if out.shape[1] != depth * frame_bytes or layout[_PIXELS] * layout[_CHANNELS] != frame_bytes:
        return np.int64(BAD_INDEX)
    scratch = np.empty((interval + 3) * frame_bytes + 64, np.uint8)
    context = zstd_create() if layout[_ENTROPY] == ENTROPY_ZSTD else np.int64(0)
    failed = np.int64(-1)
    for g in range(addresses.size):
        status = 0
        if num_rows[g] < 1 or num_rows[g] > interval or bounds[g] >= bounds[g + 1]:
            status = BAD_INDEX
        for j in range(bounds[g], bounds[g + 1]):
            below = local[j - 1] if j > bounds[g] else np.int64(0)
            if local[j] < below or local[j] >= num_rows[g] or targets[j] < 0 or targets[j] >= out.shape[0]:
                status = BAD_INDEX
            if slots[j] < 0 or slots[j] >= depth:
                status = BAD_INDEX
        if status == 0:
            status = _decode_group(
                addresses[g], lengths[g], forms[g], num_rows[g], local, bounds[g], bounds[g + 1], targets, slots, depth,
                layout, context, scratch, out,
            )  # fmt: skip
        if status != 0:
            failed = np.int64(8 * g + status)
            break
    if context != 0:
        zstd_free(context)
    return failed
