"""Packed octets against their description in docs/format.md, and every way to unpack one against the others."""

from __future__ import annotations

import llvmlite.binding
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaystore.kernels import bits, octet_codes
from replaystore.kernels.compiled import kernel
from replaystore.kernels.octet_codes import ENTRY_BYTES, NUM_CODES
from replaystore.kernels.octets import (
    MORE_BYTES,
    octet_layout,
    octet_room,
    pack_octets,
    packed_bytes,
    slot_bytes,
    slot_margin,
    unpack_octets,
)

WAYS = {
    "plain": octet_codes.unpack_plain,
    "shuffle": octet_codes.unpack_shuffled,
    "pdep": octet_codes.unpack_deposited,
}


def available(way: str) -> bool:
    """Whether this processor has the instructions, be they fast or slow."""
    feature = {"shuffle": "ssse3", "pdep": "bmi2"}.get(way)
    return feature is None or bool(llvmlite.binding.get_host_cpu_features().get(feature))


def slot_of(frame, layout):
    """(memory of a slot, the frame in it). The caller keeps them while it uses an address."""
    memory = np.zeros(slot_bytes(layout), np.uint8)
    margin = slot_margin(layout)
    view = memory[margin : margin + frame.size]
    view[:] = frame
    return memory, view


def described(frame, reference, layout):
    """The bytes of a packed frame, value by value as docs/format.md has them."""
    padded = [np.pad(each, (0, -frame.size % 8)).astype(np.int64) for each in (frame, reference)]
    alone = not reference.any()
    margin = slot_margin(layout)
    before = np.concatenate((np.zeros(margin, np.int64), padded[0]))
    flags, block_bytes, codes, values = [], [], [], b""
    for block in range(0, len(padded[0]), 64):
        byte = 0
        for k, place in enumerate(range(block, min(block + 64, len(padded[0])), 8)):
            octet = padded[0][place : place + 8]
            if (octet == padded[1][place : place + 8]).all():
                continue
            byte |= 1 << k
            best = None
            left = before[margin + place - layout.left_bytes :][:8] if alone else padded[1][place : place + 8]
            for first, there in ((0, left), (8, before[margin + place - layout.above_bytes :][:8])):
                signed = (octet - there + 128) % 256 - 128
                width = next(w for w in range(1, 9) if (-(1 << w - 1) <= signed).all() and (signed < 1 << w - 1).all())
                if best is None or width < best[0]:
                    best = width, first, signed
            width, first, signed = best
            codes.append(first + width - 1)
            number = sum(int(v + (1 << width - 1)) << (width * k) for k, v in enumerate(signed))
            values += number.to_bytes(width, "little")
        flags.append(int(byte != 0))
        if byte:
            block_bytes.append(byte)
    codes += [0] * (len(codes) % 2)
    halves = bytes(low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True))
    return np.packbits(flags, bitorder="little").tobytes() + bytes(block_bytes) + halves + values


@st.composite
def pairs_of_frames(draw):
    height, width, channels = draw(st.integers(1, 30)), draw(st.integers(1, 30)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    reference = rng.integers(0, 256, height * width * channels).astype(np.uint8)
    frame = reference.copy()
    for _ in range(draw(st.integers(0, 30))):
        start, length, bits_of = rng.integers(frame.size), rng.integers(1, 40), rng.integers(1, 9)
        frame[start : start + length] += rng.integers(0, 1 << bits_of, frame[start : start + length].size, np.uint8)
    kind = draw(st.integers(0, 5))
    if kind == 0:
        frame[:] = rng.integers(256)
    elif kind == 1:
        reference[:] = 0
    return frame, reference, octet_layout(frame.size, width, channels)


@settings(max_examples=200, deadline=None)
@given(pairs_of_frames())
def test_a_frame_comes_back_from_the_bytes_described(case):
    frame, reference, layout = case
    room = octet_room(layout)
    (_, here), (_, there) = slot_of(frame, layout), slot_of(reference, layout)
    for alone in (False, True):
        # Not a byte more than promised, and garbage where the decoder may read.
        out = np.full(packed_bytes(frame.size), 0xAA, np.uint8)
        size, changed = pack_octets(here.ctypes.data, 0 if alone else there.ctypes.data, layout, room, out.ctypes.data)
        assert size + MORE_BYTES <= out.size
        assert changed == np.count_nonzero(frame if alone else frame != reference)
        packed = out[: size + MORE_BYTES].copy()
        expected = described(frame, np.zeros_like(frame) if alone else reference, layout)
        if alone or reference.any():  # without a reference, codes below 8 refer to the left
            assert packed[:size].tobytes() == expected
        packed[size:] = 0xAA
        memory, view = slot_of(np.zeros_like(frame) if alone else reference, layout)
        assert unpack_octets(packed.ctypes.data, size, view.ctypes.data, alone, layout, room)
        assert (view == frame).all()
        assert not memory[: slot_margin(layout)].any()
        assert not memory[slot_margin(layout) + frame.size :].any()


@settings(max_examples=100, deadline=None)
@given(pairs_of_frames(), st.data())
def test_damaged_bytes_stay_in_the_slot(case, data):
    frame, reference, layout = case
    room = octet_room(layout)
    (_, here), (_, there) = slot_of(frame, layout), slot_of(reference, layout)
    out = np.zeros(packed_bytes(frame.size), np.uint8)
    size, _ = pack_octets(here.ctypes.data, there.ctypes.data, layout, room, out.ctypes.data)
    for _ in range(5):
        packed = out[: size + MORE_BYTES].copy()
        packed[data.draw(st.integers(0, max(0, size - 1)))] ^= data.draw(st.integers(1, 255))
        shorter = data.draw(st.integers(0, size))
        memory, view = slot_of(reference, layout)
        unpack_octets(packed.ctypes.data, size, view.ctypes.data, False, layout, room)
        assert not memory[: slot_margin(layout)].any()
        end = slot_margin(layout) + -(-frame.size // 8) * 8
        assert not memory[end:].any()
        assert not (shorter < size and unpack_octets(out.ctypes.data, shorter, view.ctypes.data, False, layout, room))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("code", range(NUM_CODES))
def test_every_way_to_unpack_an_octet(way, code):
    if not available(way):
        pytest.skip(f"this processor has no {way}")
    table = octet_codes.code_table(24, 252)
    unpack = compiled_way(way)
    rng = np.random.default_rng(code)
    width = code % 8 + 1
    for _ in range(200):
        signed = rng.integers(-(1 << width - 1), 1 << width - 1, 8)
        reference = rng.integers(0, 256, 8).astype(np.uint8)
        number = sum(int(v + (1 << width - 1)) << (width * k) for k, v in enumerate(signed))
        packed = np.frombuffer(number.to_bytes(8, "little"), np.uint8).copy()
        packed[width:] = rng.integers(0, 256, 8 - width)
        entry = table.ctypes.data + ENTRY_BYTES * code
        octet = np.array([unpack(packed.ctypes.data, reference.ctypes.data, entry)], np.uint64).view(np.uint8)
        assert (octet == (reference + signed).astype(np.uint8)).all()


def compiled_way(way):
    function = WAYS[way]

    @kernel
    def unpack(packed, reference, entry):
        return function(packed, reference, entry)

    return unpack


@pytest.mark.parametrize("width", range(1, 9))
def test_packing_an_octet_without_pext(width):
    rng = np.random.default_rng(width)
    for _ in range(200):
        values = rng.integers(0, 1 << width, 8)
        octet = values.astype(np.uint8).view(np.uint64)[0]
        assert octet_codes.gather_plain(octet, width) == sum(int(v) << (width * k) for k, v in enumerate(values))


@given(st.integers(0, 2**64 - 1), st.integers(0, 255))
def test_scattered_bytes(word, flags):
    source = list(word.to_bytes(8, "little"))
    expected = bytes(source.pop(0) if flags >> k & 1 else 0 for k in range(8))
    assert int(bits.scatter_bytes_plain(np.uint64(word), np.uint64(flags))).to_bytes(8, "little") == expected
