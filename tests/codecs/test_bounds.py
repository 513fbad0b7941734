"""Tight bounds against all pairs of values, tried one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaystore.codecs.round_clamp import RoundClamp
from replaystore.codecs.round_clamp.bounds import tight_bounds
from replaystore.errors import SpecError


def oracle(column, clamped_share):
    """The distance of the closest pair of bounds."""
    return min(
        high - low
        for low in column
        for high in column
        if low <= high and sum(not low <= x <= high for x in column) <= clamped_share * len(column)
    )


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-1000, 1000)), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]),
)
def test_the_closest_of_all(rows, clamped_share):
    values = np.array(rows, np.float64)
    low, high = tight_bounds(values, clamped_share)
    for column, lo, hi in zip(values.T, low, high, strict=True):
        assert ((column < lo) | (column > hi)).sum() <= clamped_share * len(column)
        assert hi - lo == oracle(column.tolist(), clamped_share)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_codec_with_them_clamps_no_more(dtype):
    values = np.random.default_rng(0).standard_cauchy((2000, 7)).astype(dtype)
    for share in (0.0, 0.001, 0.01):
        low, high = tight_bounds(values, share)
        assert low.dtype == values.dtype
        codec = RoundClamp(decimals=2, low=low, high=high, dtype=dtype)
        for column in range(7):
            one = RoundClamp(decimals=2, low=low[column], high=high[column], dtype=dtype)
            assert one.encode_rows(values[:, column : column + 1])[1] <= share * 2000
        assert (codec.encode_rows(values)[1] > 0) == (share > 0)


def test_the_largest_floats():
    values = np.array([[-1.7e308], [0.0], [1.7e308]])
    assert [bound.tolist() for bound in tight_bounds(values)] == [[-1.7e308], [1.7e308]]


@pytest.mark.parametrize(
    ("values", "share"),
    [
        (np.zeros(3), 0.0),
        (np.zeros((0, 3)), 0.0),
        (np.zeros((3, 3), np.int64), 0.0),
        (np.full((3, 3), np.nan), 0.0),
        (np.full((3, 3), np.inf), 0.0),
        (np.zeros((3, 3)), 1.0),
        (np.zeros((3, 3)), -0.1),
        (np.zeros((3, 3)), np.nan),
    ],
)
def test_what_cannot_be_is_refused(values, share):
    with pytest.raises(SpecError, match="tight_bounds"):
        tight_bounds(values, share)
