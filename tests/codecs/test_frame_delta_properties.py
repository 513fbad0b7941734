"""Every configuration of `FrameDelta` against the frames themselves, over lengths, cuts, episode starts and rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaystore.codecs.frame_delta import FrameDelta
from replaystore.codecs.frame_delta.chunk import ENTROPIES, FILTERS, REFERENCES
from replaystore.kernels import spans as spans_kernel
from replaystore.kernels.filters import FRAME_BLOCK, FRAME_PACKED, FRAME_PACKED_ALONE, FRAME_RAW, FRAME_SPANS
from replaystore.kernels.frame_layout import FORM_BLOCK, FORM_DELTA, FORM_LIST, FORM_RAW, FORM_RAW_BLOCK

SHAPES = [((7, 9), "first"), ((3, 5, 6), "first"), ((5, 6, 3), "last"), ((2, 5, 6), "first"), ((1, 1), "first")]


def film(rng: np.random.Generator, num_frames: int, shape: tuple[int, ...]) -> np.ndarray:
    """Frames of every kind: still, changed in a few places, changed everywhere, cut to noise or to black."""
    frames = np.empty((num_frames, *shape), np.uint8)
    frame = rng.integers(0, 256, shape).astype(np.uint8)
    for k in range(num_frames):
        frame = frame.copy()
        kind = rng.integers(6)
        if kind == 0:
            frame = rng.integers(0, 256, shape).astype(np.uint8)
        elif kind == 1:
            frame[:] = 0
        elif kind == 2:
            frame += np.uint8(1)
        elif kind < 5:
            flat = frame.reshape(-1)
            start = rng.integers(flat.size)
            flat[start : start + rng.integers(1, 12)] ^= np.uint8(rng.integers(1, 256))
        frames[k] = frame
    return frames


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SHAPES), st.sampled_from(ENTROPIES), st.sampled_from(REFERENCES), st.sampled_from(FILTERS),
    st.booleans(), st.integers(1, 9), st.integers(0, 25), st.integers(0, 2**32),
)  # fmt: skip
def test_any_rows_of_any_configuration(shape, entropy, reference, keyframe_filter, green, interval, num_frames, seed):
    frame_shape, channels = shape
    three = len(frame_shape) == 3 and frame_shape[0 if channels == "first" else 2] == 3
    codec = FrameDelta(
        frame_shape=frame_shape, channels=channels, keyframe_interval=interval, reference=reference, entropy=entropy,
        keyframe_filter=keyframe_filter, color_transform="subtract_green" if green and three else "none",
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    frames = film(rng, num_frames, frame_shape)
    starts = sorted(set(rng.integers(0, num_frames, 2).tolist())) if num_frames else []
    chunk = codec.encode_frames(frames, starts)
    assert (codec.decode(chunk).reshape(frames.shape) == frames).all()
    rows = rng.integers(0, num_frames, int(rng.integers(0, 30))) if num_frames else np.empty(0, np.int64)
    assert (codec.decode_rows(chunk, rows) == frames[rows]).all()  # unsorted, some more than once


@pytest.mark.parametrize("reference", REFERENCES)
def test_every_form_is_written(reference):
    """The test above would prove little if its films never led to some form."""
    rng = np.random.default_rng(0)
    found = set()
    for entropy in ENTROPIES:
        codec = FrameDelta(frame_shape=(7, 9), keyframe_interval=6, reference=reference, entropy=entropy)
        films = [film(rng, 24, (7, 9)) for _ in range(40)]
        films.append(np.repeat(rng.integers(0, 256, (3, 1, 1)), 63, 1).reshape(3, 7, 9).astype(np.uint8))
        for frames in films:
            found |= set(codec.parse(codec.encode_frames(frames)).table["form"].tolist())
    expected = {FORM_RAW, FORM_DELTA, FORM_LIST}
    if reference != "keyframe":
        expected |= {FORM_BLOCK, FORM_RAW_BLOCK}
    assert found == expected


def kinds_of(codec: FrameDelta, chunk: bytes) -> list[set[int]]:
    """The kinds of frames in each group in form 4 of a chunk."""
    parsed = codec.parse(chunk)
    found = []
    for entry in parsed.table[parsed.table["form"] == FORM_LIST]:
        num_rows, start = int(entry["num_rows"]), parsed.payload_start + int(entry["offset"])
        ends = np.frombuffer(chunk, "<u4", num_rows, start)
        bodies = start + 4 * num_rows + np.concatenate(([0], ends[:-1]))
        found.append({chunk[at] for at in bodies.tolist()})
    return found


def test_packed_groups_take_what_is_small() -> None:
    """Each film leads to another form, and all come back."""
    rng = np.random.default_rng(0)
    shape = (48, 64)
    smooth = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    noise = rng.integers(0, 256, shape).astype(np.uint8)
    drifting = np.stack([smooth + (rng.integers(0, 3, shape) + k).astype(np.uint8) for k in range(32)])
    dots = np.repeat(smooth[None], 32, axis=0)
    dots[np.arange(32), rng.integers(0, 48, 32), rng.integers(0, 64, 32)] ^= 255
    cut = np.concatenate((np.repeat(noise[None], 11, axis=0), drifting[11:]))
    noisy = rng.integers(0, 256, (32, *shape)).astype(np.uint8)
    row = np.zeros(shape, np.uint8)
    row[:6] = np.tile(noise[:6, :8], (1, 8))  # repeats in a way that octets do not see
    flicker = np.stack([np.roll(row, k * k, 0) for k in range(32)])
    codec = FrameDelta(frame_shape=shape)
    chunks = {
        name: codec.encode(film)
        for name, film in {"drifting": drifting, "dots": dots, "cut": cut, "noisy": noisy, "flicker": flicker}.items()
    }
    assert kinds_of(codec, chunks["drifting"]) == [{FRAME_PACKED, FRAME_PACKED_ALONE}] * 2
    assert kinds_of(codec, chunks["dots"]) == [{FRAME_SPANS, FRAME_BLOCK}]  # one long group
    assert kinds_of(codec, chunks["cut"])[0] == {FRAME_RAW, FRAME_SPANS, FRAME_PACKED_ALONE, FRAME_PACKED}
    assert codec.parse(chunks["noisy"]).table["form"].tolist() == [FORM_RAW] * 2
    assert set(codec.parse(chunks["flicker"]).table["form"].tolist()) <= {FORM_BLOCK, FORM_RAW_BLOCK}
    for name, film in {"drifting": drifting, "dots": dots, "cut": cut, "noisy": noisy, "flicker": flicker}.items():
        assert (codec.decode(chunks[name]).reshape(film.shape) == film).all()
        assert (codec.decode_rows(chunks[name], [31, 2, 17]) == film[[31, 2, 17]]).all()
        other = FrameDelta(frame_shape=shape, entropy="lz4").encode(film)
        assert len(chunks[name]) <= 1.35 * len(other)


@given(st.integers(0, 3000), st.integers(0, 40), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_spans(size, changes, seed):
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 256, size).astype(np.uint8)
    frame = reference.copy()
    for _ in range(changes if size else 0):
        start = rng.integers(size)
        frame[start : start + int(rng.choice([1, 2, 7, 8, 9, 300]))] = rng.integers(256)
    out = np.empty(2 * size + 16, np.uint8)
    written = spans_kernel.encode_spans(frame, reference, out)
    assert written >= 0
    assert (written == 0) == (frame == reference).all()
    # In buffers without a byte to spare: nothing may be read or written behind them.
    spans, target = out[:written].copy(), reference.copy()
    guard = np.full(size + 8, 0xAA, np.uint8)
    guard[:size] = target
    assert spans_kernel.decode_spans(spans.ctypes.data, written, guard.ctypes.data, size) == 0
    assert (guard[:size] == frame).all()
    assert (guard[size:] == 0xAA).all()
    if written:
        assert spans_kernel.encode_spans(frame, reference, np.empty(written - 1, np.uint8)) == -1
        shorter = spans_kernel.decode_spans(
            spans.ctypes.data, written, guard.ctypes.data, max(0, int(np.flatnonzero(frame != reference)[-1]))
        )
        assert shorter == -1


def test_a_long_skip():
    reference = np.zeros((1 << 24) + 5000, np.uint8)
    frame = reference.copy()
    frame[[3, 70_000, -1]] = 7
    out = np.empty(64, np.uint8)
    written = spans_kernel.encode_spans(frame, reference, out)
    assert 0 < written <= 24
    assert spans_kernel.decode_spans(out.ctypes.data, written, reference.ctypes.data, reference.size) == 0
    assert (reference == frame).all()
