"""Packs and unpacks frames in octets: eight bytes of a frame whose differences take as few bits as they need.

docs/format.md, "Packed frames", describes the bytes. A frame lies in a slot: `margin` zero bytes before it, because an
octet may refer to bytes further left or above, and room behind it up to a whole octet. The bytes of a packed frame are
not trusted: what they may lead to lies in the slot and in the bytes themselves, of which `MORE_BYTES` behind the end
must be readable.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.kernels.bits import count_ones, leading_zeros, scatter_bytes, subtract_bytes, trailing_zeros
from replaystore.kernels.compiled import inlined, kernel
from replaystore.kernels.octet_codes import (
    DISTANCE,
    DISTANCE_ALONE,
    ENTRY_BYTES,
    WIDTH,
    code_table,
    pack_octet,
    unpack_octet,
)
from replaystore.kernels.pointers import Int, load_u8, load_u16, load_u64, store_u8, store_u64

U16 = NDArray[np.uint16]
U64 = NDArray[np.uint64]

MORE_BYTES = 8  # readable behind a packed frame

_HIGH_BITS = np.uint64(0x8080808080808080)


class OctetLayout(NamedTuple):
    """What an octet refers to besides the octet at its own place.

    Attributes:
        frame_bytes: bytes of a frame.
        left_bytes: how far to the left it refers in a frame packed without a reference.
        above_bytes: how far back the octet above it is.
    """

    frame_bytes: int
    left_bytes: int
    above_bytes: int


class OctetRoom(NamedTuple):
    """Memory for one frame, for the kernels here.

    Attributes:
        table: uint64 (16, ENTRY_BYTES / 8), the table of codes.
        words: uint64 (frame bytes / 512, rounded up,), one bit per octet.
        entries: uint16 (octets of a frame + 2,), where the entry of each octet's code is in the table.
    """

    table: U64
    words: U64
    entries: U16


@kernel
def octet_layout(frame_bytes: Int, pixels: Int, channels: Int) -> Any:
    """Returns the `OctetLayout` of frames.

    Args:
        frame_bytes: bytes of a frame.
        pixels: pixels per row of a frame.
        channels: bytes per pixel.
    """
    line = pixels * channels
    return OctetLayout(frame_bytes, 8 * channels, line * ((7 + line) // line))


@kernel
def slot_margin(layout: OctetLayout) -> Any:
    """Returns the bytes before a frame in its slot."""
    return max(layout.left_bytes, layout.above_bytes)


@kernel
def slot_bytes(layout: OctetLayout) -> Any:
    """Returns the bytes of a slot, a multiple of 64."""
    return (slot_margin(layout) + layout.frame_bytes + 71) // 64 * 64


@kernel
def packed_bytes(frame_bytes: Int) -> Any:
    """Returns the most bytes that `pack_octets` writes for a frame, with those behind it."""
    blocks = (frame_bytes + 63) // 64
    return (blocks + 7) // 8 + blocks + 4 * blocks + 64 * blocks + MORE_BYTES


@kernel
def octet_room(layout: OctetLayout) -> Any:
    """Returns the memory for packing or unpacking frames of a layout."""
    blocks = (layout.frame_bytes + 63) // 64
    table = code_table(layout.left_bytes, layout.above_bytes)
    return OctetRoom(table, np.empty((blocks + 7) // 8, np.uint64), np.empty(8 * blocks + 2, np.uint16))


@inlined
def _find_octets(address: Int, stop: Int, frame_bytes: Int, words: U64) -> Any:
    """Reads which octets change, one bit each. Returns (their number, address behind), or (-1, 0) if damaged."""
    blocks = (frame_bytes + 63) >> 6
    num_words = (blocks + 7) >> 3
    at = address + num_words
    count = np.int64(0)
    if at > stop:
        return np.int64(-1), np.int64(0)
    for b in range(num_words):
        flags = np.uint64(load_u8(address + b))
        words[b] = scatter_bytes(load_u64(at), flags)
        at += count_ones(flags)
        if at > stop:
            return np.int64(-1), np.int64(0)
        count += count_ones(words[b])
    octets = (frame_bytes + 7) >> 3
    if octets % 64 and words[num_words - 1] >> np.uint64(octets % 64):
        return np.int64(-1), np.int64(0)
    return count, at


@inlined
def _read_codes(address: Int, count: Int, entries: U16) -> Any:
    """Reads `count` codes of four bits. Returns the sum of their widths."""
    pairs = count >> 1
    total = np.int64(count)
    for j in range(pairs):
        both = np.int64(load_u8(address + j))
        entries[2 * j] = (both & 0xF) * ENTRY_BYTES
        entries[2 * j + 1] = (both >> 4) * ENTRY_BYTES
        total += (both & 7) + ((both >> 4) & 7)
    if count & 1:
        last = np.int64(load_u8(address + pairs)) & 0xF
        entries[count - 1] = last * ENTRY_BYTES
        total += last & 7
    return total


@kernel
def unpack_octets(address: Int, size: Int, frame: Int, alone: bool, layout: OctetLayout, room: OctetRoom) -> Any:
    """Unpacks a frame in its slot.

    Args:
        address: address of the packed frame.
        size: its bytes.
        frame: address of the frame in its slot. It holds the reference, and afterwards the frame.
        alone: whether the frame was packed without a reference. Then the slot holds zeros.
        layout: layout of the frame.
        room: memory from `octet_room`.

    Returns:
        Whether the bytes are a packed frame.
    """
    stop = address + size
    words = room.words
    count, at = _find_octets(address, stop, layout.frame_bytes, words)
    half = (count + 1) >> 1
    if count < 0 or at + half > stop:
        return False
    if at + half + _read_codes(at, count, room.entries) != stop:
        return False
    at += half
    table = np.int64(room.table.ctypes.data)
    distance = DISTANCE_ALONE if alone else DISTANCE
    entry_at = np.int64(room.entries.ctypes.data)
    for b in range(words.size):
        word = words[b]
        first = frame + (b << 9)
        while word != np.uint64(0):
            place = first + (trailing_zeros(word) << 3)
            word &= word - np.uint64(1)
            entry = table + np.int64(load_u16(entry_at))
            entry_at += 2
            reference = place - np.int64(load_u64(entry + distance))
            store_u64(place, unpack_octet(at, reference, entry))
            at += np.int64(load_u64(entry + WIDTH))
    return True


@inlined
def _width(octet: Int) -> Any:
    """Returns the bits that the signed bytes of a word need, 1 to 8."""
    negative = ((octet & _HIGH_BITS) >> np.uint64(7)) * np.uint64(0xFF)
    bits = octet ^ negative
    bits |= bits >> np.uint64(32)
    bits |= bits >> np.uint64(16)
    bits |= bits >> np.uint64(8)
    return 65 - leading_zeros(bits & np.uint64(0xFF))


@kernel
def pack_octets(frame: Int, reference: Int, layout: OctetLayout, room: OctetRoom, out: Int) -> Any:
    """Packs a frame.

    Args:
        frame: address of the frame in its slot, with zeros behind it.
        reference: address of another frame in its slot, with zeros behind it. 0 packs without a reference.
        layout: layout of both.
        room: memory from `octet_room`.
        out: address of `packed_bytes` bytes.

    Returns:
        (bytes written, bytes of the frame that differ from the reference, or from 0).
    """
    words = room.words
    octets = (layout.frame_bytes + 7) >> 3
    at = out + words.size
    count = np.int64(0)
    for b in range(words.size):
        word = np.uint64(0)
        for k in range(64 * b, min(64 * b + 64, octets)):
            there = load_u64(reference + 8 * k) if reference else np.uint64(0)
            word |= np.uint64(load_u64(frame + 8 * k) != there) << np.uint64(k & 63)
        words[b] = word
        count += count_ones(word)
        flags = np.int64(0)
        for k in range(8):
            byte = np.int64(word >> np.uint64(8 * k)) & 0xFF
            if byte:
                flags |= 1 << k
                store_u8(at, byte)
                at += 1
        store_u8(out + b, flags)
    codes = room.entries
    code_at = at
    half = (count + 1) >> 1
    at += half
    table = np.int64(room.table.ctypes.data)
    number = 0
    changed = np.int64(0)
    for b in range(words.size):
        word = words[b]
        while word != np.uint64(0):
            place = 8 * (64 * b + trailing_zeros(word))
            word &= word - np.uint64(1)
            octet = load_u64(frame + place)
            there = load_u64(reference + place) if reference else load_u64(frame + place - layout.left_bytes)
            difference = subtract_bytes(octet, there)
            apart = octet ^ (there if reference else np.uint64(0))
            changed += count_ones((((apart & ~_HIGH_BITS) + ~_HIGH_BITS) | apart) & _HIGH_BITS)
            from_above = subtract_bytes(octet, load_u64(frame + place - layout.above_bytes))
            width, other = _width(difference), _width(from_above)
            code = width - 1
            if other < width:
                code, width, difference = other + 7, other, from_above
            codes[number] = code
            number += 1
            store_u64(at, pack_octet(difference, width, table + ENTRY_BYTES * code))
            at += width
    codes[number] = 0
    for j in range(half):
        store_u8(code_at + j, np.int64(codes[2 * j]) | (np.int64(codes[2 * j + 1]) << 4))
    return at - out, changed
