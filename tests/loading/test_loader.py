"""`ReplayLoader` and `ReplayDataset`: the same batches whatever the threads, no batch spoilt, nothing left behind."""

from __future__ import annotations

import gc
import itertools
import json
import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from replaystore import FieldSpec, ReplayDataset, ReplayLoader, ReplayStore, Sampler
from replaystore.errors import ChunkError, Evicted, NotEnoughData, SpecError, StoreClosed, StoreError
from replaystore.testing.episodes import join, make_episode, stacks, valid_steps
from replaystore.testing.oracle import transition

MODES = ["disk", "half", "full"]
FRAME = (3, 4, 5)
FIELDS = (
    FieldSpec.image("observation", FRAME, frame_stack=3),
    FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
    FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
    FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
)


def arrays_of(number: int, num_rows: int) -> dict[str, np.ndarray]:
    episode = make_episode(number, num_rows, FRAME)
    return {
        "observation": stacks(episode, 3, "first"),
        "action": episode.action,  # says (episode, t)
        "reward": episode.reward[:, None],
        "discount": episode.discount[:, None],
    }


def fill(store: ReplayStore, numbers: Any, num_rows: int = 9) -> None:
    for number in numbers:
        store.append(arrays_of(number, num_rows))


def make(path: Any, mode: str = "full", episodes: int = 6, **options: Any) -> ReplayStore:
    store = ReplayStore.create(path, FIELDS, mode=mode, chunk_rows=16, **options)
    fill(store, range(episodes))
    return store


@pytest.fixture
def store(tmp_path):
    with make(tmp_path / "store") as store:
        yield store


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def copied(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in batch.items()}


def check_batch(batch: dict[str, torch.Tensor], n_step: int = 1, num_rows: int = 9) -> None:
    """Compares with the transitions that the actions name."""
    for at, (number, i) in enumerate(batch["action"].tolist()):
        expected = transition(make_episode(int(number), num_rows, FRAME), int(i), n_step, 0.99, 3)
        assert np.array_equal(batch["observation"][at].numpy(), join(list(expected["obs"]), "first"))
        assert np.array_equal(batch["next_observation"][at].numpy(), join(list(expected["next_obs"]), "first"))
        assert batch["reward"][at].item() == expected["reward"]
        assert batch["discount"][at].item() == expected["discount"]


def take(loader: ReplayLoader, count: int) -> None:
    for _ in range(count):
        next(loader)


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("replaystore-load")]


def wait_until(condition: Any, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    gc.collect()
    assert wait_until(lambda: not loader_threads())


# Draws


@pytest.mark.parametrize("distribution", ["uniform", "per_episode"])
def test_a_seed_gives_the_same_batches_in_every_mode_for_any_threads_and_interleaved_appends(tmp_path, distribution):
    runs = []
    for mode in MODES:
        for num_threads in (1, 3) if mode == "full" else (2,):
            path = tmp_path / f"{mode}_{num_threads}"
            options: Any = {"num_threads": num_threads, "distribution": distribution, "n_step": 3, "seed": 11}
            with make(path, mode, 3, capacity=40) as store, ReplayLoader(store, batch_size=7, **options) as loader:
                batches = []
                for number in range(3, 20):
                    batches.append(copied(next(loader)))
                    fill(store, [number], 4 + number % 6)  # evicts, too
                runs.append(batches)
    assert all(same(one, other) for run in runs for one, other in zip(runs[0], run, strict=True))
    drawn = {int(number) for batch in runs[0] for number in batch["action"][:, 0]}
    assert drawn & set(range(3))
    assert drawn & set(range(10, 20))


def test_batches_are_those_of_the_oracle(store):
    with ReplayLoader(store, batch_size=32, n_step=2, discount=0.99, seed=0) as loader:
        drawn = set()
        for _ in range(20):
            batch = next(loader)
            check_batch(batch, n_step=2)
            drawn |= {(int(number), int(i)) for number, i in batch["action"].tolist()}
    assert drawn == {(number, i) for number in range(6) for i in valid_steps(9, 2)}


def test_a_generator_can_be_given(store):
    with (
        ReplayLoader(store, batch_size=8, seed=np.random.default_rng(5)) as one,
        ReplayLoader(store, batch_size=8, seed=5) as other,
        ReplayLoader(store, batch_size=8) as entropy,
    ):
        assert same(next(one), next(other))
        assert not same(next(one), next(entropy))


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_state_goes_on_after_the_last_batch_that_was_consumed(tmp_path, prefetch):
    path = tmp_path / "store"
    with make(path) as store, ReplayLoader(store, batch_size=8, seed=3, prefetch=prefetch) as loader:
        states, batches = [loader.state_dict()], []
        for _ in range(6):
            batches.append(copied(next(loader)))
            states.append(loader.state_dict())
        with ReplayLoader(store, batch_size=8, seed=99, prefetch=2, num_threads=4) as again:
            next(again)
            for at in (6, 0, 3):
                again.load_state_dict(states[at])
                assert again.state_dict() == states[at]
                for batch in batches[at:]:
                    assert same(next(again), batch)
        after = copied(next(loader))
    with ReplayStore.open(path, read_only=True) as store, ReplayLoader(store, batch_size=8) as loader:
        loader.load_state_dict(json.loads(json.dumps(states[6])))
        assert same(next(loader), after)


def test_prefetch_does_not_change_the_draws_of_a_store_at_rest(store):
    with (
        ReplayLoader(store, batch_size=8, seed=3, prefetch=0) as one,
        ReplayLoader(store, batch_size=8, seed=3, prefetch=9) as other,
    ):
        assert all(same(next(one), next(other)) for _ in range(5))


def test_window(store):
    with ReplayLoader(store, batch_size=64, seed=3, window=20) as loader:
        assert {int(number) for number in next(loader)["action"][:, 0]} == {4, 5}


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"num_threads": 0}, {"prefetch": -1}, {"n_step": 0}, {"distribution": "some"}]
)
def test_values_that_cannot_work_are_refused(store, options):
    with pytest.raises(SpecError):
        ReplayLoader(store, **options)


def test_not_enough_data_then_append_then_next(tmp_path):
    with make(tmp_path / "store", episodes=0) as store, ReplayLoader(store, batch_size=4, n_step=3, seed=0) as loader:
        state = loader.state_dict()
        for rows in (None, 3):  # nothing, then an episode that is too short
            if rows is not None:
                fill(store, [0], rows)
            with pytest.raises(NotEnoughData):
                next(loader)
            assert loader.state_dict() == state  # nothing was drawn
        fill(store, [1])
        batch = next(loader)
        assert set(batch["action"][:, 0].tolist()) == {1}


def test_a_batch_drawn_before_the_store_ran_dry_is_not_lost(tmp_path):
    with (
        make(tmp_path / "store", episodes=2, capacity=16) as store,
        ReplayLoader(store, batch_size=4, n_step=3, seed=0) as loader,
    ):
        next(loader)
        state = loader.state_dict()
        store.set_capacity(4)
        fill(store, [2, 3], 2)  # too short for 3 steps; the others are gone
        with pytest.raises(NotEnoughData):
            next(loader)
        assert loader.state_dict() == state
        fill(store, [4], 5)
        assert set(next(loader)["action"][:, 0].tolist()) <= {0, 1}  # drawn ahead, kept readable until now


# Errors, ends


def test_an_error_in_a_thread_is_raised_in_the_consumer(tmp_path):
    path = tmp_path / "store"
    with make(path) as store:
        rows_of_chunk_0 = store.episodes()[0].num_rows
        assert rows_of_chunk_0 < 16
    for chunk in (path / "observation").glob("c*"):
        data = bytearray(chunk.read_bytes())
        data[-40:] = bytes(byte ^ 0x5A for byte in data[-40:])
        chunk.write_bytes(data)
    with ReplayStore.open(path, residency="mapped") as store, ReplayLoader(store, batch_size=16, seed=0) as loader:
        with pytest.raises(ChunkError, match="observation"):
            take(loader, 20)
        with pytest.raises(ChunkError):  # and again: the loader goes on
            take(loader, 20)


def test_a_failed_batch_gives_its_memory_back_and_the_loader_goes_on(store, monkeypatch):
    gather = store.gather
    calls = iter(range(1000))

    def sometimes(*args: Any, **options: Any) -> Any:
        if next(calls) % 3 == 1:
            raise RuntimeError("no luck")
        return gather(*args, **options)

    monkeypatch.setattr(store, "gather", sometimes)
    with ReplayLoader(store, batch_size=16, seed=0, num_threads=1) as loader:
        good = bad = 0
        for _ in range(30):
            try:
                check_batch(next(loader))
                good += 1
            except RuntimeError:
                bad += 1
    assert (good, bad) == (20, 10)


def test_close_with_batches_in_flight_is_quick_and_leaves_nothing(store, monkeypatch):
    gather, started = store.gather, threading.Event()

    def slow(*args: Any, **options: Any) -> Any:
        started.set()
        time.sleep(0.2)
        return gather(*args, **options)

    monkeypatch.setattr(store, "gather", slow)
    loader = ReplayLoader(store, batch_size=16, seed=0, num_threads=2, prefetch=40)
    next(loader)
    started.clear()
    assert started.wait(5)
    begun = time.monotonic()
    loader.close()
    assert time.monotonic() - begun < 2  # of 8 seconds in flight
    assert not loader_threads()
    loader.close()
    with pytest.raises(StoreClosed):
        next(loader)
    monkeypatch.undo()
    with ReplayLoader(store, batch_size=16, seed=0) as again:
        check_batch(next(again))


def test_a_loader_that_is_forgotten_leaves_no_threads(store):
    loader = ReplayLoader(store, batch_size=16, seed=0, num_threads=3)
    batch = next(loader)
    assert loader_threads()
    del loader
    gc.collect()
    assert wait_until(lambda: not loader_threads())
    check_batch(batch)


def test_a_closed_store_is_an_error_not_a_hang(tmp_path):
    store = make(tmp_path / "store")
    with ReplayLoader(store, batch_size=4, seed=0) as loader:
        next(loader)
        store.close()
        with pytest.raises(StoreClosed):
            take(loader, 20)


def test_rows_that_a_writer_elsewhere_evicted_are_drawn_again(store, monkeypatch):
    with ReplayStore.open(store.path, read_only=True) as reader:
        gather, calls = reader.gather, iter(range(1000))

        def sometimes(*args: Any, **options: Any) -> Any:
            if next(calls) % 2:
                raise Evicted("row 0")
            return gather(*args, **options)

        monkeypatch.setattr(reader, "gather", sometimes)
        with ReplayLoader(reader, batch_size=8, seed=0, num_threads=1) as loader:
            for _ in range(10):
                check_batch(next(loader))

        def never(*args: Any, **options: Any) -> Any:
            raise Evicted("row 0")

        monkeypatch.setattr(reader, "gather", never)
        with ReplayLoader(reader, batch_size=8, seed=0) as loader, pytest.raises(Evicted):
            next(loader)


def test_a_reader_follows_a_writer_that_evicts(tmp_path):
    with make(tmp_path / "store", episodes=4, capacity=32) as store:
        store.flush()
        with (
            ReplayStore.open(store.path, read_only=True, residency="mapped") as reader,
            ReplayLoader(reader, batch_size=8, seed=0, num_threads=2) as loader,
        ):
            for number in range(4, 60):
                fill(store, [number])
                check_batch(next(loader))
            reader.refresh()
            for _ in range(8):
                batch = next(loader)
            assert set(batch["action"][:, 0].tolist()) <= {56, 57, 58, 59}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_refused(store):
    with ReplayLoader(store, batch_size=8, seed=0) as loader:
        next(loader)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                next(loader)
                os.write(write, b"a batch")
            except StoreError as err:
                os.write(write, str(err).encode())
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        assert b"does not cross fork" in os.read(read, 1000)
        os.close(read)
        check_batch(next(loader))


# Memory


def test_batches_that_are_kept_never_change(store):
    with ReplayLoader(store, batch_size=16, seed=0, num_threads=2) as loader:
        kept = []
        for at in range(60):
            batch = next(loader)
            copy = copied(batch)
            # Whole batches, single tensors, views of them and arrays over them: each keeps the memory.
            if at % 4 == 0:
                kept.append((batch, copy))
            elif at % 4 == 1:
                kept.append(({"reward": batch["reward"]}, copy))
            elif at % 4 == 2:
                kept.append(({"observation": batch["observation"][3:5, :, 1]}, {}))
                copy["observation"] = copy["observation"][3:5, :, 1]
                kept[-1] = (kept[-1][0], copy)
            else:
                array = batch["next_observation"].numpy()[::2]
                copy["next_observation"] = copy["next_observation"][::2]
                kept.append(({"next_observation": torch.from_numpy(array)}, copy))
            del batch
            if at % 7 == 0:
                gc.collect()
        for held, copy in kept:
            assert all(torch.equal(tensor, copy[name]) for name, tensor in held.items())


@pytest.mark.parametrize("collect", [False, True])
def test_memory_is_used_again_when_a_batch_is_released(store, collect):
    with ReplayLoader(store, batch_size=16, seed=0, num_threads=2, prefetch=2) as loader:
        for _ in range(20):
            batch = next(loader)
            if collect:
                gc.collect()
            del batch
        assert loader.stats().buffers <= 5
        kept = [next(loader) for _ in range(20)]
        assert loader.stats().buffers >= len(kept)


def test_batches_may_be_let_go_in_any_thread(store):
    with ReplayLoader(store, batch_size=16, seed=0, num_threads=2, prefetch=2) as loader:
        given: list[Any] = []
        stop = threading.Event()

        def let_go() -> None:
            while not stop.is_set():
                try:
                    tensor = given.pop()
                    del tensor
                except IndexError:
                    time.sleep(0)

        threads = [threading.Thread(target=let_go) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(200):
                batch = next(loader)
                check = copied(batch)
                assert same(batch, check)
                given.extend(batch.values())
                del batch
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        given.clear()
        kept = [next(loader) for _ in range(12)]  # more than were free: none of them twice
        assert len({batch["observation"].data_ptr() for batch in kept}) == len(kept)
        for batch in kept:
            check_batch(batch)


def test_batches_outlive_the_loader_and_the_store(tmp_path):
    with make(tmp_path / "store") as store, ReplayLoader(store, batch_size=16, seed=0) as loader:
        batches = [next(loader) for _ in range(5)]
    del loader, store
    gc.collect()
    for batch in batches:
        check_batch(batch)


# Inside a torch DataLoader


def names(batch: dict[str, torch.Tensor]) -> list[list[float]]:
    return batch["action"].tolist()


class Few(IterableDataset):
    """The first batches of a data set. A spawned worker that ends with a batch in its queue can abort, whatever the
    data set (PyTorch 2.13: its queue's thread dies inside C++), so these are read to their end."""

    def __init__(self, dataset: ReplayDataset, count: int) -> None:
        self.dataset = dataset
        self.count = count

    def __iter__(self) -> Any:
        return itertools.islice(self.dataset, self.count)


@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), (2, "spawn")])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_dataset_in_a_data_loader(store, workers, start):
    store.flush()
    dataset = Few(ReplayDataset(store.path, batch_size=16, n_step=2, seed=4), 6 // max(1, workers))
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=start)
    batches = [copied(batch) for batch in loader]
    assert len(batches) == 6
    for batch in batches:
        check_batch(batch, n_step=2)
    assert len({str(names(batch)) for batch in batches}) == 6  # workers draw streams of their own
    again = [names(batch) for batch in map(copied, loader)]
    assert not any(batch in again for batch in map(names, batches))  # another epoch
    dataset.dataset.set_epoch(0)
    assert [names(batch) for batch in map(copied, loader)] == [names(batch) for batch in batches]
    if start != "spawn":
        other = DataLoader(ReplayDataset(store.path, batch_size=16, n_step=2, seed=5), batch_size=None)
        assert names(next(iter(other))) != names(batches[0])


@pytest.mark.parametrize("seed", [1, None])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_epochs_and_ranks_draw_other_batches(store, monkeypatch, workers, seed):
    store.flush()

    def epochs(dataset: ReplayDataset, count: int) -> list[str]:
        loader = DataLoader(Few(dataset, 2), batch_size=None, num_workers=workers)
        return [str(names(copied(batch))) for _ in range(count) for batch in loader]

    found = []
    for rank in ("0", "1", "3"):
        monkeypatch.setenv("RANK", rank)
        torch.manual_seed(0)
        found.append(epochs(ReplayDataset(store.path, batch_size=16, seed=seed), 3))
    assert len({batch for batches in found for batch in batches}) == sum(map(len, found))
    if seed is None:
        return
    dataset = ReplayDataset(store.path, batch_size=16, seed=seed)  # a run that goes on, of rank 3
    epochs(dataset, 2)
    resumed = ReplayDataset(store.path, batch_size=16, seed=seed)
    resumed.load_state_dict(json.loads(json.dumps(dataset.state_dict())))
    assert resumed.state_dict() == {"epoch": 2}
    assert epochs(resumed, 1) == found[2][-len(found[2]) // 3 :]
    for state in ({}, {"epoch": -1}, {"epoch": "x"}):
        with pytest.raises(SpecError, match="epoch: expected a whole number of at least 0"):
            resumed.load_state_dict(state)


def test_a_loader_of_another_rank_draws_other_batches(store, monkeypatch):
    found = []
    for rank in ("", "0", "1", "2"):
        monkeypatch.setenv("RANK", rank)
        with ReplayLoader(store, batch_size=16, seed=3) as loader:
            found.append(names(next(loader)))
        with ReplayLoader(store, batch_size=16, seed=np.random.default_rng(3)) as loader:
            assert names(next(loader)) == found[0]
    assert found[0] == found[1]
    assert found[1] != found[2] != found[3] != found[1]


def test_batches_of_batches_are_said(store):
    store.flush()
    with pytest.warns(UserWarning, match="stacked to a batch of batches; pass batch_size=None"):
        batch = next(iter(DataLoader(ReplayDataset(store.path, batch_size=16, seed=1), batch_size=8)))
    assert batch["action"].shape[:2] == (8, 16)
    one = next(iter(ReplayDataset(store.path, batch_size=16, seed=1)))
    assert names({"action": batch["action"][0]}) == names(one)


def test_worker_0_draws_the_stream_of_no_worker(store):
    dataset = ReplayDataset(store.path, batch_size=16, seed=4, distribution="per_episode")
    batches = iter(dataset)
    one = next(batches)
    batches.close()  # type: ignore[attr-defined]
    check_batch(one)
    entropy = [next(iter(ReplayDataset(store.path, batch_size=16))) for _ in range(2)]
    assert names(entropy[0]) != names(entropy[1])
    rng = np.random.default_rng(np.random.SeedSequence(4, spawn_key=(0,)))
    rows = store.draw(Sampler(distribution="per_episode"), rng, 16)
    assert np.array_equal(store.gather(rows)["action"], one["action"].numpy())
