"""Encodes a chunk of frames on two threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta import FrameDelta
from replaystore.codecs.frame_delta.chunk import pack_chunk

U8 = NDArray[np.uint8]


def encode_frames(codec: FrameDelta, frames: U8, starts: Sequence[int], helper: Executor | None) -> bytes:
    """Returns the same bytes as `codec.encode_frames(frames, starts)`. With a helper, two threads encode.

    Args:
        codec: encodes the frames.
        frames: uint8 (rows, *frame shape), C-contiguous. They are overwritten.
        starts: rows that no difference crosses, ascending. Rows from the last one on are padding.
        helper: encodes half of the groups. None: the calling thread encodes all.
    """
    bounds = sorted({0, len(frames), *starts})
    groups = [row for start, stop in pairwise(bounds) for row in range(start, stop, codec.group_rows)]
    cut = min(groups, key=lambda row: abs(2 * row - starts[-1]))
    if helper is None or cut == 0:
        return codec.encode_frames(frames, starts, overwrite=True)
    encode = partial(codec.encode_frames, overwrite=True)
    second = helper.submit(encode, frames[cut:], [row - cut for row in starts if row >= cut])
    first = encode(frames[:cut], [row for row in starts if row < cut])
    entries: list[tuple[int, int, bytes]] = []
    for half in (first, second.result()):
        parsed = codec.parse(memoryview(half))
        edges = parsed.starts.tolist()
        forms, rows = parsed.table["form"].tolist(), parsed.table["num_rows"].tolist()
        entries += [
            (count, form, half[start:stop])
            for count, form, (start, stop) in zip(rows, forms, pairwise(edges), strict=True)
        ]
    return pack_chunk(codec.format, len(frames), entries)
