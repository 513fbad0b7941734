"""Files that are written whole or not at all, and locks that die with their owner."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from replaystore.runtime.durable_files import SyncError, replace_file, replacement, sync_files
from replaystore.runtime.locks import ExclusiveLock, LockHeld


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_whole(tmp_path, shared, sync):
    path = tmp_path / "file"
    path.write_text("before")
    with replacement(path, sync=sync, shared=shared) as file:
        file.write(b"after")
        assert path.read_text() == "before"
        assert len(names(tmp_path)) == 2
    assert path.read_text() == "after"
    replace_file(path, "Größe", sync=sync, shared=shared)
    assert path.read_bytes() == "Größe".encode()
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("shared", [False, True])
def test_what_fails_leaves_the_file_before_and_nothing_beside_it(tmp_path, shared, monkeypatch):
    path = tmp_path / "file"
    path.write_text("before")

    def interrupted() -> None:
        with replacement(path, sync=True, shared=shared) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="no space"):
        replace_file(path, b"after", sync=False, shared=shared)
    assert path.read_text() == "before"
    assert names(tmp_path) == {"file"}


def test_sync_reaches_the_file_before_its_name_and_then_the_directory(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        seen.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    replace_file(path, b"content", sync=True)
    assert seen == [("file.partial", False), (tmp_path.name, True)]
    seen.clear()
    replace_file(path, b"content", sync=False)
    assert seen == []
    sync_files([path, tmp_path / "gone"])
    assert [name for name, _ in seen] == ["file", tmp_path.name]


def test_a_failed_fsync_is_named_and_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("before")

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(SyncError, match="fsync: broken"):
        replace_file(path, b"after", sync=True)
    assert path.read_text() == "before"


def test_a_lock_file_names_its_owner_while_it_is_held(tmp_path):
    path = tmp_path / "lock"
    path.write_text("a process that died")
    with ExclusiveLock(path):
        assert path.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(LockHeld, match=f"process {os.getpid()} on"):
            ExclusiveLock(path)
    assert path.read_text() == ""
    ExclusiveLock(path).release()


def test_a_lock_of_a_directory_leaves_nothing_behind_and_can_be_waited_for(tmp_path):
    taken = threading.Event()

    def wait() -> None:
        with ExclusiveLock(tmp_path, wait=True):
            taken.set()

    with ExclusiveLock(tmp_path):
        with pytest.raises(LockHeld, match="unknown"):
            ExclusiveLock(tmp_path)
        thread = threading.Thread(target=wait)
        thread.start()
        assert not taken.wait(0.2)
    thread.join(30)
    assert taken.is_set()
    assert names(tmp_path) == set()


def test_a_lock_dies_with_its_process(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from replaystore.runtime.locks import ExclusiveLock\n"
        "lock = ExclusiveLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(LockHeld, match=f"process {child.pid} on"):
            ExclusiveLock(path)
        child.kill()
    ExclusiveLock(path).release()
