"""Hostile chunks whose checksums were repaired: a typed error or values, never an access outside the buffer."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from faults.scenario import Child

from replaystore.codecs.frame_delta import FrameDelta
from replaystore.codecs.frame_delta.chunk import GROUP, HEADER
from replaystore.errors import ReplayStoreError
from replaystore.testing import episodes

SHAPES: tuple[tuple[int, ...], ...] = ((8, 8), (3, 4, 5), (1, 300))
CONFIGS = [
    {"entropy": entropy, "reference": reference, "keyframe_filter": keyframe_filter}
    for entropy in ("none", "lz4", "zstd", "spans", "points", "packed")
    for reference in ("inward", "previous", "keyframe")
    for keyframe_filter in ("none", "left", "up")
]


def chunk_of(codec: FrameDelta, seed: int) -> bytes:
    """Frames that change little, so that every form of a group is met."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(episodes.frame_of(seed, 0, codec.frame_shape)[None], 9, axis=0)
    for k in range(1, 9):
        frames[k] = frames[k - 1]
        for _ in range(int(rng.integers(0, 4))):
            frames[k].reshape(-1)[rng.integers(frames[k].size)] = rng.integers(256)
    if seed % 3 == 0:
        frames = np.zeros_like(frames)
    return codec.encode_frames(frames, [0, 4])


def repair(chunk: bytearray) -> None:
    """Makes all checksums right, as far as the table can be found."""
    groups = struct.unpack_from("<I", chunk, 16)[0]
    end = HEADER.itemsize + GROUP.itemsize * groups
    if end <= len(chunk):
        for k in range(groups):
            at = HEADER.itemsize + GROUP.itemsize * k
            offset, length = struct.unpack_from("<QI", chunk, at + 8)
            body = bytes(chunk[end + offset : end + offset + length]) if end + offset < len(chunk) else b""
            struct.pack_into("<I", chunk, at + 20, google_crc32c.value(body))
        crc = google_crc32c.extend(google_crc32c.value(bytes(chunk[:60])), bytes(chunk[HEADER.itemsize : end]))
        struct.pack_into("<I", chunk, 60, crc)


def mutate(rng: np.random.Generator, chunk: bytes) -> bytearray:
    changed = bytearray(chunk)
    groups = struct.unpack_from("<I", chunk, 16)[0]
    payload = HEADER.itemsize + GROUP.itemsize * groups
    for _ in range(int(rng.integers(1, 4))):
        what = rng.integers(0, 10)
        if what == 0:
            at = int(rng.integers(8, 60))
        elif what < 3:
            at = int(rng.integers(HEADER.itemsize, payload))
        else:
            at = int(rng.integers(payload, len(changed)))
        changed[at] = (changed[at] ^ (1 << int(rng.integers(8)))) if rng.random() < 0.5 else int(rng.integers(256))
    if rng.random() < 0.1:
        del changed[int(rng.integers(64, len(changed))) :]
    elif rng.random() < 0.1:  # the last group shorter or longer, and everything else in agreement
        at = HEADER.itemsize + GROUP.itemsize * (groups - 1)
        length = struct.unpack_from("<I", changed, at + 16)[0]
        cut = int(rng.integers(0, min(length, 12) + 1))
        struct.pack_into("<I", changed, at + 16, (length - cut) % (1 << 32))
        payload_bytes = struct.unpack_from("<Q", changed, 40)[0]  # perhaps altered above
        struct.pack_into("<Q", changed, 40, (payload_bytes - cut) % (1 << 64))
        if cut:
            del changed[-cut:]
    repair(changed)
    return changed


class Guarded:
    """Memory that ends, or begins, at a page that must not be touched."""

    def __init__(self, pages: int) -> None:
        self._size = pages * mmap.PAGESIZE
        self._map = mmap.mmap(-1, self._size + 2 * mmap.PAGESIZE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None, use_errno=True)
        for at in (base, base + mmap.PAGESIZE + self._size):
            if libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(mmap.PAGESIZE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")

    def take(self, size: int, *, at_end: bool) -> np.ndarray:
        """uint8 (size,), against the forbidden page behind, or before."""
        start = mmap.PAGESIZE + (self._size - size if at_end else 0)
        return np.frombuffer(self._map, np.uint8, size, start)


def attack(mutations: int, seed: int, report: Callable[[str], None]) -> None:
    rng = np.random.default_rng(seed)
    source, target = Guarded(8), Guarded(8)
    refused = decoded = 0
    chunks = []
    for shape in SHAPES:
        for config in CONFIGS:
            codec = FrameDelta(frame_shape=shape, keyframe_interval=3, **config)
            chunks.append((codec, chunk_of(codec, len(chunks))))
    for trial in range(mutations):
        codec, chunk = chunks[trial % len(chunks)]
        hostile = mutate(rng, chunk)
        buffer = source.take(len(hostile), at_end=bool(trial % 5))
        buffer[:] = np.frombuffer(hostile, np.uint8)
        frame_bytes = int(np.prod(codec.frame_shape))
        out = target.take(9 * frame_bytes, at_end=bool(trial % 3)).reshape(9, *codec.frame_shape)
        try:
            rows = rng.permutation(9) if trial % 2 else np.arange(9)
            codec.decode_rows(buffer.data, rows, out)
            decoded += 1
        except ReplayStoreError:
            refused += 1
        except IndexError as err:  # fewer rows than asked for
            if "rows of a chunk" not in str(err):
                raise
            refused += 1
        if trial % 4 == 0:
            try:
                codec.decode(bytes(hostile))
            except ReplayStoreError:
                pass
    report(f"{refused} {decoded}")


def run_attack(mutations: int, seed: int) -> tuple[int, int]:
    lines, status = Child(lambda report: attack(mutations, seed, report)).wait(120)
    assert status == 0, (status, lines)
    refused, decoded = map(int, lines[0].split())
    return refused, decoded


def test_the_guard_is_real() -> None:
    def overrun(report: Callable[[str], None]) -> None:
        faulthandler.disable()
        array = Guarded(1).take(64, at_end=True)
        ctypes.string_at(array.ctypes.data, 65)

    _, status = Child(overrun).wait(20)
    assert status == -11


@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_chunks(seed: int) -> None:
    mutations = 6000
    refused, decoded = run_attack(mutations, seed)
    assert refused + decoded == mutations
    assert min(refused, decoded) > mutations // 20
    print(
        f"{mutations} mutations of {len(CONFIGS) * len(SHAPES)} chunks: {refused} refused, {decoded} decoded in bounds"
    )


def test_hostile_chunks_with_checked_bounds(tmp_path: Path) -> None:
    """The same in a process whose kernels check each index: an access outside would be an IndexError."""
    mutations = 900
    code = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"
        "from faults.test_hostile_chunk import attack\n"
        f"attack({mutations}, 3, print)\n"
    )
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    refused, decoded = map(int, done.stdout.split())
    assert refused + decoded == mutations
    print(f"{mutations} mutations: {refused} refused, {decoded} decoded in bounds")
