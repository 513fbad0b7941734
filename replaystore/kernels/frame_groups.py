"""Decodes groups of frames into observations. One call decodes all groups of a batch that a thread needs.

Groups are found by address, so they may lie in any number of buffers. Their bytes are not trusted. Every offset is
checked, and a group that does not decode to its frames ends the call with its number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.kernels.block_decoders import zstd_create, zstd_free
from replaystore.kernels.compiled import inlined, kernel
from replaystore.kernels.filters import REFERENCE_INWARD, REFERENCE_KEYFRAME, add_into, undo_filter
from replaystore.kernels.frame_layout import (
    ENTROPY_ZSTD,
    FORM_DELTA,
    FORM_LIST,
    FORM_RAW,
    FORM_RAW_BLOCK,
    FrameLayout,
)
from replaystore.kernels.group_blocks import Decoders, decode_blocks, listed_frame
from replaystore.kernels.group_request import GroupRequest
from replaystore.kernels.observations import copy_bytes, emit_frame
from replaystore.kernels.octets import octet_layout, octet_room, slot_bytes, slot_margin
from replaystore.kernels.pointers import Int, bytes_at
from replaystore.kernels.status import BAD_BLOCK, BAD_INDEX, BAD_LENGTH, OK

U8 = NDArray[np.uint8]


@inlined
def _decode_group(
    request: GroupRequest, g: Int, depth: Int, layout: FrameLayout, decoders: Decoders, scratch: U8, out: U8
) -> Any:
    """Decodes the requested frames of a group and writes them into observations.

    Frames are in decoding order: the keyframe, the frames after it, and then the frames before it, going back. The
    steps for a frame appear here once, and functions with one caller are inlined before they are compiled. Otherwise
    the compiler would spend time on every copy of a loop over pixels, and again in every function around it.

    Args:
        request: the groups.
        g: which group.
        depth: frames in an observation.
        layout: layout of all groups.
        decoders: what decoding needs.
        scratch: uint8, three slots, and room for all frames of the group.
        out: uint8 (batch, depth * frame bytes), the observations.

    Returns:
        `OK`, or the status of the failure.
    """
    form, num_rows, row_in_group = request.forms[g], request.num_rows[g], request.row_in_group
    start, stop = request.bounds[g], request.bounds[g + 1]
    frame_bytes = layout.frame_bytes
    margin, slot = slot_margin(decoders.octets), slot_bytes(decoders.octets)
    current = scratch[margin : margin + frame_bytes]
    keyframe = scratch[slot : slot + frame_bytes]
    spare = scratch[2 * slot : 2 * slot + frame_bytes]
    by_keyframe = layout.reference == REFERENCE_KEYFRAME
    middle = num_rows // 2 if layout.reference == REFERENCE_INWARD else np.int64(0)
    is_plain = form in (FORM_RAW, FORM_RAW_BLOCK)
    from_keyframe = start  # the first entry from the keyframe on
    while from_keyframe < stop and row_in_group[from_keyframe] < middle:
        from_keyframe += 1
    frames_ahead = row_in_group[stop - 1] - middle + 1 if from_keyframe < stop else np.int64(1)
    frames_behind = middle - row_in_group[start] if from_keyframe > start else np.int64(0)

    source: Any = request.places[g]
    if form in (FORM_RAW, FORM_DELTA):
        if request.lengths[g] != num_rows * frame_bytes:
            return BAD_LENGTH
    elif form != FORM_LIST:
        source = np.int64(scratch.ctypes.data) + 3 * slot
        if not decode_blocks(request, g, middle, frames_ahead, frames_behind, layout, decoders.zstd, source):
            return BAD_BLOCK

    j = from_keyframe
    for number in range(frames_ahead + frames_behind):
        if number < frames_ahead:
            place: Any = number
            row, step = middle + number, 1
        else:
            row = middle - 1 - (number - frames_ahead)
            place, step = num_rows - 1 - row, -1
            if number == frames_ahead:
                j = from_keyframe - 1
        is_wanted = start <= j < stop and row_in_group[j] == row
        if (by_keyframe or is_plain) and number > 0 and not is_wanted:
            continue  # no other frame needs it
        frame = bytes_at(source + place * frame_bytes, frame_bytes)
        if not is_plain:
            if number > 0 and (by_keyframe or (number == frames_ahead and frames_ahead > 1)):
                copy_bytes(keyframe, current)
            if form == FORM_LIST:
                status = listed_frame(request, g, place, layout, decoders, current, spare)
                if status != OK:
                    return status
            elif place > 0:
                add_into(current, frame)
            else:
                copy_bytes(frame, current)
                undo_filter(current, layout.keyframe_filter, layout.filter_pixels, layout.filter_channels)
            if number == 0 and (by_keyframe or (frames_behind > 0 and frames_ahead > 1)):
                copy_bytes(current, keyframe)
            frame = bytes_at(current.ctypes.data, frame_bytes)
        while start <= j < stop and row_in_group[j] == row:
            emit_frame(frame, out[request.targets[j]], request.slots[j], depth, layout.pixels)
            j += step
    return OK


@kernel
def decode_groups(request: GroupRequest, start: Int, stop: Int, depth: Int, layout: FrameLayout, out: U8) -> Any:
    """Decodes the requested frames of many groups into observations.

    Args:
        request: the groups, with addresses as `places`.
        start: the first group to decode.
        stop: the first group not to decode.
        depth: frames in an observation.
        layout: layout of all groups.
        out: uint8 (batch, depth * frame bytes), the observations.

    Returns:
        (`OK`, `stop`), or the status of the failure and the first group that does not decode to its frames.
    """
    frame_bytes = layout.frame_bytes
    if out.shape[1] != depth * frame_bytes or layout.pixels.num_pixels * layout.pixels.num_channels != frame_bytes:
        return BAD_INDEX, start
    most_rows = np.int64(1)
    for g in range(start, stop):
        most_rows = max(most_rows, request.num_rows[g])
    octets = octet_layout(frame_bytes, layout.filter_pixels, layout.filter_channels)
    context = zstd_create() if layout.entropy == ENTROPY_ZSTD else np.int64(0)
    decoders = Decoders(context, octets, octet_room(octets))
    scratch = np.empty(3 * slot_bytes(octets) + most_rows * frame_bytes + 64, np.uint8)
    for i in range(slot_margin(octets)):
        scratch[i] = 0
    status = OK
    failed = np.int64(stop)
    for g in range(start, stop):
        if request.num_rows[g] < 1 or request.bounds[g] >= request.bounds[g + 1]:
            status = BAD_INDEX
        for j in range(request.bounds[g], request.bounds[g + 1]):
            row, target, slot = request.row_in_group[j], request.targets[j], request.slots[j]
            least = request.row_in_group[j - 1] if j > request.bounds[g] else np.int64(0)
            if row < least or row >= request.num_rows[g] or target < 0 or target >= out.shape[0]:
                status = BAD_INDEX
            if slot < 0 or slot >= depth:
                status = BAD_INDEX
        if status == OK:
            status = _decode_group(request, g, depth, layout, decoders, scratch, out)
        if status != OK:
            failed = np.int64(g)
            break
    if context != 0:
        zstd_free(context)
    return status, failed
