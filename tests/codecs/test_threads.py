"""Threads that encode at once share the heap of the process: none may write to memory that it has given back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from replaystore.codecs.frame_delta.chunk import ENTROPIES

ENCODE = """
import sys, threading
import numpy as np
from replaystore.codecs.frame_delta import FrameDelta

rng = np.random.default_rng(0)
y, x = np.mgrid[:84, :84]
frames = np.stack([((x + k) // 3 + y + rng.integers(0, 3, (3, 84, 84))).astype(np.uint8) for k in range(64)])
frames[:, :, 30:, :] = frames[:1, :, 30:, :]  # little enough changes for LZ4 to be tried
codec = FrameDelta(frame_shape=(3, 84, 84), entropy=sys.argv[1])
expected = codec.encode(frames)
wrong = []

def encode():
    for _ in range(int(sys.argv[2])):
        if codec.encode(frames) != expected or not (codec.decode(expected).reshape(frames.shape) == frames).all():
            wrong.append(1)

threads = [threading.Thread(target=encode) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong
"""


@pytest.mark.parametrize("entropy", ENTROPIES)
def test_threads_that_share_one_heap(entropy):
    """With one arena, memory that a thread gives back is what another one gets next."""
    repeats = {"packed": "60"}.get(entropy, "2")
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ENCODE, entropy, repeats], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
