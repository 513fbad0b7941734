"""A chunk that is not where a reader's catalog says: it is looked for again after a refresh, and only then missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replaystore import FieldSpec, ReplayStore
from replaystore.batches.protocol import ViewRows
from replaystore.batches.transitions import TransitionView
from replaystore.errors import ChunkError, Evicted
from replaystore.spec import MODES
from replaystore.testing.episodes import frame_of

FIELDS = [
    FieldSpec.image("observation", (1, 6, 5), frame_stack=2),
    FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
]


def episode(number: int, rows: int) -> dict[str, np.ndarray]:
    frames = np.stack([frame_of(number, t, (1, 6, 5)) for t in range(rows)])
    return {"observation": frames, "action": np.full((rows, 2), number, np.float32)}


def check(batch: dict[str, np.ndarray], number: int, steps: range) -> None:
    frames = episode(number, steps.stop)["observation"]
    for b, t in enumerate(steps):
        np.testing.assert_array_equal(batch["next_observation"][b], np.concatenate(frames[t - 1 : t + 1]))


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each batch that was tried."""
    calls: list[int] = []
    rows_of = TransitionView.rows_of

    def counted(view: TransitionView, draw: Any, *given: Any) -> ViewRows:
        calls.append(len(draw.rows))
        return rows_of(view, draw, *given)

    monkeypatch.setattr(TransitionView, "rows_of", counted)
    return calls


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("residency", ["mapped", "files", "ram"])
def test_a_tail_that_was_sealed_meanwhile(mode, residency, tmp_path: Path, attempts: list[int]) -> None:
    with ReplayStore.create(tmp_path / "s", FIELDS, mode=mode, chunk_rows=8) as writer:
        writer.append(episode(0, 6))
        with ReplayStore.open(tmp_path / "s", read_only=True, residency=residency) as reader:
            snapshot = reader.snapshot()
            writer.append(episode(1, 7))
            writer.flush()
            refreshes = reader.stats().refreshes
            check(reader.gather(np.arange(1, 6), snapshot=snapshot), 0, range(1, 6))
            assert attempts == [5, 5]
            assert reader.stats().refreshes == refreshes + 1
            check(reader.gather(np.arange(7, 13)), 1, range(1, 7))


@pytest.mark.parametrize("mode", MODES)
def test_what_was_evicted_meanwhile_is_evicted(mode, tmp_path: Path, attempts: list[int]) -> None:
    with ReplayStore.create(tmp_path / "s", FIELDS, mode=mode, chunk_rows=8, capacity=12) as writer:
        writer.append(episode(0, 8))
        writer.flush()
        with ReplayStore.open(tmp_path / "s", read_only=True, residency="mapped") as reader:
            snapshot = reader.snapshot()
            writer.append(episode(1, 12))
            writer.flush()
            assert not list((tmp_path / "s" / "observation").glob("c.0.*"))
            refreshes = reader.stats().refreshes
            with pytest.raises(Evicted, match="chunk 0 of 'observation' is no longer live; draw again"):
                reader.gather(np.arange(1, 8), snapshot=snapshot)
            assert attempts == [7, 7]
            assert reader.stats().refreshes == refreshes + 1
            check(reader.gather(np.arange(9, 20)), 1, range(1, 12))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_stays_missing(mode, read_only, tmp_path: Path, attempts: list[int]) -> None:
    with ReplayStore.create(tmp_path / "s", FIELDS, mode=mode, chunk_rows=8) as writer:
        writer.append(episode(0, 16))
    next((tmp_path / "s" / "observation").glob("c.1.*")).unlink()
    with ReplayStore.open(tmp_path / "s", read_only=read_only, residency="mapped") as store:
        snapshot = store.snapshot()
        check(store.gather(np.arange(1, 8), snapshot=snapshot), 0, range(1, 8))
        attempts.clear()
        with pytest.raises(ChunkError, match=r"observation/c\.1.*: missing; restore the file from a copy"):
            store.gather(np.arange(1, 16), snapshot=snapshot)
        assert attempts == [15, 15, 15]
        assert store.stats().refreshes == 0
    with pytest.raises(ChunkError, match=r"c\.1.*missing"):
        ReplayStore.open(tmp_path / "s", read_only=True, residency="ram")
