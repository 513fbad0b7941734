"""A chunk encoded on two threads is the chunk that one thread makes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaystore.codecs.frame_delta import FrameDelta
from replaystore.columns.frame_encoding import encode_frames

SHAPE = (3, 6, 5)
OPTIONS = [{}, {"entropy": "zstd"}, {"entropy": "none"}, {"reference": "keyframe", "entropy": "spans"}]


@pytest.fixture(scope="module")
def helper():
    with ThreadPoolExecutor(1) as pool:
        yield pool


@settings(max_examples=60)
@given(
    st.sampled_from(OPTIONS), st.integers(1, 9), st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.integers(0, 30), st.integers(0, 2**32),
)  # fmt: skip
def test_two_threads_make_the_same_bytes(helper, options, interval, commits, padding, seed):
    codec = FrameDelta(frame_shape=SHAPE, keyframe_interval=interval, **options)
    used = sum(commits)
    frames = np.zeros((used + padding, *SHAPE), np.uint8)
    frames[:used] = np.random.default_rng(seed).integers(0, 4, (used, *SHAPE))
    starts = [0, *np.cumsum(commits).tolist()]
    alone = codec.encode_frames(frames, starts)
    calls = []

    class Counting:
        def submit(self, *arguments):
            calls.append(len(arguments[1]))
            return helper.submit(*arguments)

    assert encode_frames(codec, frames.copy(), starts, Counting()) == alone
    assert encode_frames(codec, frames.copy(), starts, None) == alone
    if used > 2 * interval:
        assert len(calls) == 1  # it was shared, about half and half
        assert abs(len(frames) - calls[0] - used / 2) <= interval


def test_an_error_of_the_second_thread_is_raised(helper, monkeypatch):
    codec = FrameDelta(frame_shape=SHAPE, keyframe_interval=2)
    frames = np.zeros((8, *SHAPE), np.uint8)
    encode = FrameDelta.encode_frames

    def fail(self, part, starts, **how):
        if part is not frames and part.ctypes.data != frames.ctypes.data:
            raise MemoryError
        return encode(self, part, starts, **how)

    monkeypatch.setattr(FrameDelta, "encode_frames", fail)
    with pytest.raises(MemoryError):
        encode_frames(codec, frames, [0, 8], helper)
