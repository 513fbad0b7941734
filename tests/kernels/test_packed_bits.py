"""Bit packing against a plain oracle: `np.packbits` of the bits written out one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaystore.kernels import packed_bits as bits

NO_SUBSTITUTES = np.full(3, np.nan)


def levels_of(widths, low=0.0, high=0.0):
    """Levels of whole numbers: from 0 to 0 in the bits of `widths`."""
    ones, ends = np.ones(len(widths)), np.zeros(len(widths), np.int64)
    return bits.Levels(low * ones, high * ones, ends, ends, np.array(widths), 1.0, False)


def pack_oracle(levels, widths):
    rows = []
    for row in levels:
        ones = [int(level) >> bit & 1 for level, width in zip(row, widths, strict=True) for bit in range(width)]
        rows.append(np.packbits(np.array(ones or [0], np.uint8), bitorder="little"))
    return np.array(rows, np.uint8).reshape(len(levels), -1)


def row_bytes(widths):
    return max(1, -(-sum(widths) // 8))


@st.composite
def tables(draw):
    widths = draw(st.lists(st.integers(0, 53), min_size=1, max_size=12))
    num_rows = draw(st.integers(1, 4))
    levels = [[draw(st.integers(0, (1 << width) - 1)) for width in widths] for _ in range(num_rows)]
    return np.array(widths), np.array(levels, np.uint64).reshape(num_rows, -1)


@given(tables(), st.randoms(use_true_random=False))
def test_pack_and_unpack(table, random):
    widths, levels = table
    packed = np.full((len(levels), row_bytes(widths)), 0xEE, np.uint8)
    assert bits.pack_levels(levels, widths, packed) == -1
    assert packed.tobytes() == pack_oracle(levels, widths).tobytes()
    rows = np.array([random.randrange(len(levels)) for _ in range(5)])
    found = np.empty((5, len(widths)), np.uint64)
    bits.unpack_levels(packed, rows, widths, found)
    assert (found == levels[rows]).all()


@pytest.mark.parametrize("width", range(54))
def test_every_width_at_every_bit_of_a_byte(width):
    widths = np.array([width] * 17)
    top = (1 << width) - 1
    levels = np.array([[top * (i % 2) for i in range(17)], [top * i // 16 for i in range(17)]], np.uint64)
    packed = np.empty((2, row_bytes(widths)), np.uint8)
    assert bits.pack_levels(levels, widths, packed) == -1
    assert packed.tobytes() == pack_oracle(levels, widths).tobytes()
    found = np.empty_like(levels)
    bits.unpack_levels(packed, np.arange(2), widths, found)
    assert (found == levels).all()


def test_a_level_that_does_not_fit_is_found():
    packed = np.empty((2, 2), np.uint8)
    levels = np.array([[31, 7], [31, 8]], np.uint64)
    assert bits.pack_levels(levels, np.array([6, 3]), packed) == 3


@pytest.mark.parametrize("num_bytes", [0, 1, 3])
def test_rows_of_another_length_are_refused(num_bytes):
    widths = np.array([6, 3])
    packed = np.zeros((2, num_bytes), np.uint8)
    levels = np.zeros((2, 2), np.uint64)
    with pytest.raises(ValueError, match="widths"):
        bits.pack_levels(levels, widths, packed)
    with pytest.raises(ValueError, match="widths"):
        bits.unpack_levels(packed, np.arange(2), widths, levels)
    with pytest.raises(ValueError, match="widths"):
        bits.quantize_rows(np.zeros((2, 2)), levels_of(widths), NO_SUBSTITUTES, packed)
    with pytest.raises(ValueError, match="widths"):
        bits.dequantize_rows(packed, np.arange(2), np.arange(2), levels_of(widths), np.zeros((2, 2)))


@pytest.mark.parametrize("width", [-1, 54])
def test_widths_out_of_range_are_refused(width):
    with pytest.raises(ValueError, match="0 to 53"):
        bits.pack_levels(np.zeros((1, 1), np.uint64), np.array([width]), np.zeros((1, 7), np.uint8))


@pytest.mark.parametrize("row", [-1, 2, 1 << 62, -(1 << 62)])
def test_rows_that_are_not_there_are_refused(row):
    packed = np.zeros((2, 2), np.uint8)
    widths = np.array([6, 3])
    with pytest.raises(IndexError):
        bits.unpack_levels(packed, np.array([0, row]), widths, np.zeros((2, 2), np.uint64))
    with pytest.raises(IndexError):
        bits.dequantize_rows(packed, np.array([0, row]), np.arange(2), levels_of(widths), np.zeros((2, 2)))
    with pytest.raises(IndexError):
        bits.dequantize_rows(packed, np.arange(2), np.array([0, row]), levels_of(widths), np.zeros((2, 2)))


def test_arrays_of_other_shapes_are_refused():
    packed, widths, ends = np.zeros((2, 2), np.uint8), np.array([6, 3]), np.zeros(2, np.int64)
    for shape in ((1, 2), (2, 1), (2, 3)):
        with pytest.raises(ValueError, match="shape"):
            bits.pack_levels(np.zeros(shape, np.uint64), widths, packed)
        with pytest.raises(ValueError, match="shape"):
            bits.unpack_levels(packed, np.arange(2), widths, np.zeros(shape, np.uint64))
        with pytest.raises(IndexError if shape == (1, 2) else ValueError, match=r"shape|no such"):
            bits.dequantize_rows(packed, np.arange(2), np.arange(2), levels_of(widths), np.zeros(shape))
        with pytest.raises(ValueError, match="shape"):
            bits.quantize_rows(np.zeros(shape), levels_of(widths), NO_SUBSTITUTES, packed)
    with pytest.raises(ValueError, match="shape"):
        bits.dequantize_rows(packed, np.arange(2), np.arange(1), levels_of(widths), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="number"):
        bits.dequantize_rows(
            packed, np.arange(2), np.arange(2), levels_of(widths)._replace(first=ends[:1]), np.zeros((2, 2))
        )
    with pytest.raises(ValueError, match="number"):
        bits.quantize_rows(np.zeros((2, 2)), levels_of(widths)._replace(low=np.zeros(1)), NO_SUBSTITUTES, packed)
    with pytest.raises(ValueError, match="three"):
        bits.quantize_rows(np.zeros((2, 2)), levels_of(widths), NO_SUBSTITUTES[:2], packed)


def test_bounds_wider_than_the_widths_are_refused():
    packed = np.zeros((1, 1), np.uint8)
    for low, value in ((0.0, 4.0), (-9.0, -1.0)):
        with pytest.raises(ValueError, match="bounds"):
            bits.quantize_rows(np.array([[value]]), levels_of([2], low, 9.0), NO_SUBSTITUTES, packed)
