"""RoundClamp against plain NumPy, and against whole-number arithmetic where NumPy itself rounds."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from replaystore.codecs.round_clamp import RoundClamp
from replaystore.errors import ChunkError, EpisodeError, SpecError

DTYPES = ("float16", "float32", "float64")


def numpy_oracle(values, decimals, low, high):
    """round(clamp(s, low, high), decimals) in float64; exact for the products of float32 that are tested with it."""
    low, high = (np.asarray(bound, values.dtype).astype(np.float64) for bound in (low, high))
    rounded = np.round(np.clip(values.astype(np.float64), low, high), decimals)
    return rounded.astype(values.dtype) + np.zeros((), values.dtype)  # no negative zero


def exact_levels(values, codec, low, high):
    """Levels in whole-number arithmetic, one list a row; low, high: floats of `dtype`, one a value."""
    scale = Fraction(10) ** codec.decimals
    return [
        [
            round(Fraction(min(max(float(x), lo), hi)) * scale) - round(Fraction(lo) * scale)
            for x, lo, hi in zip(row, low, high, strict=True)
        ]
        for row in values
    ]


def unpacked_levels(packed, codec):
    """Levels from the bits of packed rows, written out one by one."""
    rows = []
    for row in np.unpackbits(packed, axis=1, bitorder="little"):
        position, levels = 0, []
        for width in codec.bits:
            levels.append(sum(int(bit) << i for i, bit in enumerate(row[position : position + width])))
            position += width
        assert not row[position:].any()
        rows.append(levels)
    return rows


def unit_in_last_place(number):
    below = np.abs(np.nextafter(number, number.dtype.type(0.0)) - number)
    with np.errstate(over="ignore"):
        above = np.spacing(np.abs(number))
    return float(above if np.isfinite(above) else below)


@st.composite
def configurations(draw, largest_level=1 << 52):
    """A codec of any dtype, decimals and bounds; its bounds in its dtype; values of every awkward kind for it."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    decimals = draw(st.integers(-22, 22) | st.integers(-2, 4))
    row_size = draw(st.integers(1, 4))
    quantum = Fraction(10) ** -decimals
    finite = float(np.finfo(dtype).max)
    level = st.integers(-300, 300) | st.integers(-largest_level, largest_level)

    def number(numerator, denominator=1):
        return float(dtype.type(min(max(float(Fraction(numerator, denominator) * quantum), -finite), finite)))

    lows, highs = [], []
    for _ in range(row_size):
        ends = sorted(number(draw(level) * 3 + draw(st.integers(-1, 1)), 3) for _ in range(2))
        lows.append(ends[0])
        highs.append(ends[1])
    same = draw(st.booleans())
    low, high = (lows[0], highs[0]) if same else (lows, highs)
    try:
        codec = RoundClamp(decimals=decimals, low=low, high=high, dtype=dtype.name, row_size=row_size)
    except SpecError:
        assume(False)
    lows, highs = (
        (codec.low if isinstance(codec.low, tuple) else (codec.low,) * row_size),
        (codec.high if isinstance(codec.high, tuple) else (codec.high,) * row_size),
    )

    def value(column):
        lo, hi = lows[column], highs[column]
        first, last = math.floor(Fraction(lo) / quantum), math.ceil(Fraction(hi) / quantum)
        tie = st.integers(first - 1, last).map(lambda k: number(2 * k + 1, 2))
        between = st.fractions(0, 1, max_denominator=1 << 60).map(lambda a: float(lo * (1 - a) + hi * a))
        special = st.sampled_from([lo, hi, 0.0, -0.0, finite, -finite, float(np.finfo(dtype).smallest_subnormal)])
        step = st.sampled_from([0, 0, 1, -1])
        base = draw(tie | between | special)
        with np.errstate(over="ignore"):
            result = dtype.type(base)
            direction = draw(step)
            moved = np.nextafter(result, dtype.type(np.inf * direction)) if direction else result
        return moved if np.isfinite(moved) else result

    num_rows = draw(st.integers(1, 3))
    values = np.array([[value(column) for column in range(row_size)] for _ in range(num_rows)], dtype)
    return codec, lows, highs, values


@settings(max_examples=300)
@given(configurations())
def test_any_configuration(configuration):
    codec, low, high, values = configuration
    packed, num_clamped = codec.encode_rows(values)
    expected = exact_levels(values, codec, low, high)
    assert packed.shape == (len(values), codec.row_bytes)
    assert unpacked_levels(packed, codec) == expected
    assert num_clamped == sum(
        not lo <= float(x) <= hi for row in values for x, lo, hi in zip(row, low, high, strict=True)
    )
    decoded = codec.decode_rows(packed)
    assert decoded.dtype == values.dtype
    assert np.isfinite(decoded).all()
    assert not np.signbit(decoded[decoded == 0]).any()
    half = Fraction(1, 2) * Fraction(10) ** -codec.decimals
    for (row, column), found in np.ndenumerate(decoded):
        first = round(Fraction(low[column]) * Fraction(10) ** codec.decimals)
        exact = (first + expected[row][column]) * Fraction(10) ** -codec.decimals
        unit = Fraction(unit_in_last_place(found))
        assert abs(Fraction(float(found)) - exact) <= unit / 2
        clamped = min(max(float(values[row, column]), low[column]), high[column])
        assert abs(Fraction(float(found)) - Fraction(clamped)) <= half + unit / 2
    again, _ = codec.encode_rows(decoded)
    assert codec.decode_rows(again).tobytes() == decoded.tobytes()


@settings(max_examples=150)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(-200, 200, width=32), min_size=1),
    st.integers(-3, 6),
    st.floats(-150, 50, width=32),
    st.floats(0, 150, width=32),
    st.sampled_from(["float16", "float32"]),
)
def test_as_numpy_rounds(numbers, decimals, low, span, dtype):
    with np.errstate(over="ignore"):
        values = np.array(numbers, dtype)[:, None]
    values = np.where(np.isfinite(values), values, np.copysign(np.finfo(dtype).max, values)).astype(dtype)
    codec = RoundClamp(decimals=decimals, low=low, high=low + span, dtype=dtype)
    expected = numpy_oracle(values, decimals, low, low + span)
    assert codec.decode(codec.encode(values)).tobytes() == expected.tobytes()
    assert (
        codec.encode_rows(values)[1]
        == ((values < values.dtype.type(low)) | (values > values.dtype.type(low + span))).sum()
    )


def test_a_batch_as_numpy_rounds():
    random = np.random.default_rng(5)
    low, high = -random.uniform(0, 200, 348), random.uniform(0, 3000, 348)
    values = random.normal(0, 500, (256, 348)).astype(np.float32)
    codec = RoundClamp(decimals=2, low=low, high=high)
    packed, num_clamped = codec.encode_rows(values)
    expected = numpy_oracle(values, 2, low, high)
    assert (codec.decode_rows(packed) == expected).all()
    outside = (values < low.astype(np.float32)) | (values > high.astype(np.float32))
    assert num_clamped == outside.sum() > 0
    assert codec.row_bytes == -(-sum(codec.bits) // 8)
    rows = random.integers(0, 256, 1000)
    out = np.empty((1000, 348), np.float32)
    assert codec.decode_rows(packed, out, rows) is out
    assert (out == expected[rows]).all()


@pytest.mark.parametrize(
    ("value", "decimals", "expected"),
    [
        (2.675, 2, 2.67),  # 2.67499999999999982236431605997495353221893310546875; np.round gives 2.68
        (0.015, 2, 0.01),
        (0.285, 2, 0.28),
        (0.5, 0, 0.0),
        (1.5, 0, 2.0),
        (2.5, 0, 2.0),
        (-0.5, 0, 0.0),
        (-1.5, 0, -2.0),
        (0.75, 1, 0.8),
        (0.25, 1, 0.2),
        (15.0, -1, 20.0),
        (25.0, -1, 20.0),
        (-35.0, -1, -40.0),
        (np.nextafter(25.0, 26.0), -1, 30.0),
        (5e-324, 5, 0.0),
    ],
)
def test_half_to_even_of_the_exact_value(value, decimals, expected):
    codec = RoundClamp(decimals=decimals, dtype="float64")
    found = codec.decode(codec.encode(np.array([value])))
    assert found.item() == expected
    assert round(value, decimals) == expected
    assert not np.signbit(found.item()) or expected < 0


def test_published_widths():
    assert RoundClamp(decimals=1).bits == (12,)
    assert RoundClamp(decimals=2).bits == (15,)
    assert RoundClamp(decimals=2).levels == (25_401,)


def test_each_value_has_its_own_bits():
    codec = RoundClamp(decimals=0, low=[0.0, 5.0, -1.0, 0.0], high=[1.0, 5.0, 1.0, 255.0])
    assert codec.bits == (1, 0, 2, 8)
    assert codec.levels == (2, 1, 3, 256)
    assert codec.row_bytes == 2
    packed, num_clamped = codec.encode_rows(np.array([[1, 9, 0, 129]], np.float32))
    assert packed.tolist() == [[0b00001_01_1, 0b100]]
    assert num_clamped == 1


def test_constant_rows_take_one_byte():
    codec = RoundClamp(low=2.5, high=2.5, row_size=10)
    packed, num_clamped = codec.encode_rows(np.ones((3, 10), np.float32))
    assert packed.tolist() == [[0], [0], [0]]
    assert num_clamped == 30
    assert (codec.decode(packed) == np.full((3, 10), 2.5, np.float32)).all()


def test_bounds_are_taken_in_the_dtype():
    codec = RoundClamp(low=-0.1, high=0.1, decimals=12)
    packed, num_clamped = codec.encode_rows(np.array([[0.1], [-0.1]], np.float32))
    assert num_clamped == 0
    assert codec.decode_rows(packed).tolist() == [[np.float32(0.1)], [np.float32(-0.1)]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "value"), [("nan", np.nan), ("posinf", np.inf), ("neginf", -np.inf)])
def test_numbers_that_are_not_finite(dtype, name, value):
    values = np.array([[1, 2], [3, value]], dtype)
    with pytest.raises(EpisodeError, match=rf"row 1, value 1: .* RoundClamp\({name}="):
        RoundClamp(dtype=dtype, row_size=2).encode(values)
    for constant, stored, clamped in ((2.25, 2.25, 0), (-500.0, -127.0, 1)):
        codec = RoundClamp(dtype=dtype, row_size=2, **{name: constant})
        packed, num_clamped = codec.encode_rows(values)
        assert codec.decode_rows(packed).tolist() == [[1, 2], [3, stored]]
        assert num_clamped == clamped


def test_float16_overflow():
    codec = RoundClamp(decimals=0, low=-65504.0, high=65504.0, dtype="float16")
    ends = np.array([[65504.0], [-65504.0]], np.float16)
    assert (codec.decode(codec.encode(ends)) == ends).all()
    for low, high, decimals in ((0.0, 70000.0, 0), (-70000.0, 0.0, 0), (0.0, 65504.0, -4)):
        with pytest.raises(SpecError, match="float16"):
            RoundClamp(decimals=decimals, low=low, high=high, dtype="float16")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"low": 1.0, "high": 0.0}, "low <= high"),
        ({"low": math.nan}, "finite"),
        ({"high": math.inf}, "finite"),
        ({"low": [[1.0]]}, "flat sequence"),
        ({"low": []}, "flat sequence"),
        ({"low": "much"}, "number"),
        ({"low": [0.0, 0.0], "row_size": 3}, "row_size=3"),
        ({"low": [0.0, 0.0], "high": [1.0, 1.0, 1.0]}, "row_size"),
        ({"row_size": 0}, "row_size"),
        ({"row_size": 2.0}, "whole number"),
        ({"decimals": 1.5}, "whole number"),
        ({"decimals": 23}, "decimals"),
        ({"decimals": -23}, "decimals"),
        ({"dtype": "int32"}, "dtype"),
        ({"dtype": "no such"}, "dtype"),
        ({"dtype": np.dtype("float32").newbyteorder()}, "byte order"),
        ({"nan": math.nan}, "finite"),
        ({"posinf": math.inf}, "finite"),
        ({"nan": [1.0]}, "one finite number"),
        ({"decimals": 0, "low": -(2.0**52), "high": 2.0**52, "dtype": "float64"}, r"2\*\*53 levels"),
        ({"decimals": 2, "low": 1e15, "high": 1e15 + 1, "dtype": "float64"}, r"2\*\*53"),
        ({"decimals": 22}, r"2\*\*53"),
        ({"low": -1e39, "high": 1.0, "decimals": -22}, "float32"),
        ({"low": 0.0, "high": 1.79e308, "decimals": -22, "dtype": "float64"}, r"2\*\*53"),
    ],
)
def test_refused_configurations(config, message):
    with pytest.raises(SpecError, match=message):
        RoundClamp(**config)


def test_most_levels():
    codec = RoundClamp(decimals=0, low=-(2.0**52), high=2.0**52 - 1, dtype="float64")
    assert codec.levels == (2**53,)
    assert codec.bits == (53,)
    ends = np.array([[-(2.0**52)], [2.0**52 - 1], [-1.0], [0.0]])
    assert (codec.decode(codec.encode(ends)) == ends).all()


def test_configuration_is_plain_frozen_and_keyword_only():
    codec = RoundClamp(low=np.array([0, 1]), high=(np.float32(2), 3), dtype=np.float64, nan=np.int8(1))
    assert codec.get_config() == {
        "id": "replaystore.round_clamp",
        "decimals": 2,
        "low": [0.0, 1.0],
        "high": [2.0, 3.0],
        "dtype": "float64",
        "row_size": 2,
        "nan": 1.0,
        "posinf": None,
        "neginf": None,
    }
    assert hash(codec) == hash(eval(repr(codec)))
    with pytest.raises(AttributeError):
        codec.decimals = 3
    with pytest.raises(TypeError):
        RoundClamp(2)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 3), np.float64),
        np.zeros((2, 3), np.dtype("float32").newbyteorder()),
        np.zeros((2, 3), np.int32),
        np.zeros((2, 2), np.float32),
        np.float32(1.0).reshape(()),
    ],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_values_that_do_not_fit_are_refused(values):
    codec = RoundClamp(row_size=3)
    with pytest.raises(EpisodeError, match="expected float32"):
        codec.encode_rows(values)
    with pytest.raises(EpisodeError, match="expected float32"):
        codec.encode(values)


def test_rows_of_any_shape():
    codec = RoundClamp(row_size=6)
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    packed, _ = codec.encode_rows(values)
    assert packed.tobytes() == bytes(codec.encode(values)) == bytes(codec.encode(values.tobytes()))
    assert (codec.decode_rows(packed).reshape(values.shape) == values).all()
    assert (codec.decode_rows(packed[::2]).reshape(2, 2, 3) == values[::2]).all()


def test_fortran_order_is_refused():
    with pytest.raises(EpisodeError, match="order"):
        RoundClamp(row_size=3).encode(np.zeros((2, 3), np.float32, order="F"))


def test_a_level_above_the_last_is_damage():
    codec = RoundClamp(decimals=0, low=0.0, high=5.0, row_size=3)
    packed, _ = codec.encode_rows(np.array([[1, 2, 3], [4, 5, 5]], np.float32))
    packed[1, 0] |= 0b111 << 3
    with pytest.raises(ChunkError, match="row 1, value 1: expected one of 6 levels"):
        codec.decode(packed)
    with pytest.raises(ChunkError, match="row 1"):
        codec.decode_rows(packed, rows=[0, 0, 1])
    assert codec.decode_rows(packed, rows=[0, 0]).tolist() == [[1, 2, 3]] * 2


def test_set_padding_bits_are_damage():
    codec = RoundClamp(decimals=0, low=0.0, high=5.0, row_size=3)
    packed, _ = codec.encode_rows(np.zeros((3, 3), np.float32))
    packed[2, 1] |= 0b10
    with pytest.raises(ChunkError, match="row 2: expected zeros"):
        codec.decode(packed)


def test_rows_and_out_that_do_not_fit_are_refused():
    codec = RoundClamp(row_size=3)
    packed, _ = codec.encode_rows(np.zeros((2, 3), np.float32))
    for bad in (packed.reshape(-1), packed[:, :-1], packed.astype(np.int8)):
        with pytest.raises(ChunkError, match="packed rows"):
            codec.decode_rows(bad)
    for out in (np.zeros((3, 3), np.float32), np.zeros((2, 3)), np.zeros(6, np.float32)):
        with pytest.raises(ValueError, match="expected out"):
            codec.decode_rows(packed, out)
    with pytest.raises(ChunkError, match="rows of 6 bytes"):
        codec.decode(packed.tobytes() + b"\0")
    with pytest.raises(ChunkError, match="for out"):
        codec.decode(packed, out=np.zeros((3, 3), np.float32))
    with pytest.raises(IndexError):
        codec.decode_rows(packed, rows=[2])


@given(st.binary(max_size=60))
def test_any_bytes_decode_within_the_bounds_or_are_damage(data):
    codec = RoundClamp(decimals=1, low=[-3.0, 0.0, -100.0], high=[9.9, 0.0, -20.0])
    try:
        decoded = codec.decode(data)
    except ChunkError:
        return
    assert (decoded >= np.array(codec.low, np.float32)).all()
    assert (decoded <= np.array(codec.high, np.float32)).all()
    assert bytes(codec.encode(decoded)) == data
