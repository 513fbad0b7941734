"""What happens to chunks reaches those who subscribed, and what they raise reaches the next call of the store."""

from __future__ import annotations

import numpy as np
import pytest

from replaystore import FieldSpec, ReplayStore
from replaystore.errors import BudgetError
from replaystore.storage.events import ChunkEvents
from replaystore.storage.reading.chunk_cache import ChunkCache

FIELDS = [FieldSpec.image("observation", (1, 6, 5), frame_stack=2)]


def episode(number: int, rows: int) -> dict[str, np.ndarray]:
    values = (np.arange(rows * 30) * 7 + number * 83) % 251
    return {"observation": values.astype(np.uint8).reshape(rows, 1, 6, 5)}


def test_subscribers_are_called_in_order_and_an_error_ends_it():
    events, seen = ChunkEvents(), []

    def refuse(chunks: list[int]) -> None:
        raise BudgetError("no room")

    events.subscribe(retired=lambda chunks: seen.append(("first", chunks)))
    events.subscribe(retired=lambda chunks: seen.append(("second", chunks)), released=refuse)
    events.retired([3, 4])
    assert seen == [("first", [3, 4]), ("second", [3, 4])]
    events.sealed(0, [])  # nobody has to know
    with pytest.raises(BudgetError, match="no room"):
        events.released([3])


def test_a_store_publishes_each_chunk_sealed_then_retired_then_released(tmp_path, monkeypatch):
    seen: list[tuple[str, int]] = []
    sealed, retired, released = ChunkEvents.sealed, ChunkEvents.retired, ChunkEvents.released

    def seen_sealed(events, chunk, contents):
        sealed(events, chunk, contents)
        seen.append(("sealed", chunk))

    def seen_retired(events, chunks):
        retired(events, chunks)
        seen.extend(("retired", chunk) for chunk in chunks)

    def seen_released(events, chunks):
        released(events, chunks)
        seen.extend(("released", chunk) for chunk in chunks)

    monkeypatch.setattr(ChunkEvents, "sealed", seen_sealed)
    monkeypatch.setattr(ChunkEvents, "retired", seen_retired)
    monkeypatch.setattr(ChunkEvents, "released", seen_released)
    with ReplayStore.create(tmp_path / "store", FIELDS, mode="full", chunk_rows=8, capacity=7) as store:
        store.append(episode(0, 8))
        store.flush()
        snapshot = store.snapshot()
        store.append(episode(1, 8))  # evicts episode 0
        store.flush()
        assert sorted(seen) == [("retired", 0), ("sealed", 0), ("sealed", 1)]
        assert (tmp_path / "store" / "observation" / "c.0.0.0.0").exists()
        del snapshot
        store.flush()
        assert seen[-1] == ("released", 0)
        assert [event for event, chunk in seen if chunk == 0] == ["sealed", "retired", "released"]
        assert not (tmp_path / "store" / "observation" / "c.0.0.0.0").exists()


def test_what_a_subscriber_raises_is_raised_by_the_next_call_once(tmp_path, monkeypatch):
    def refuse(cache: ChunkCache, chunk: int, contents: object) -> None:
        if chunk == 0:
            raise BudgetError(f"chunk {chunk}: no room")

    monkeypatch.setattr(ChunkCache, "admit", refuse)
    with ReplayStore.create(tmp_path / "store", FIELDS, mode="full", chunk_rows=8) as store:
        store.append(episode(0, 8))  # sealed behind the caller
        with pytest.raises(BudgetError, match="chunk 0: no room"):
            store.flush()
        store.flush()
        store.append(episode(1, 4))
        assert store.num_episodes == 2
        assert store.verify().ok
