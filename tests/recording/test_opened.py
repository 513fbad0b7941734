"""A store that this process has open: it is named as one's own, and found again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from replaystore import ReplayStore
from replaystore.errors import StoreLocked
from replaystore.testing.episodes import make_store


def test_a_store_that_an_exception_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None:
        make_store(tmp_path / "store")
        raise RuntimeError("the run went wrong")

    with pytest.raises(RuntimeError):
        run()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    for path in (tmp_path / "store", "store", tmp_path / "link"):
        with pytest.raises(StoreLocked, match=r"which is this one: .* ReplayStore\.opened\(") as caught:
            ReplayStore.open(path)
        found = eval(str(caught.value).split("with ")[1].split(", and")[0])  # the remedy, as it is written
        assert found.num_episodes == 4
    found.close()
    assert ReplayStore.opened("store") is None
    with ReplayStore.open("store") as store:
        assert ReplayStore.opened(tmp_path / "link") is store
        with ReplayStore.open("store", read_only=True):
            assert ReplayStore.opened("store") is store
    assert ReplayStore.opened("store") is None


def test_a_reader_and_a_forked_child_have_nothing_open_to_write(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    child = os.fork()
    if child == 0:
        os._exit(0 if ReplayStore.opened(tmp_path / "store") is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    store.close()
    with ReplayStore.open(tmp_path / "store", read_only=True):
        assert ReplayStore.opened(tmp_path / "store") is None


def test_a_store_of_another_process_is_not_named_as_ones_own(tmp_path: Path) -> None:
    code = (
        "import sys; from replaystore.testing.episodes import make_store\n"
        f"store = make_store({str(tmp_path / 'store')!r}); print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=f"already open for writing by process {other.pid}"):
            ReplayStore.open(tmp_path / "store")
    finally:
        other.communicate()


def test_a_new_store_in_the_place_of_a_deleted_one(tmp_path: Path) -> None:
    make_store(tmp_path / "store").flush()  # nothing writes into it while it is deleted
    shutil.rmtree(tmp_path / "store")
    with make_store(tmp_path / "store") as store:
        assert ReplayStore.opened(tmp_path / "store") is store
    with ReplayStore.open(tmp_path / "store") as store:
        assert store.num_episodes == 4
