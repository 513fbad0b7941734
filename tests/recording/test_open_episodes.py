"""Open episodes: threads take turns, the capacity bounds an episode, parts are committed, a missing reset is named."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replaystore import FieldSpec, ReplayStore
from replaystore.errors import CapacityError, SpecError, StoreClosed

FIELDS = [
    FieldSpec.image("observation", (1, 16, 16), frame_stack=3),
    FieldSpec(name="action", shape=(2,), dtype="int64", role="action"),
    FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
]


def row(actor: int, episode: int, t: int) -> dict[str, Any]:
    """Row t of an episode, which names itself in every field."""
    return {
        "observation": np.full((1, 16, 16), (actor * 50 + t) % 256, np.uint8),
        "action": np.array([actor, episode * 100 + t]),
        "reward": np.float32(actor),
    }


def whole(actor: int, episode: int, num_rows: int) -> dict[str, Any]:
    """The rows of an episode, for `append`."""
    rows = [row(actor, episode, t) for t in range(num_rows)]
    return {name: np.stack([values[name] for values in rows]) for name in rows[0]}


@pytest.fixture
def often_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often_switching")
@pytest.mark.parametrize("commit_every", [None, 5])
@pytest.mark.parametrize("capacity", [None, 500])
def test_actors_in_threads(tmp_path: Path, capacity: int | None, commit_every: int | None) -> None:
    errors: list[BaseException] = []
    store = ReplayStore.create(tmp_path / "store", FIELDS, chunk_rows=32, capacity=capacity, commit_every=commit_every)

    def act(actor: int) -> None:
        try:
            for episode in range(40):
                for t in range(12):
                    store.add(row(actor, episode, t), env=actor, last=t == 11)
                if episode % 10 == 9:
                    store.append(whole(actor, 99, 12))
                    store.flush()
        except BaseException as err:
            errors.append(err)

    threads = [threading.Thread(target=act, args=(actor,)) for actor in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert store.next_episode_id == 4 * 44
    if capacity is None:
        assert store.num_episodes == 4 * 44
    for info in store.episodes():
        arrays = store.read_episode(info.episode)
        actor, t = int(arrays["action"][0, 0]), arrays["action"][:, 1] % 100
        assert t.tolist() == list(range(12))
        assert (arrays["action"][:, 0] == actor).all()
        assert len(set((arrays["action"][:, 1] // 100).tolist())) == 1
        assert (arrays["reward"] == actor).all()
        assert (arrays["observation"][:, -1, 0, 0] == (actor * 50 + t) % 256).all()
    assert store.verify().ok
    store.close()
    with ReplayStore.open(tmp_path / "store") as again:
        assert again.verify().ok


def test_a_thread_that_closes_the_store_ends_the_others(tmp_path: Path) -> None:
    store = ReplayStore.create(tmp_path / "store", FIELDS, chunk_rows=32)
    errors: list[BaseException] = []
    added = threading.Event()

    def act() -> None:
        try:
            for episode in range(100_000):
                for t in range(12):
                    store.add(row(1, episode, t), last=t == 11)
                added.set()
        except BaseException as err:
            errors.append(err)

    thread = threading.Thread(target=act)
    thread.start()
    added.wait()
    store.close()
    thread.join()
    assert [type(err) for err in errors] == [StoreClosed]
    with ReplayStore.open(tmp_path / "store") as again:
        assert again.verify().ok
        assert all(info.num_rows == 12 for info in again.episodes())


@pytest.mark.parametrize("commit_every", [None, 1, 4, 100])
def test_an_endless_episode_stops_at_the_capacity(tmp_path: Path, commit_every: int | None) -> None:
    with ReplayStore.create(tmp_path / "store", FIELDS, capacity=20, commit_every=commit_every) as store:
        store.append(whole(1, 0, 8))
        for t in range(21):
            store.add(row(0, 1, t), last=False)
        for _ in range(2):
            with pytest.raises(CapacityError, match=r"env 0: the open episode has 20 transitions, .* end the episode"):
                store.add(row(0, 1, 21), last=False)
        assert store.end_episode() == 1
        assert store.num_transitions == 20
        assert store.read_episode(1)["action"][:, 1].tolist() == list(range(100, 121))
        for t in range(3):  # and it goes on
            store.add(row(0, 2, t), last=t == 2)
        assert [info.episode for info in store.episodes()] == [2]


def test_parts_are_committed_every_so_often(tmp_path: Path) -> None:
    with ReplayStore.create(tmp_path / "store", FIELDS, commit_every=4) as store:
        for t in range(11):
            store.add(row(0, 0, t), last=False)
            store.add(row(1, 0, t), env="b", last=t == 10)
            assert store.num_rows == (t + 1) // 4 * 4 * 2 + (3 if t == 10 else 0)
        assert [info.num_rows for info in store.episodes()] == [8, 11]
        assert store.end_episode() == 0
        assert store.read_episode(0)["action"][:, 1].tolist() == list(range(11))
    with ReplayStore.open(tmp_path / "store", commit_every=2) as store:
        for t in range(3):
            store.add(row(0, 5, t), last=False)
        assert store.num_rows == 24
    for value in (0, 1.5, "many", True):
        with pytest.raises(SpecError, match="commit_every: expected a whole number of at least 1"):
            ReplayStore.open(tmp_path / "store", commit_every=value)  # type: ignore[arg-type]
        with pytest.raises(SpecError, match="commit_every"):
            ReplayStore.create(tmp_path / "other", FIELDS, commit_every=value)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("wrong", ["reward", "action"])
@pytest.mark.parametrize("commit_every", [None, 2])
def test_a_missing_reset_row_is_named_once(tmp_path: Path, wrong: str, commit_every: int | None) -> None:
    def reset(t: int) -> dict[str, Any]:
        return {**row(1, 0, t), "reward": 0.0, "action": np.zeros(2, np.int64)}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ReplayStore.create(tmp_path / "store", FIELDS, commit_every=commit_every) as store:
            for t in range(4):
                store.add(row(1, 0, t) if t else reset(0), env="left", last=t == 3)
            for t in range(4):  # what dm_env gives at a reset
                store.add({**row(1, 0, t), "reward": None, "action": None} if t == 0 else row(1, 0, t), last=t == 3)
            assert not caught
            for _ in range(3):
                for t in range(4):
                    value = {**reset(t), wrong: row(1, 0, 1)[wrong]} if t == 0 else row(1, 0, t)
                    store.add(value, env="left", last=t == 3)
    (warning,) = caught
    assert str(warning.message).startswith(f"episode 2, env left, row 0: the {wrong} is not zero, and no transition")
