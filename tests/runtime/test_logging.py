"""The log lines of the package: what they say, at which level, and how few of them a training run gets."""

import logging
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from replaystore import FieldSpec, ReplayLoader, ReplayStore
from replaystore.kernels import block_decoders
from replaystore.storage.format import layout
from replaystore.storage.reading import chunk_cache
from replaystore.storage.reading.column_chunks import ColumnChunks

FIELDS = [
    FieldSpec.image("observation", (1, 12, 12)),
    FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
]


def make_episode(rows):
    frames = np.random.default_rng(rows).integers(0, 256, (rows, 1, 12, 12), np.uint8)
    return {"observation": frames, "reward": np.ones((rows, 1), np.float32)}


def make_store(path, *, chunks=3):
    with ReplayStore.create(path, FIELDS, mode="half", chunk_rows=16) as store:
        for _ in range(chunks):
            store.append(make_episode(16))
    return path


def lines(caplog, level=logging.INFO):
    # Whether kernels compile depends on what ran before; that is logged under "replaystore.kernels" itself.
    names = ("replaystore.kernels", "replaystore")
    found = [record for record in caplog.records if record.name.startswith("replaystore.") and record.name not in names]
    return [record.getMessage() for record in found if record.levelno >= level]


@pytest.fixture(autouse=True)
def _all_levels(caplog):
    caplog.set_level(logging.DEBUG, "replaystore")


def test_a_training_run_prints_few_lines_at_info(tmp_path, caplog):
    with ReplayStore.create(tmp_path / "s", FIELDS, mode="half", chunk_rows=16, capacity=100) as store:
        for _ in range(40):
            store.append(make_episode(11))
        with ReplayLoader(store, batch_size=8, seed=0, pin_memory=False) as loader:
            for _ in range(20):
                next(loader)
    opened, evicted, closed = lines(caplog)
    assert "opened to write: mode half, 0 episodes" in opened
    assert "evicted 1 episodes, 11 rows; 100 transitions are left (capacity 100" in evicted
    assert closed.endswith("closed")
    debug = lines(caplog, logging.DEBUG)
    assert sum("evicted 1 episodes" in line for line in debug) == 30
    assert sum(" sealed: " in line for line in debug) == -(-40 * 11 // 16)
    assert all(str(tmp_path / "s") in line for line in debug)


def test_recovery_says_what_was_found_and_dropped(tmp_path, caplog):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); import os; from test_logging import *\n"
        "from replaystore.storage.writing import chunk_files\n"
        "chunk_files.seal_column = lambda *given, **options: __import__('time').sleep(60)\n"
        "store = ReplayStore.create(sys.argv[1], FIELDS, mode='half', chunk_rows=16)\n"
        "store.append(make_episode(20))\n"
        "for t in range(3): store.add({k: v[t] for k, v in make_episode(5).items()}, last=False)\n"
        "store.commit_part()\nos._exit(0)"  # killed before it seals the full chunk or ends its episode
    )
    path = tmp_path / "s"
    subprocess.run([sys.executable, "-c", code, path, Path(__file__).parent], check=True)
    paths = layout.Paths(path)
    (path / "observation/c.0.0.0.0").write_bytes(b"a seal that was not finished")
    (paths.tails / "left.7").write_bytes(b"of nothing")
    (path / "zarr.json.partial").write_bytes(b"{")
    with paths.log(0).open("ab") as log:
        log.write(b"torn record")
    ReplayStore.open(path).close()
    found = "\n".join(lines(caplog))
    assert "cut 11 bytes behind byte" in found
    assert "1 chunk files that the log does not have, 1 tail files, 1 unfinished metadata files" in found
    assert "1 full chunks were not sealed" in found
    assert "ended 1 episodes that an earlier writer left open" in found
    caplog.clear()
    ReplayStore.open(path).close()
    assert len(lines(caplog)) == 2  # opened, closed: nothing is left to recover


def test_commits_behind_the_head_and_those_that_a_restart_lost(tmp_path, caplog, monkeypatch):
    path = make_store(tmp_path / "s")
    paths = layout.Paths(path)
    store = ReplayStore.open(path)
    before = paths.head.read_bytes()
    store.append(make_episode(5))
    log, after = paths.log(0).read_bytes(), paths.head.read_bytes()
    tails = {tail: tail.read_bytes() for tail in paths.tails.iterdir()}
    store.close()

    def put_back(head):
        """What a process leaves that was killed just after its commit: in its log, with this head."""
        (path / "observation/c.3.0.0.0").unlink(missing_ok=True)
        (path / "reward/c.3.0").unlink(missing_ok=True)
        for tail, content in tails.items():
            tail.write_bytes(content)
        paths.log(0).write_bytes(log)
        paths.head.write_bytes(head)
        caplog.clear()

    put_back(before)
    ReplayStore.open(path).close()
    assert any("whole commits behind those that the head names" in line for line in lines(caplog))
    put_back(after)
    monkeypatch.setattr(layout, "boot_id", lambda: bytes(16))
    ReplayStore.open(path, read_only=True).close()
    assert any("1 records not synced: 1 kept, 0 dropped" in line for line in lines(caplog))
    assert lines(caplog, logging.WARNING) == []
    put_back(after)
    for tail in tails:
        tail.write_bytes(bytes(len(tails[tail])))
    with ReplayStore.open(path, read_only=True) as store:
        assert store.num_episodes == 3
    (lost,) = lines(caplog, logging.WARNING)
    assert "1 records not synced: 0 kept, 1 dropped" in lost
    assert "rows end at 48, before at 53" in lost


def test_falling_back_from_memory_to_files_is_said_once(tmp_path, caplog):
    path = make_store(tmp_path / "s")
    one_chunk = 16 * 144
    caplog.clear()
    with ReplayStore.open(path, budget_bytes=2 * one_chunk + 1) as store:
        for _ in range(3):
            store.append(make_episode(16))
        store.flush()
        assert store.stats().chunk_files_held == 2
    said = [line for line in lines(caplog) if "do not fit" in line]
    assert len(said) == 1
    assert f"{3 * one_chunk} bytes do not fit the budget of {2 * one_chunk + 1}" in said[0]
    caplog.clear()
    ReplayStore.open(path, budget_bytes=100 * one_chunk).close()
    assert not any("do not fit" in line for line in lines(caplog))


def test_filling_in_the_background_starts_finishes_and_fails_aloud(tmp_path, caplog, monkeypatch):
    path = make_store(tmp_path / "s")
    monkeypatch.setattr(chunk_cache, "AT_ONCE_BYTES", 0)
    chunk = path / "observation/c.1.0.0.0"
    good = chunk.read_bytes()
    chunk.write_bytes(good[:500] + bytes([good[500] ^ 1]) + good[501:])
    caplog.clear()
    with ReplayStore.open(path, read_only=True) as store:
        store.wait_until_filled()
        assert store.stats().chunk_files_held == 2
    info = lines(caplog)
    assert sum("in the background: 3 files" in line for line in info) == 1
    assert sum("finished after" in line and "2 chunk files" in line and "1 damaged" in line for line in info) == 1
    (damage,) = lines(caplog, logging.WARNING)
    assert "chunk 1 of 'observation' stays in its file" in damage
    assert "CRC32C" in damage
    caplog.clear()
    chunk.write_bytes(good)
    load = ColumnChunks.load

    def fail(chunks, number):
        if number == 1:
            raise OSError("too many open files")
        load(chunks, number)

    monkeypatch.setattr(ColumnChunks, "load", fail)
    with ReplayStore.open(path, read_only=True) as store:
        store.wait_until_filled()
        assert any("in the background failed" in line for line in lines(caplog, logging.ERROR))
        monkeypatch.undo()
        with ReplayStore.open(path) as writer:
            writer.append(make_episode(2))
            assert store.refresh()  # something came, so it is tried again
            store.wait_until_filled()
        assert store.stats().chunk_files_held == 3


def test_a_failed_seal_is_logged_even_if_nobody_calls_again(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("replaystore.storage.writing.chunk_files.seal_column", lambda *given, **options: 1 / 0)
    store = ReplayStore.create(tmp_path / "s", FIELDS, mode="half", chunk_rows=16)
    store.append(make_episode(16))
    with pytest.raises(ZeroDivisionError):
        store.flush()
    assert any("sealing chunk 0 failed: division by zero" in line for line in lines(caplog, logging.WARNING))
    monkeypatch.undo()
    store.close()


def test_a_missing_decoder_is_a_warning(caplog, monkeypatch):
    bound = []
    monkeypatch.setattr(block_decoders.llvmlite.binding, "add_symbol", lambda *given: bound.append(given))
    hidden = types.SimpleNamespace(__file__=block_decoders.numcodecs.lz4.__file__)
    prototype = block_decoders.ctypes.CFUNCTYPE(block_decoders.ctypes.c_int)
    block_decoders.bind_symbol("symbol", hidden, "no_such_function", prototype, lambda: 0)
    assert len(bound) == 1
    (line,) = lines(caplog, logging.WARNING)
    assert "no symbol no_such_function" in line
    assert "slower" in line


def test_importing_configures_no_logging():
    code = (
        "import logging, replaystore\n"
        "from replaystore import FrameDelta, ReplayLoader, ReplayStore\n"
        "ours = [name for name in logging.root.manager.loggerDict if name.startswith('replaystore')]\n"
        "assert 'replaystore.storage.writing.sealer' in ours\n"
        "print([(l.handlers, l.level, l.propagate) for l in map(logging.getLogger, ours) if l.handlers or l.level])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
