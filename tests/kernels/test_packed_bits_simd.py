"""Octets against whole-number arithmetic and against the plain kernel, which takes the same arrays one by one."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaystore.codecs.round_clamp import RoundClamp
from replaystore.codecs.round_clamp.levels import build_levels, parse_bound
from replaystore.errors import ChunkError
from replaystore.kernels import packed_bits as bits
from replaystore.kernels import packed_bits_simd
from replaystore.kernels.status import OK


def table_of(codec):
    """The levels of a codec's values."""
    low, high = parse_bound("low", codec.low), parse_bound("high", codec.high)
    return build_levels(decimals=codec.decimals, low=low, high=high, dtype=codec.dtype, row_size=codec.row_size)


def reads_octets(codec):
    """Whether the codec reads its rows in octets: only these are decoded where they lie."""
    nothing = np.zeros(0, np.int64)
    out = np.zeros((0, codec.row_size), codec.dtype)
    return codec.decode_buffers(nothing, nothing, nothing, nothing, out, nothing)


def one_by_one(codec, packed, rows, targets, out):
    """What `decode_rows` would do without octets."""
    return bits.dequantize_rows(packed, rows, targets, table_of(codec), out)


def decode(packed, rows, targets, plan, out):
    """`decode_octets` from one buffer."""
    address, size = np.array([packed.ctypes.data]), np.array([packed.size])
    rows, targets = np.asarray(rows), np.asarray(targets)
    return packed_bits_simd.decode_octets(address, size, np.zeros_like(rows), rows, targets, packed.shape[1], plan, out)


def levels_of(width, row_size):
    """Whole numbers of `width` bits."""
    ends = np.zeros(row_size)
    first, last, widths = (np.full(row_size, value) for value in (0, (1 << width) - 1, width))
    return bits.Levels(ends, ends, first, last, widths, 1.0, False)


@st.composite
def tables(draw):
    """A codec of rows that are read in octets, and levels of it; every width, alone and mixed."""
    row_size = draw(st.integers(8, 40))
    widest = draw(st.sampled_from([1, 5, 12, 15, 16, 17, 28, 29, 40, 52]))
    tops = np.array(draw(st.lists(st.integers(0, (1 << widest) - 1), min_size=row_size, max_size=row_size)))
    tops[draw(st.integers(0, row_size - 1))] = (1 << widest) - 1
    decimals = draw(st.integers(-3, 15))
    firsts = [draw(st.integers(-(1 << 52), (1 << 52) - int(top))) if draw(st.booleans()) else 0 for top in tops]
    scale = Fraction(10) ** decimals
    low, high = (
        [float((first + int(add)) / scale) for first, add in zip(firsts, adds, strict=True)]
        for adds in (tops * 0, tops)
    )
    codec = RoundClamp(decimals=decimals, low=low, high=high, dtype="float64", row_size=row_size)
    levels = np.array(
        [[draw(st.integers(0, count - 1)) for count in codec.levels] for _ in range(3)], np.uint64
    )  # of the codec: its bounds are floats, so they can be a level off
    packed = np.zeros((3, codec.row_bytes), np.uint8)
    assert bits.pack_levels(levels, table_of(codec).widths, packed) == -1
    return codec, levels, packed


@settings(max_examples=200)
@given(tables())
def test_every_value_is_the_nearest_float(table):
    codec, levels, packed = table
    scale = Fraction(10) ** codec.decimals
    expected = [
        [float((int(first) + int(level)) / scale) for first, level in zip(table_of(codec).first, row, strict=True)]
        for row in levels
    ]
    assert reads_octets(codec) == (codec.row_bytes >= 8 and max(codec.bits) <= packed_bits_simd.MAX_WIDTH)
    found = codec.decode_rows(packed)
    assert found.tobytes() == np.array(expected).tobytes()
    plain = np.empty_like(found)
    assert one_by_one(codec, packed, np.arange(3), np.arange(3), plain) == (OK, 3, 0)
    assert found.tobytes() == plain.tobytes()


@pytest.mark.parametrize("decimals", range(16))
def test_the_two_factors_divide_as_division_does(decimals):
    random = np.random.default_rng(decimals)
    scale = 10.0**decimals
    whole = np.concatenate(
        [
            np.arange(-4000, 4000),
            random.integers(-(1 << 53), (1 << 53) + 1, 40_000),
            (1 << random.integers(0, 53, 8_000)) + random.integers(-2, 3, 8_000),
        ]
    ).astype(np.float64)
    plan = packed_bits_simd.plan_octets(levels_of(52, 8), 52)
    packed = np.zeros((1, 52), np.uint8)
    found = np.empty((1, 8))
    major, minor = packed_bits_simd.two_factors(scale, True)
    for firsts in np.resize(whole, (-(-len(whole) // 8), 8)):
        decode(packed, [0], [0], plan._replace(firsts=firsts, major=major, minor=minor), found)
        assert (found[0] == firsts / scale).all()
    assert packed_bits_simd.two_factors(scale, False) == (scale, 0.0)


@pytest.mark.parametrize(("width", "num_words"), [(12, 2), (15, 2), (17, 4), (28, 4), (29, 4), (31, 8), (52, 8)])
def test_words_an_octet(width, num_words):
    plan = packed_bits_simd.plan_octets(levels_of(width, 348), -(-348 * width // 8))
    assert plan.first_bytes.shape == (44, num_words)
    assert all(table.ctypes.data % 64 == 0 for table in (plan.shifts, plan.masks, plan.tops))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row_size", [8, 9, 15, 16, 348])
def test_rows_go_to_their_targets(dtype, row_size):
    random = np.random.default_rng(row_size)
    codec = RoundClamp(decimals=2, low=-random.uniform(0, 900, row_size), high=127.0, dtype=dtype, row_size=row_size)
    values = random.normal(0, 200, (50, row_size)).astype(dtype)
    packed, _ = codec.encode_rows(values)
    expected = codec.decode_rows(packed)
    assert reads_octets(codec)
    rows, targets = random.integers(0, 50, 20), random.permutation(30)[:20]
    out = np.full((30, row_size), 7.25, dtype)
    assert codec.decode_rows(packed, out, rows, targets) is out
    assert (out[targets] == expected[rows]).all()
    assert (np.delete(out, targets, axis=0) == 7.25).all()
    spread = np.full((30, 2 * row_size), 7.25, dtype)[:, ::2]
    codec.decode_rows(packed, spread, rows, targets)
    assert (spread == out).all()


@pytest.mark.parametrize("value", [0, 7, 8, 16, 17])
def test_damage_in_any_lane_is_found(value):
    codec = RoundClamp(decimals=0, low=0.0, high=30.0, row_size=18)
    packed, _ = codec.encode_rows(np.full((3, 18), 5.0, np.float32))
    levels = np.full((1, 18), 5, np.uint64)
    levels[0, value] = 31
    bits.pack_levels(levels, table_of(codec).widths, packed[1:2])
    with pytest.raises(ChunkError, match=f"row 1, value {value}: expected one of 31 levels"):
        codec.decode(packed)
    assert (codec.decode_rows(packed, rows=[0, 2]) == 5.0).all()


def test_set_bits_behind_the_values_are_damage():
    codec = RoundClamp(decimals=0, low=0.0, high=31.0, row_size=18)  # 90 bits in 12 bytes
    packed, _ = codec.encode_rows(np.full((3, 18), 31.0, np.float32))
    assert (codec.decode(packed) == 31.0).all()
    for bit in range(2, 8):
        damaged = packed.copy()
        damaged[2, 11] |= 1 << bit
        with pytest.raises(ChunkError, match="row 2: expected zeros"):
            codec.decode(damaged)


@pytest.mark.parametrize("row", [-1, 3, 1 << 62, -(1 << 62)])
def test_rows_and_targets_that_are_not_there_are_refused(row):
    codec = RoundClamp(row_size=348)
    packed, _ = codec.encode_rows(np.zeros((3, 348), np.float32))
    for rows, targets in (([0, row], [0, 1]), ([0, 1], [0, row])):
        with pytest.raises(IndexError):
            codec.decode_rows(packed, np.zeros((3, 348), np.float32), rows, targets)


def test_arrays_and_plans_that_do_not_fit_are_refused():
    codec = RoundClamp(row_size=348)
    packed, _ = codec.encode_rows(np.zeros((3, 348), np.float32))
    plan = packed_bits_simd.plan_octets(table_of(codec), codec.row_bytes)
    rows, out = np.arange(3), np.zeros((3, 348), np.float32)
    for changed, row_bytes, message in (
        ({"starts": plan.starts + 1}, 653, "behind its row"),
        ({"starts": plan.starts - 1}, 653, "behind its row"),
        ({"first_bytes": plan.first_bytes + 1}, 653, "behind its row"),
        ({}, 652, "behind its row"),
        ({"first_bytes": plan.first_bytes - 1}, 653, "behind its row"),
        ({"first_bytes": plan.first_bytes[:, :1]}, 653, "plan"),
        ({"shifts": plan.shifts[1:]}, 653, "plan"),
        ({"starts": plan.starts[1:]}, 653, "shape"),
    ):
        cut = np.ascontiguousarray(packed[:, :row_bytes])
        with pytest.raises(ValueError, match=message):
            decode(cut, rows, rows, plan._replace(**changed), out)
    for shape, targets in (((3, 347), rows), ((3, 348), rows[:2])):
        with pytest.raises(ValueError, match="differ in"):
            decode(packed, rows, targets, plan, np.zeros(shape, np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_several_buffers(dtype):
    random = np.random.default_rng(3)
    codec = RoundClamp(decimals=1, low=-127.0, high=127.0, dtype=dtype, row_size=21)
    values = random.normal(0, 60, (24, 21)).astype(dtype)
    expected = codec.decode_rows(codec.encode_rows(values)[0])
    buffers = [codec.encode_rows(part)[0] for part in np.split(values, [5, 6, 20])]
    addresses = np.array([buffer.ctypes.data for buffer in buffers])
    sizes = np.array([buffer.size for buffer in buffers])
    which, local, rows = np.array([3, 0, 2, 0, 1, 2]), np.array([3, 4, 13, 0, 0, 1]), [23, 4, 19, 0, 5, 7]
    targets = np.array([6, 0, 3, 1, 4, 2])
    out = np.full((7, 21), 7.25, dtype)
    assert codec.decode_buffers(addresses, sizes, which, local, out, targets)
    assert (out[targets] == expected[rows]).all()
    assert (out[5] == 7.25).all()
    for wrong in ((which + 1, local), (which - 1, local), (which, local + 1), (which, local - 1)):
        with pytest.raises(IndexError):
            codec.decode_buffers(addresses, sizes, *wrong, out, targets)
    with pytest.raises(IndexError):
        codec.decode_buffers(addresses, sizes - 1, which, local, out, targets)
    with pytest.raises(ValueError, match="number"):
        codec.decode_buffers(addresses, sizes, which, local[1:], out, targets)
    buffers[2][13] = 0xFF
    assert not codec.decode_buffers(addresses, sizes, which, local, out, targets)


def test_what_cannot_be_decoded_where_it_lies():
    nothing = np.zeros(0, np.int64)
    for codec, out in (
        (RoundClamp(row_size=7), np.zeros((1, 7), np.float32)),
        (RoundClamp(row_size=9, decimals=1, dtype="float16"), np.zeros((1, 9), np.float16)),
        (RoundClamp(row_size=9), np.zeros((1, 9))),
        (RoundClamp(row_size=9), np.zeros((1, 18), np.float32)[:, ::2]),
    ):
        assert not codec.decode_buffers(nothing, nothing, nothing, nothing, out, nothing)
