"""Chunk files in memory maps: what is read and how, what is checked, and what happens when a file fails."""

from __future__ import annotations

import logging
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from replaystore.errors import ChunkError
from replaystore.kernels import memory_maps
from replaystore.runtime import memory_map, reclaimed
from replaystore.runtime.memory_map import MemoryMap, file_system_of, is_remote
from replaystore.sampling.sampler import Sampler
from replaystore.spec import MODES, FieldSpec
from replaystore.storage.reading import column_chunks
from replaystore.store import ReplayStore
from replaystore.testing import episodes

SIDE, ROWS, NUM_EPISODES = 40, 32, 4  # a frame is larger than a page


def frames_of(episode):
    rng = np.random.default_rng(episode)
    return rng.integers(0, 256, (ROWS, 3, SIDE, SIDE)).astype(np.uint8)


def make_store(path, mode="half", num_episodes=NUM_EPISODES):
    """One chunk per episode, sealed."""
    fields = [FieldSpec.image("observation", (3, SIDE, SIDE), frame_stack=1)]
    with ReplayStore.create(path, fields, mode=mode, chunk_rows=ROWS) as store:
        for episode in range(num_episodes):
            store.append({"observation": frames_of(episode)})
    return path


def chunk_file(path, chunk):
    return next((path / "observation").glob(f"c.{chunk}.*"))


def maps_of(path):
    """Lines of this process's maps that are of files below a directory."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]


def gather(store, rows):
    return store.gather(np.asarray(rows))["observation"]


@pytest.fixture(params=[False, True], ids=["at rest", "reclaimed"])
def pressure(request, monkeypatch):
    """Both ways to touch: only what was never read, and everything."""
    monkeypatch.setattr(reclaimed, "lately", lambda: request.param)


@pytest.mark.usefixtures("pressure")
@pytest.mark.parametrize("mode", MODES)
def test_batches_are_those_of_memory(tmp_path, mode):
    episodes.make_history(tmp_path / "store", mode).close()
    stores = {
        residency: ReplayStore.open(tmp_path / "store", read_only=True, residency=residency)
        for residency in ("ram", "mapped", "files")
    }
    for seed in range(5):
        batches = {}
        for residency, store in stores.items():
            rows = store.draw(Sampler(n_step=2), np.random.default_rng(seed), 64)
            batches[residency] = store.gather(rows, n_step=2)
        for batch in batches.values():
            for name, array in batches["ram"].items():
                np.testing.assert_array_equal(batch[name], array)
    assert stores["mapped"].held_bytes < stores["ram"].held_bytes
    assert stores["mapped"].stats().file_bytes_read > 0
    assert maps_of(tmp_path)
    for store in stores.values():
        store.close()
    assert not maps_of(tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_no_system_call_reads_a_mapped_chunk(tmp_path, mode):
    """The system counts the calls of `read`, `pread` and `preadv` of a process."""
    path = make_store(tmp_path / "store", mode)
    code = (
        "import re, sys, numpy as np\n"
        "from replaystore import ReplayStore\n"
        "def reads(): return int(re.search(r'syscr: (\\d+)', open('/proc/self/io').read())[1])\n"
        "store = ReplayStore.open(sys.argv[1], read_only=True, residency=sys.argv[2], num_threads=2)\n"
        "batches = [np.arange(1, 30), np.arange(33, 60), np.arange(1, 30)]\n"
        "store.snapshot(); store.gather(np.arange(65, 67))\n"  # kernels are loaded, and the log is read
        "snapshot = store.snapshot()\n"
        "own = -(reads() - reads())\n"
        "before = reads()\n"
        "for rows in batches: store.gather(rows, snapshot=snapshot)\n"
        "print(reads() - before - own)\n"
    )

    def count(residency):
        done = subprocess.run([sys.executable, "-c", code, path, residency], check=True, capture_output=True, text=True)
        return int(done.stdout)

    assert count("mapped") == 0
    assert count("files") > 3


@pytest.mark.usefixtures("pressure")
@pytest.mark.parametrize("mode", ["half", "full"])
def test_a_flipped_bit_is_found_at_the_first_read(tmp_path, mode):
    path = make_store(tmp_path / "store", mode)
    file = chunk_file(path, 1)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with ReplayStore.open(path, read_only=True, residency="mapped") as store:
        np.testing.assert_array_equal(gather(store, np.arange(1, 32)), frames_of(0)[:-1])
        for _ in range(2):
            with pytest.raises(ChunkError, match=re.escape(str(file)) + r".*CRC32C"):
                gather(store, np.arange(33, 64))
        np.testing.assert_array_equal(gather(store, np.arange(65, 96)), frames_of(2)[:-1])


@pytest.mark.parametrize("mode", ["half", "full"])
def test_a_file_truncated_before_it_is_mapped(tmp_path, mode):
    path = make_store(tmp_path / "store", mode)
    with ReplayStore.open(path, read_only=True, residency="mapped") as store:
        os.truncate(chunk_file(path, 1), 100)
        with pytest.raises(ChunkError, match=r"expected \d+ bytes, found 100"):
            gather(store, np.arange(33, 64))


@pytest.mark.usefixtures("pressure")
@pytest.mark.parametrize("mode", ["half", "full"])
@pytest.mark.skipif(not memory_maps.HAS_POPULATE, reason="before Linux 5.14 such a page ends the process")
def test_a_file_truncated_under_its_map(tmp_path, mode):
    """Rows that were not read before. Touching them would end the process."""
    path = make_store(tmp_path / "store", mode)
    file = chunk_file(path, 1)
    with ReplayStore.open(path, read_only=True, residency="mapped", num_threads=1) as store:
        first = gather(store, [33])
        os.truncate(file, file.stat().st_size * 3 // 5)
        with pytest.raises(ChunkError, match=re.escape(str(file)) + r".*truncated: found"):
            gather(store, np.arange(55, 64))
        np.testing.assert_array_equal(gather(store, [33]), first)


@pytest.mark.skipif(not memory_maps.HAS_POPULATE, reason="before Linux 5.14 such a page ends the process")
def test_while_pages_are_reclaimed_even_rows_read_before_are_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(reclaimed, "lately", lambda: True)
    path = make_store(tmp_path / "store")
    with ReplayStore.open(path, read_only=True, residency="mapped", num_threads=1) as store:
        gather(store, np.arange(33, 64))
        os.truncate(chunk_file(path, 1), 4096)
        with pytest.raises(ChunkError, match="truncated"):
            gather(store, np.arange(33, 64))


def test_waiting_for_the_device_is_noted_for_a_while(monkeypatch):
    now, faults = time.monotonic() + 1e6, 5
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_majflt=faults))
    with reclaimed.watched():
        pass
    assert not reclaimed.lately()
    with reclaimed.watched():
        faults += 1
    assert reclaimed.lately()
    now += 1.9
    assert reclaimed.lately()
    now += 0.2
    assert not reclaimed.lately()
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)  # so that later tests are not told of it
    reclaimed.note()


def test_ranges_that_are_not_in_memory_are_read(tmp_path):
    """The kernel says so, and which range cannot be read."""
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20))
    mapped = MemoryMap(file)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    starts, lengths = mapped.address + np.arange(64) * 16_000 + 5, np.full(64, 9_000)
    memory_maps.populate(starts, lengths)
    assert memory_maps.populate(starts, lengths) == (-1, False)
    if memory_maps.HAS_POPULATE:
        os.truncate(file, 500_000)
        failed, _ = memory_maps.populate(starts, lengths)
        assert starts[failed] + lengths[failed] > mapped.address + 500_000 - 4096
        assert starts[failed - 1] + lengths[failed - 1] <= mapped.address + 503_808


def test_the_map_outlives_its_owner_while_an_array_needs_it(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"abc" * 5000)
    array = np.asarray(MemoryMap(file))
    assert array[3000:3006].tobytes() == b"abcabc"
    assert not array.flags.writeable
    assert maps_of(tmp_path)
    del array
    assert not maps_of(tmp_path)
    empty = tmp_path / "empty"
    empty.touch()
    assert np.asarray(MemoryMap(empty)).size == 0
    with pytest.raises(FileNotFoundError):
        MemoryMap(tmp_path / "none")


def test_maps_of_evicted_chunks_end(tmp_path):
    path = make_store(tmp_path / "store")
    with ReplayStore.open(path, residency="mapped") as store:
        gather(store, np.arange(1, 32))
        gather(store, np.arange(97, 128))
        assert len(maps_of(path)) == 2
        store.set_capacity(ROWS - 1)
        gather(store, np.arange(97, 128))
        assert len(maps_of(path)) == 1


def test_a_bounded_number_of_maps(tmp_path, monkeypatch):
    monkeypatch.setattr(column_chunks, "MOST_MAPS", 2)
    path = make_store(tmp_path / "store")
    with ReplayStore.open(path, read_only=True, residency="mapped") as store:
        for _ in range(2):
            for episode in range(NUM_EPISODES):
                rows = np.arange(ROWS * episode + 1, ROWS * (episode + 1))
                np.testing.assert_array_equal(gather(store, rows), frames_of(episode)[:-1])
        assert len(maps_of(path)) == 2


def test_no_descriptors_are_kept(tmp_path):
    path = make_store(tmp_path / "store")
    with ReplayStore.open(path, read_only=True, residency="mapped") as store:
        for episode in range(NUM_EPISODES):
            gather(store, np.arange(ROWS * episode + 1, ROWS * (episode + 1)))
        opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert not [name for name in opened if f"{path}/observation/" in name]


def test_without_room_for_a_map_files_are_read(tmp_path, monkeypatch, caplog):
    def full(path):
        raise OSError(12, "Cannot allocate memory", str(path))

    monkeypatch.setattr(column_chunks, "MemoryMap", full)
    path = make_store(tmp_path / "store")
    with caplog.at_level(logging.WARNING), ReplayStore.open(path, read_only=True, residency="mapped") as store:
        for _ in range(2):
            np.testing.assert_array_equal(gather(store, np.arange(1, 32)), frames_of(0)[:-1])
    assert [record.getMessage() for record in caplog.records if "cannot be mapped (Cannot allocate" in record.message]
    assert len(caplog.records) == 1


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:26 / /proc rw,nosuid - proc proc rw
40 22 0:40 / /mnt/lab\\040data rw,relatime shared:7 - nfs4 server:/data rw,vers=4.2
41 40 8:1 / /mnt/lab\\040data/local rw - xfs /dev/sda1 rw
42 22 0:41 / /home rw - fuse.sshfs me@there:/ rw
43 22 8:2 / /media/stick rw - fuseblk /dev/sdb1 rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "remote"),
    [("/mnt/lab data/store", "nfs4", True), ("/mnt/lab data/local/store", "xfs", False), ("/mnt/lab", "ext4", False),
     ("/home/me/store", "fuse.sshfs", True), ("/media/stick/s", "fuseblk", False), ("/homes", "ext4", False)],
)  # fmt: skip
def test_file_systems_that_are_not_mapped(monkeypatch, path, kind, remote):
    assert file_system_of(Path(path), MOUNTS.splitlines()) == kind
    monkeypatch.setattr(memory_map.Path, "read_text", lambda self: MOUNTS)
    assert is_remote(Path(path)) == remote


def test_a_store_on_a_network_file_system_is_read(tmp_path, monkeypatch, caplog):
    path = make_store(tmp_path / "store")
    monkeypatch.setattr("replaystore.storage.reading.session.is_remote", lambda path: True)
    with caplog.at_level(logging.WARNING), ReplayStore.open(path, read_only=True, residency="mapped") as store:
        assert store.residency == "files"
        np.testing.assert_array_equal(gather(store, np.arange(1, 32)), frames_of(0)[:-1])
        assert not maps_of(path)
    assert "network file system" in caplog.text


def test_four_processes_hold_the_bytes_once(tmp_path):
    """The proportional set size of four readers is that of one, and each alone has all of it resident."""
    path = make_store(tmp_path / "store", num_episodes=60)
    code = (
        "import re, sys, numpy as np\n"
        "from replaystore import ReplayStore\n"
        "store = ReplayStore.open(sys.argv[1], read_only=True, residency='mapped', num_threads=1)\n"
        "for first in range(0, store.num_rows, 32): store.gather(np.arange(first + 1, first + 32))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "text = open('/proc/self/smaps').read()\n"
        "parts = re.split(r'(?m)^(?=[0-9a-f]+-[0-9a-f]+ )', text)\n"
        "own = [part for part in parts if '/observation/c.' in part.splitlines()[0:1].__str__()]\n"
        "print(*(sum(int(re.search(rf'(?m)^{name}: +(\\d+)', part)[1]) for part in own) for name in ('Pss', 'Rss')))\n"
    )

    def measure(count):
        children = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(count)
        ]
        for child in children:
            assert child.stdout.readline() == "ready\n"
        sizes = []
        for child in children:  # all have read everything, and all still run
            child.stdin.write("\n")
            child.stdin.flush()
            sizes.append([1024 * int(size) for size in child.stdout.readline().split()])
        for child in children:
            child.communicate()
        return np.array(sizes)

    total = sum(file.stat().st_size for file in (path / "observation").glob("c.*"))
    one, four = measure(1), measure(4)
    assert total <= one[0, 1] <= 1.1 * total
    assert (four[:, 1] >= total).all()
    assert four[:, 0].sum() <= 1.15 * one[0, 0]
