"""Finding the groups of a batch: every entry leads to its row again, whatever the order, gaps and strangers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaystore.codecs.frame_delta.chunk import GROUP
from replaystore.kernels.group_lookup import locate_groups, locate_windows
from replaystore.kernels.group_request import GroupRequest, GroupTable
from replaystore.kernels.row_copies import copy_windows, find_rows, take_rows
from replaystore.kernels.status import OK, ROW_IN_NO_GROUP, TABLE_UNKNOWN


class Chunks:
    """Tables of groups of random sizes, in some of a range of chunks, and which of them are in memory."""

    def __init__(self, rng: np.random.Generator, chunk_rows: int, first: int, count: int) -> None:
        self.chunk_rows, self.first, self.count = chunk_rows, first, count
        self.tables = []
        self.addresses, self.sizes, self.payloads = np.zeros((3, count), np.int64)
        for c in range(count):
            starts = [0]
            while starts[-1] < chunk_rows:
                starts.append(min(chunk_rows, starts[-1] + int(rng.integers(1, 60_000))))
            table = np.zeros(len(starts) - 1, GROUP)
            table["first_row"], table["num_rows"] = starts[:-1], np.diff(starts)
            table["form"], table["offset"] = c % 5, 1000 * np.arange(len(table))
            table["length"] = 7 + np.arange(len(table))
            self.tables.append(table)
            if rng.random() < 0.8:
                self.addresses[c], self.sizes[c] = table.ctypes.data, len(table)
                self.payloads[c] = (1 << 40) * (c + 1) * (rng.random() < 0.9)

    @property
    def table(self) -> GroupTable:
        return GroupTable(self.addresses, self.sizes, self.payloads, self.first, self.chunk_rows)

    def check_group(self, rows: np.ndarray, found: GroupRequest, g: int) -> None:
        """The entries `rows` lie in group g."""
        chunk = int(found.chunks[g])
        entry = self.tables[chunk][found.numbers[g]]
        assert found.places[g] == self.payloads[chunk] + entry["offset"]
        assert (found.lengths[g], found.forms[g]) == (entry["length"], entry["form"])
        assert found.num_rows[g] == entry["num_rows"]
        start = (self.first + chunk) * self.chunk_rows + int(entry["first_row"])
        assert rows.min() >= start
        assert rows.max() < start + found.num_rows[g]


def request_of(size: int) -> GroupRequest:
    """Room for `size` entries, filled with a number that is none of theirs."""
    request = GroupRequest.empty(size)
    for array in request:
        array[:] = -7
    return request


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([3, 1000, 1 << 20]), st.sampled_from([0, 5, 1 << 30]), st.integers(1, 4))
def test_windows_lead_to_their_rows(seed, chunk_rows, first, depth):
    rng = np.random.default_rng(seed)
    chunks = Chunks(rng, chunk_rows, first, int(rng.integers(1, 12)))
    low, stop = first * chunk_rows, (first + chunks.count) * chunk_rows
    frames = rng.integers(low, stop, (int(rng.integers(1, 60)), depth))
    strange = rng.random(frames.shape) < rng.choice([0, 0.05, 0.5])
    frames[strange] = rng.choice([-1, low - 1, stop, stop + chunk_rows], np.count_nonzero(strange))
    found, others = request_of(frames.size), np.full(frames.size, -7, np.int64)
    status, count, num_others = locate_windows(frames, chunks.table, found, others)
    at = frames.reshape(-1) // chunk_rows - first
    inside = (frames.reshape(-1) >= 0) & (at >= 0) & (at < chunks.count)
    known = np.zeros(frames.size, bool)
    known[inside] = (chunks.payloads[at[inside]] != 0) & (chunks.addresses[at[inside]] != 0)
    assert others[:num_others].tolist() == np.flatnonzero(~known).tolist()
    if num_others > frames.size // 8:
        assert status == TABLE_UNKNOWN
        return
    assert status == OK
    assert found.bounds[0] == 0
    assert found.bounds[count] == frames.size - num_others
    seen = set()
    previous = -1
    for g in range(count):
        entries = slice(found.bounds[g], found.bounds[g + 1])
        rows = frames[found.targets[entries], found.slots[entries]]
        chunks.check_group(rows, found, g)
        start = (first + found.chunks[g]) * chunk_rows
        start += chunks.tables[found.chunks[g]][found.numbers[g]]["first_row"]
        assert (found.row_in_group[entries] == rows - start).all()
        assert previous <= rows[0]
        assert (np.diff(rows) >= 0).all()
        previous = rows[-1]
        seen |= set(zip(found.targets[entries].tolist(), found.slots[entries].tolist(), strict=True))
    assert len(seen) == frames.size - num_others


def test_a_row_in_no_group_is_told_from_a_table_not_known():
    chunks = Chunks(np.random.default_rng(1), 50, 2, 1)
    chunks.addresses[0], chunks.sizes[0] = chunks.tables[0].ctypes.data, len(chunks.tables[0])
    chunks.payloads[0] = 64
    found = request_of(2)

    def locate(*rows):
        return locate_groups(np.array(rows), chunks.table, found)

    status, count = locate(100, 149)
    assert (status, count >= 1) == (OK, True)
    assert locate(100, 150) == (TABLE_UNKNOWN, 1)
    chunks.tables[0]["num_rows"][-1] -= 1
    assert locate(100, 149) == (ROW_IN_NO_GROUP, 1)
    others = np.zeros(2, np.int64)
    assert locate_windows(np.array([[149, 100]]), chunks.table, found, others) == (ROW_IN_NO_GROUP, 1, 0)


def test_a_request_gives_part_of_itself():
    request = request_of(4)._replace(
        numbers=np.array([5, 6, 7, 8]), bounds=np.array([0, 1, 3, 4, 4]), row_in_group=np.arange(4),
        targets=np.arange(10, 14), slots=np.arange(20, 24),
    )  # fmt: skip
    some = request.first(3)
    assert (some.numbers.tolist(), some.bounds.tolist()) == ([5, 6, 7], [0, 1, 3, 4])
    picked = some.pick(np.array([False, True, True]))
    assert (picked.numbers.tolist(), picked.bounds.tolist()) == ([6, 7], [0, 2, 3])
    assert picked.row_in_group.tolist() == [1, 2, 3]
    assert picked.targets.tolist() == [11, 12, 13]
    assert picked.slots.tolist() == [21, 22, 23]
    assert some.pick(np.ones(3, bool)) is some


def test_copies_from_memory_name_what_is_missing():
    row_bytes, chunk_rows = 5, 4
    held = {2: np.arange(20, dtype=np.uint8), 4: np.arange(100, 115, dtype=np.uint8)}  # chunk 4 lacks its last row
    addresses, sizes = np.zeros((2, 3), np.int64)
    for chunk, data in held.items():
        addresses[chunk - 2], sizes[chunk - 2] = data.ctypes.data, data.size
    frames = np.array([[8, 9], [-1, 11], [11, 12], [16, 18], [18, 19], [7, 8], [20, 16], [10, 17]])
    out, missing = np.full((8, 2 * row_bytes), 77, np.uint8), np.zeros(8, np.int64)
    count, copied = copy_windows(addresses, sizes, 2, chunk_rows, row_bytes, frames, out, missing)
    assert copied == 2 + 1 + 2 + 2  # of windows 0, 1, 3 and 7; one row of zeros is not copied
    assert missing[:count].tolist() == [2, 4, 5, 6]

    def row(number):
        if number < 0:
            return [0] * row_bytes
        start = number % chunk_rows * row_bytes
        return held[number // chunk_rows][start : start + row_bytes].tolist()

    for b in (0, 1, 3, 7):
        assert out[b].tolist() == row(frames[b, 0]) + row(frames[b, 1])
    which, local = np.zeros((2, frames.size), np.int64)
    assert find_rows(frames.reshape(-1), chunk_rows, 2, addresses, which, local) == 12
    assert local[:2].tolist() == [0, 1]
    for small in (out[:7], out[:, :9].copy()):
        with pytest.raises(ValueError, match="does not fit"):
            copy_windows(addresses, sizes, 2, chunk_rows, row_bytes, frames, small, missing)


def test_rows_are_taken_by_number():
    held = np.arange(12, dtype=np.uint8).reshape(4, 3)
    out = np.zeros((3, 3), np.uint8)
    assert take_rows(held, 10, np.array([13, 10, 13]), out) == -1
    assert out.tolist() == [[9, 10, 11], [0, 1, 2], [9, 10, 11]]
    assert take_rows(held, 10, np.array([13, 9]), out) == 1
    assert take_rows(held, 10, np.array([14]), out) == 0
    with pytest.raises(ValueError, match="does not fit"):
        take_rows(held, 10, np.array([10]), out[:, :2].copy())
