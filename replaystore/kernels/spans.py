"""Encodes and decodes spans of flat uint8 frames. Arithmetic on pixels is modulo 256.

Keyframe filters see a payload frame as (rows, pixels, channels). Planar frames have 1 channel. Every kernel that reads
encoded bytes checks each offset against the buffer, and returns -1 if one does not fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.kernels.compiled import inlined, kernel
from replaystore.kernels.pointers import Int, bytes_at, copy_masked, load_u16, load_u64, store_u64
from replaystore.kernels.processor import HAS_MASKS

U8 = NDArray[np.uint8]

_MAX_SKIP = 0xFF
_MAX_LONG_SKIP = 0xFFFFFF
_MAX_SPAN = 0xFF
_MAX_HEADS = 0xFFFF
_HEAD = 2


@kernel
def encode_spans(frame: U8, reference: U8, out: U8) -> int:
    """Encodes the spans of `frame` that differ from `reference`: u16 count, (u8 skip, u8 length) each, all new bytes.

    `frame` and `reference` are uint8 (n,), and `out` is a uint8 buffer. A skip that does not fit a byte has a separate
    head of length 0, followed by a u16 of its next bits in the place of another head. Gaps of one or two bytes become
    part of a span, because a new head would take two bytes.

    Returns:
        Bytes written, or -1 if they do not fit into `out`, or the heads do not fit into the count.
    """
    n = frame.size
    here, there = np.int64(frame.ctypes.data), np.int64(reference.ctypes.data)
    at = 2
    num_bytes = 0
    end = 0  # where the previous span ended
    i = 0
    while i < n:
        while i + 8 <= n and load_u64(here + i) == load_u64(there + i):
            i += 8
        while i < n and frame[i] == reference[i]:
            i += 1
        if i >= n:
            break
        start = i
        stop = i + 1
        j = stop
        while j < n and j - start < _MAX_SPAN and j - stop <= _HEAD:
            if frame[j] != reference[j]:
                stop = j + 1
            j += 1
        skip = start - end
        while skip > _MAX_SKIP:
            part = min(skip, _MAX_LONG_SKIP)
            if at + 2 * _HEAD > out.size:
                return -1
            out[at] = part & 0xFF
            out[at + 1] = 0
            out[at + 2] = (part >> 8) & 0xFF
            out[at + 3] = part >> 16
            at += 2 * _HEAD
            skip -= part
        num_bytes += stop - start
        if at + _HEAD + num_bytes > out.size:
            return -1
        out[at] = skip
        out[at + 1] = stop - start
        at += _HEAD
        end = stop
        i = stop
    if at == 2:
        return 0  # the same frame
    count = (at - 2) // _HEAD
    if count > _MAX_HEADS:
        return -1
    out[0] = count & 0xFF
    out[1] = count >> 8
    pixel = np.int64(0)
    head = 2
    heads_end = at
    while head < heads_end:
        pixel += out[head]
        length = np.int64(out[head + 1])
        head += _HEAD
        if length == 0:
            pixel += (np.int64(out[head]) << 8) | (np.int64(out[head + 1]) << 16)
            head += _HEAD
        for k in range(length):
            out[at + k] = frame[pixel + k]
        at += int(length)
        pixel += length
    return at


@inlined
def _blend(target: Int, source: Int, length: Int) -> Any:
    """Replaces the first `length` of 8 bytes, 0 to 8."""
    half = np.uint64(4 * length)  # in two steps, because a shift by 64 bits shifts nothing
    mask = ((np.uint64(1) << half) << half) - np.uint64(1)
    store_u64(target, (load_u64(target) & ~mask) | (load_u64(source) & mask))


@kernel
def decode_spans(address: Int, size: Int, frame: Int, frame_size: Int) -> Any:
    """Writes the spans of `size` bytes at `address` over the frame at `frame`, which holds the reference.

    Spans are short and their lengths cannot be predicted. So masked instructions copy up to 32 bytes without a branch.
    If the processor has none, two blends copy up to 16. Near the end of either buffer, bytes are copied one by one. The
    heads are together, so that none waits for the length of the span before.

    Returns:
        0, or -1 if a span leaves a buffer.
    """
    if size == 0:
        return 0
    end = address + size
    if size < 2:
        return -1
    head = address + 2
    at = head + _HEAD * np.int64(load_u16(address))
    heads_end = at
    if at > end:
        return -1
    pixel = frame
    last = frame + frame_size
    while head < heads_end:
        both = np.int64(load_u16(head))
        head += _HEAD
        length = both >> 8
        pixel += both & 0xFF
        if length == 0:
            if head >= heads_end:
                return -1
            pixel += np.int64(load_u16(head)) << 8
            head += _HEAD
            continue
        if at + length > end or pixel + length > last:
            return -1
        if HAS_MASKS:
            while length > 32:
                copy_masked(pixel, at, np.uint32(0xFFFFFFFF))
                pixel += 32
                at += 32
                length -= 32
            copy_masked(pixel, at, np.uint32(0xFFFFFFFF) >> np.uint32(32 - length))
        elif at + length + 16 <= end and pixel + length + 16 <= last:
            while length > 16:
                store_u64(pixel, load_u64(at))
                store_u64(pixel + 8, load_u64(at + 8))
                pixel += 16
                at += 16
                length -= 16
            _blend(pixel, at, min(length, 8))
            _blend(pixel + 8, at + 8, max(length - 8, 0))
        else:
            source = bytes_at(at, length)
            target = bytes_at(pixel, length)
            for k in range(length):
                target[k] = source[k]
        at += length
        pixel += length
    return 0 if at == end else -1
