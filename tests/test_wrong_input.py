"""Wrong input is refused where it is given, with the remedy. Other forms of right input are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replaystore import FieldSpec, ReplayDataset, ReplayLoader, ReplayStore, Sampler, TransitionView
from replaystore.errors import Evicted, ReplayStoreError, SpecError
from replaystore.runtime.numbers import byte_size, whole_number

FIELDS = [
    FieldSpec.image("observation", (3, 16, 16), frame_stack=2),
    FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
]


def episode(rows: int) -> dict[str, np.ndarray]:
    frames = np.arange(rows, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 16, 16), np.uint8)
    return {"observation": frames, "reward": np.ones((rows, 1), np.float32)}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with ReplayStore.create(tmp_path / "store", FIELDS, mode="half", capacity=30) as made:
        made.append(episode(12))
        yield made


@pytest.mark.parametrize("value", [5, np.int64(5), np.uint8(5), 5.0, np.float32(5), "5", " 5 ", "5e0", np.array(5)])
def test_whole_numbers_in_every_form(value: Any) -> None:
    found = whole_number(value, "capacity")
    assert found == 5
    assert type(found) is int


@pytest.mark.parametrize(
    ("text", "number"), [("1M", 10**6), ("1.5k", 1500), ("1e6", 10**6), ("2G", 2 * 10**9), ("1E+3", 1000)]
)
def test_whole_numbers_as_text(text: str, number: int) -> None:
    assert whole_number(text, "capacity") == number


WRONG_NUMBERS = [0, -1, 1.5, True, np.True_, float("nan"), float("inf"), None, "", "many", "1.5", "1MiB", "-5", [5], 1j]


@pytest.mark.parametrize("value", WRONG_NUMBERS)
def test_what_is_no_whole_number(value: Any, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="capacity: expected a whole number of at least 1, got"):
        whole_number(value, "capacity")
    calls = [
        lambda: ReplayStore.create(tmp_path / "s", FIELDS, num_threads=value),
        lambda: Sampler(n_step=value),
        lambda: TransitionView(n_step=value),
        lambda: ReplayDataset(tmp_path / "s", batch_size=value),
    ]
    if value is not None:
        calls.append(lambda: ReplayStore.create(tmp_path / "s", FIELDS, capacity=value))
    for call in calls:
        with pytest.raises(SpecError, match="expected a whole number"):
            call()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("16GiB", 16 << 30),
        ("1.5KiB", 1536),
        ("500 MB", 500 * 10**6),
        ("1048576", 1 << 20),
        (1e6, 10**6),
        ("1e6", 10**6),
    ],
)
def test_sizes(value: Any, number: int) -> None:
    assert byte_size(value, "budget_bytes") == number


@pytest.mark.parametrize("value", [0, "0", "0GB", 2.5, True, "16 apples", "GiB", "-1GB", float("nan")])
def test_what_is_no_size(value: Any, tmp_path: Path) -> None:
    for name in ("budget_bytes", "disk_budget_bytes"):
        options: Any = {name: value}
        with pytest.raises(SpecError, match=f"{name}: expected a size in bytes such as"):
            ReplayStore.create(tmp_path / "s", FIELDS, **options)


def test_sizes_and_counts_of_a_configuration_file_work(tmp_path: Path) -> None:
    options: Any = {"capacity": "1e6", "disk_budget_bytes": "1GiB", "budget_bytes": "16MiB", "num_threads": np.int64(2)}
    with ReplayStore.create(tmp_path / "s", FIELDS, residency="ram", **options) as made:
        assert made.capacity == 10**6
        assert made.info()["budget_bytes"] == 16 << 20
        made.set_capacity(np.float64(20))  # type: ignore[arg-type]
        made.append(episode(8))
        with ReplayLoader(made, batch_size="4", num_threads=1.0, seed=0, pin_memory=False) as loader:  # type: ignore[arg-type]
            assert len(next(loader)["reward"]) == 4
    with ReplayStore.open(tmp_path / "s", residency="ram", budget_bytes="1GB") as found:
        assert found.capacity == 20
        assert found.info()["budget_bytes"] == 10**9


@pytest.mark.parametrize("discount", [-0.1, 1.01, float("nan"), float("inf"), "much", None, [0.9]])
def test_a_discount_is_from_0_to_1(discount: Any) -> None:
    with pytest.raises(SpecError, match="discount: expected a number from 0 to 1, got"):
        TransitionView(discount=discount)


@pytest.mark.parametrize("discount", [0, 1, 0.99, np.float32(0.5), "0.99"])
def test_a_discount_in_other_forms(discount: Any) -> None:
    assert TransitionView(discount=discount).discount == float(discount)


@pytest.mark.parametrize("rows", [[1.0, 2.0], np.array([True, False]), ["1"], np.array([[1, 2]]), 3, None])
def test_rows_are_whole_numbers(rows: Any, store: ReplayStore) -> None:
    with pytest.raises(SpecError, match=r"rows: expected whole numbers \(batch,\), got"):
        store.gather(rows)


def test_rows_of_every_integer_dtype_and_none(store: ReplayStore) -> None:
    expected = store.gather(np.array([1, 2]))["reward"]
    for rows in ([1, 2], (1, 2), np.array([1, 2], np.uint8), np.array([1, 2], np.int32)):
        assert (store.gather(rows)["reward"] == expected).all()
    assert len(store.gather([])["reward"]) == 0


def test_a_reset_row_is_said_to_be_one(store: ReplayStore) -> None:
    store.append(episode(5))
    for row in (0, 12):
        with pytest.raises(SpecError, match=f"row {row}: the reset row of its episode starts no transition"):
            store.gather([1, row])
    for row in (-1, 11 + 1 + 5, 10**9):
        with pytest.raises(Evicted, match=f"row {row}: no live transition"):
            store.gather([row])


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((84, 84, 3), "first"), ((64, 48, 1), "first"), ((3, 84, 84), "last"), ((4, 16, 16), "last")],
)
def test_channels_that_are_clearly_on_the_other_axis(shape: tuple[int, ...], channels: Any) -> None:
    other = "last" if channels == "first" else "first"
    with pytest.raises(SpecError, match=f"give channels='{other}'"):
        FieldSpec.image("pixels", shape, channels=channels)
    assert FieldSpec.image("pixels", shape, channels=other).shape == shape  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((9, 84, 84), "first"), ((5, 4, 3), "first"), ((3, 4, 5), "last"), ((84, 84), "first"), ((3, 84, 3), "first")],
)
def test_channels_that_may_be_right(shape: tuple[int, ...], channels: Any) -> None:
    assert FieldSpec.image("pixels", shape, channels=channels).shape == shape


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (FIELDS[0], "got a single one"),
        ({"observation": FIELDS[0]}, "got dict"),
        ("observation", "got str"),
        (7, "got int"),
        ([FIELDS[0], "reward"], "got str 'reward' in it"),
        ([FIELDS], "got list"),
    ],
)
def test_fields_are_a_list_of_them(fields: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"fields: expected a list of FieldSpec, {message}"):
        ReplayStore.create(tmp_path / "s", fields)
    assert not (tmp_path / "s").exists()


def test_a_path_is_a_local_one(store: ReplayStore, tmp_path: Path) -> None:
    for path in ("s3://bucket/store", "gs://bucket/store", "https://host/store", "file:///tmp/store"):
        for call in (lambda p: ReplayStore.create(p, FIELDS), ReplayStore.open, ReplayDataset):
            with pytest.raises(SpecError, match="path: expected a local directory, got the URL"):
                call(path)  # type: ignore[operator]
    for nothing in (store, None, 5, FIELDS, ""):
        for call in (lambda p: ReplayStore.create(p, FIELDS), ReplayStore.open, ReplayDataset):
            with pytest.raises(SpecError, match="path: expected the path of a directory"):
                call(nothing)  # type: ignore[operator]
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with pytest.raises(ReplayStoreError, match="file"):
        ReplayStore.open(file)
    with pytest.raises(ReplayStoreError, match="file"):
        ReplayStore.create(file, FIELDS)
    assert file.read_bytes() == b"x"


def test_a_loader_takes_an_open_store(store: ReplayStore) -> None:
    for given in (store.path, str(store.path)):
        with pytest.raises(SpecError, match=r"store: expected an open ReplayStore, got .*ReplayStore.open\(path\)"):
            ReplayLoader(given)  # type: ignore[arg-type]


def test_paths_are_absolute_when_they_are_given(store: ReplayStore, tmp_path: Path, monkeypatch: Any) -> None:
    store.flush()
    monkeypatch.chdir(tmp_path)
    data = ReplayDataset("store", batch_size=4, seed=0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(next(iter(data))["reward"]) == 4
