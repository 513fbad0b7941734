"""What every kind of column does. A new kind is one more `Case`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from replaystore import FieldSpec, FrameDelta, ReplayStore, RoundClamp
from replaystore.columns import registry
from replaystore.columns.chunks import CachedChunk, Placement
from replaystore.columns.column import columns_of
from replaystore.columns.raw_rows import RawRows
from replaystore.columns.row_codec import RowCodec, load_scheme
from replaystore.errors import ChunkError, FormatVersionError, SpecError
from replaystore.runtime.counters import Counters
from replaystore.runtime.workers import Workers
from replaystore.spec import RESIDENCIES, StoreSpec
from replaystore.testing.episodes import frame_of, join

CHUNK_ROWS = 8
LENGTHS = (11, 7, 13, 5)  # four chunks and a tail that is not full


@dataclass(frozen=True)
class Case:
    """A field of one kind of column.

    Attributes:
        name: of the case.
        field: the field, named `x`.
        mode: of its store.
        values: rows of an episode, from its number and length: single frames of images.
        read_back: what the values come back as.
    """

    name: str
    field: FieldSpec
    mode: Any
    values: Callable[[int, int], np.ndarray]
    read_back: Callable[[np.ndarray], np.ndarray] = lambda values: values

    @property
    def codec(self) -> RowCodec:
        (field,) = registry.resolved_fields(self.mode, (self.field,))
        (column,) = columns_of(StoreSpec(mode=self.mode, fields=(field,)))
        return column.codec

    def stored(self, number: int, rows: int) -> np.ndarray:
        """The values of stored rows: of mode `disk` whole stacks."""
        values = self.values(number, rows)
        return self.stacks(values) if self.mode == "disk" else values

    def stacks(self, values: np.ndarray) -> np.ndarray:
        """Observations of an episode; what is no image stays as it is."""
        if not self.field.is_image or self.field.frame_stack == 1:
            return values
        depth, channels = self.field.frame_stack, str(self.field.channels)
        windows = [[values[max(0, t - depth + 1 + k)] for k in range(depth)] for t in range(len(values))]
        return np.stack([join(window, channels) for window in windows])


def image(name: str, shape: tuple[int, ...], mode: str, channels: Any = "first", **scheme: Any) -> Case:
    codec = FrameDelta(frame_shape=shape, channels=channels, **scheme).get_config() if scheme else None
    return Case(
        name, FieldSpec.image("x", shape, frame_stack=3, channels=channels, scheme=codec), mode,
        lambda number, rows: np.stack([frame_of(number, t, shape) for t in range(rows)]),
    )  # fmt: skip


def plain(name: str, shape: tuple[int, ...], dtype: str, codec: RoundClamp | None = None) -> Case:
    def values(number: int, rows: int) -> np.ndarray:
        size = int(np.prod(shape))
        numbers = 901 * number + 41 * np.arange(rows)[:, None] + np.arange(size)
        exact = numbers % 2 if dtype == "bool" else numbers / 8 if codec is not None else numbers
        return exact.astype(dtype).reshape(rows, *shape)

    def read_back(given: np.ndarray) -> np.ndarray:
        if codec is None:
            return given
        clamped = np.clip(given.astype(np.float64), codec.low, codec.high)
        return np.round(clamped, codec.decimals).astype(dtype)

    scheme = None if codec is None else codec.get_config()
    return Case(name, FieldSpec(name="x", shape=shape, dtype=dtype, scheme=scheme), "half", values, read_back)


def rounded(size: int, dtype: str = "float32", high: float = 400.0) -> RoundClamp:
    return RoundClamp(decimals=1, low=-5.0, high=high, dtype=dtype, row_size=size)


CASES = [
    image("raw frames", (3, 5, 4), "half"),
    image("raw frames, a checksum each", (1, 32, 33), "half"),
    image("raw frames, channels last", (5, 4, 3), "half", "last"),
    image("raw gray frames, channels last", (5, 4), "half", "last"),
    image("raw stacks", (3, 5, 4), "disk"),
    plain("raw numbers", (70, 3), "int16"),
    plain("raw numbers, a checksum each", (300,), "float64"),
    plain("raw numbers, small", (2,), "float32"),
    plain("raw truth values", (), "bool"),
    plain("packed numbers", (300,), "float32", rounded(300)),
    plain("packed numbers, a checksum each", (2000,), "float64", rounded(2000, "float64", 3e5)),
    plain("packed numbers, half floats", (300,), "float16", rounded(300, "float16")),
    plain("packed numbers, small", (3,), "float32", rounded(3)),
    image("frame groups", (3, 5, 4), "full"),
    image("frame groups, channels last", (5, 4, 3), "full", "last"),
    image("frame groups of gray frames", (9, 7), "full", "first", entropy="spans", keyframe_interval=3),
    image("frame groups with zstd", (3, 5, 4), "full", "first", entropy="zstd", reference="keyframe"),
]
KINDS = {type(case.codec) for case in CASES}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_kind_has_cases() -> None:
    assert {*registry.KINDS} == KINDS


def chunk_of(case: Case, number: int, used: int, helper: ThreadPoolExecutor | None = None) -> CachedChunk:
    """A chunk of `CHUNK_ROWS` rows, the rows of two commits and padding, as the storage seals it."""
    codec = case.codec
    rows = np.zeros((CHUNK_ROWS, codec.row_bytes), np.uint8)
    rows[:used] = codec.to_rows(case.stored(number, used))[0]
    encoded = codec.encode_chunk(rows, [0, 3, used], helper)
    assert (encoded is None) == (not codec.is_encoded)
    data = rows.reshape(-1) if encoded is None else np.frombuffer(encoded, np.uint8)
    return CachedChunk(data, codec.parse(data, "chunk"))


def windows_of(case: Case, count: int, seed: int) -> np.ndarray:
    """Windows of rows of chunks 2 and 4, which are in memory, and some of others and of zeros."""
    depth = case.field.frame_stack if case.mode != "disk" else 1
    rng = np.random.default_rng(seed)
    windows = rng.choice([*range(16, 24), *range(32, 38)], (count, depth))
    strange = rng.random(windows.shape) < (0.04 if seed % 2 else 0.3)
    windows[strange] = rng.choice([-1, 5, 27, 90] if case.field.is_image else [5, 27, 90], strange.sum())
    return windows.astype(np.int64)


def expected_value(case: Case, rows: list[np.ndarray]) -> np.ndarray:
    return rows[0] if len(rows) == 1 else join(rows, str(case.field.channels))


@every_case
def test_values_become_rows_and_come_back(case: Case) -> None:
    codec, values = case.codec, case.stored(3, 9)
    rows, num_clamped = codec.to_rows(values)
    assert rows.dtype == np.uint8
    assert rows.shape == (9, codec.row_bytes)
    assert codec.shape == values.shape[1:]
    expected = case.read_back(values)
    out = np.full((9, *codec.shape), 1, codec.dtype)
    codec.from_rows(rows, out)
    np.testing.assert_array_equal(out, expected, strict=True)
    scheme = case.field.scheme or {}
    outside = (values < scheme["low"]) | (values > scheme["high"]) if "low" in scheme else np.zeros(1, bool)
    assert num_clamped == outside.sum()
    wide = np.full((20, *codec.shape), 1, codec.dtype)
    targets = np.random.default_rng(1).permutation(20)[:9]
    codec.from_rows(rows, wide, targets)
    np.testing.assert_array_equal(wide[targets], expected, strict=True)
    untouched = np.setdiff1d(np.arange(20), targets)
    assert (wide[untouched] == np.ones((), codec.dtype)).all()


@every_case
def test_rows_are_placed_in_observations(case: Case) -> None:
    codec, values = case.codec, case.stored(4, 8)
    depth = 1 if case.mode == "disk" else case.field.frame_stack
    chosen = np.random.default_rng(2).integers(0, 8, (6, depth))
    expected = [expected_value(case, list(case.read_back(values)[window])) for window in chosen]
    out = np.zeros((6, *case.field.stacked_shape), codec.dtype)
    order = np.random.default_rng(3).permutation(chosen.size)
    targets, slots = np.divmod(order, depth)
    codec.place(codec.to_rows(values)[0][chosen.reshape(-1)[order]], Placement(targets, slots, depth, out))
    np.testing.assert_array_equal(out, np.stack(expected), strict=True)
    out = np.zeros_like(out)
    direct = codec.direct_rows(out, depth)
    if direct is not None:
        direct[order] = codec.to_rows(values)[0][chosen.reshape(-1)[order]]
        np.testing.assert_array_equal(out, np.stack(expected), strict=True)


@every_case
@pytest.mark.parametrize("seed", range(4))
def test_rows_in_memory_are_read_and_the_others_named(case: Case, seed: int) -> None:
    codec = case.codec
    chunks = {number: chunk_of(case, number, 8 if number == 2 else 6) for number in (2, 4)}
    stored = {number: case.read_back(case.stored(number, 8)) for number in chunks}
    windows = windows_of(case, 40, seed)
    out = np.full((40, *case.field.stacked_shape), 1, codec.dtype)
    counters = Counters()
    with ThreadPoolExecutor(1) as pool:
        left = codec.read_cached(codec.map_of(chunks, CHUNK_ROWS), windows, out, Workers(pool, 2), counters)
    assert len(set(left.tolist())) == len(left)
    strange = {at for at, row in enumerate(windows.reshape(-1).tolist()) if row // CHUNK_ROWS not in chunks}
    missing = {at // windows.shape[1] for at in left.tolist()}
    for at in strange - set(left.tolist()):  # zeros may be read, rows of other chunks not
        assert windows.reshape(-1)[at] == -1
    for b in set(range(40)) - missing:
        rows = [
            np.zeros(codec.shape, codec.dtype) if row < 0 else stored[row // CHUNK_ROWS][row % CHUNK_ROWS]
            for row in windows[b].tolist()
        ]
        np.testing.assert_array_equal(out[b], expected_value(case, rows), strict=True)
    assert (counters.stats(chunk_files_held=0, bytes_held=0).memory_bytes_read > 0) == (len(left) < windows.size)
    nothing = codec.read_cached(codec.map_of({}, CHUNK_ROWS), windows, out, Workers(), counters)
    np.testing.assert_array_equal(np.sort(nothing), np.arange(windows.size))


@every_case
def test_a_sealed_chunk_is_verified(case: Case) -> None:
    codec = case.codec
    with ThreadPoolExecutor(1) as helper:
        chunk, other = chunk_of(case, 1, 6), chunk_of(case, 1, 6, helper)
    np.testing.assert_array_equal(chunk.data, other.data)
    sealed = codec.seal(chunk, 6)
    assert sealed.file_bytes == chunk.data.size
    np.testing.assert_array_equal(codec.verify(chunk.data, sealed, 6, "chunk").data, chunk.data)
    positions = np.random.default_rng(4).choice(chunk.data.size, min(60, chunk.data.size), replace=False)
    for at in [0, chunk.data.size - 1, *positions.tolist()]:
        damaged = chunk.data.copy()
        damaged[at] ^= 1 << at % 8
        with pytest.raises((ChunkError, FormatVersionError), match="chunk"):
            codec.verify(damaged, sealed, 6, "chunk")
    with pytest.raises(ChunkError):
        codec.verify(chunk_of(case, 2, 6).data, sealed, 6, "chunk")


def written(case: Case, path: Path) -> Path:
    with ReplayStore.create(path, [case.field], mode=case.mode, chunk_rows=CHUNK_ROWS) as store:
        for number, rows in enumerate(LENGTHS):
            store.append({"x": case.values(number, rows)})
    return path


def check(case: Case, store: ReplayStore) -> None:
    """Every episode as it was appended, rows in any order, and the bytes that were read."""
    expected = []
    for number, rows in enumerate(LENGTHS):
        observations = case.stacks(case.read_back(case.values(number, rows)))
        found = store.read_episode(number)["x"]
        np.testing.assert_array_equal(found, observations, err_msg=f"episode {number}", strict=True)
        expected.append(observations)
    starts = {info.episode: info.parts[0].first_row for info in store.episodes()}
    drawn = [(number, t) for number, rows in enumerate(LENGTHS) for t in range(1, rows)]
    drawn = [drawn[at] for at in np.random.default_rng(5).integers(0, len(drawn), 64).tolist()]
    batch = store.gather([starts[number] + t for number, t in drawn])
    shift = 1 if case.field.role == "observation" else 0
    for b, (number, t) in enumerate(drawn):
        np.testing.assert_array_equal(batch["x"][b], expected[number][t - shift], strict=True)


@every_case
@pytest.mark.parametrize("threads", [1, 2])
def test_a_store_reads_it_wherever_it_is(case: Case, threads: int, tmp_path: Path) -> None:
    with ReplayStore.create(
        tmp_path / "s", [case.field], mode=case.mode, chunk_rows=CHUNK_ROWS, num_threads=threads
    ) as store:
        for number, rows in enumerate(LENGTHS):
            store.append({"x": case.values(number, rows)})
        store.flush()
        check(case, store)  # sealed chunks in memory, and a tail
        for residency in RESIDENCIES:
            with ReplayStore.open(tmp_path / "s", read_only=True, residency=residency, num_threads=threads) as reader:
                check(case, reader)
    for residency in RESIDENCIES:
        with ReplayStore.open(tmp_path / "s", residency=residency, num_threads=threads) as store:
            check(case, store)
            assert store.verify().ok


@every_case
def test_memory_for_some_chunks_only(case: Case, tmp_path: Path) -> None:
    path = written(case, tmp_path / "s")
    with ReplayStore.open(path, residency="ram") as store:
        budget = max(1, store.info()["cached_bytes"] * 3 // 5)
    with ReplayStore.open(path, read_only=True, residency="auto", budget_bytes=budget) as store:
        check(case, store)


@every_case
def test_damage_is_met_by_reading(case: Case, tmp_path: Path) -> None:
    path = written(case, tmp_path / "s")
    file = next((path / "x").glob("c.1*"))
    data = file.read_bytes()
    for at in (0, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        for residency in ("mapped", "ram"):
            with (
                pytest.raises((ChunkError, FormatVersionError), match=r"c\.1"),
                ReplayStore.open(path, read_only=True, residency=residency) as store,
            ):
                check(case, store)
    file.unlink()
    for residency in ("mapped", "ram"):
        with (
            pytest.raises(ChunkError, match=r"c\.1.*missing"),
            ReplayStore.open(path, read_only=True, residency=residency) as store,
        ):
            check(case, store)


@every_case
def test_plain_zarr_reads_it(case: Case, tmp_path: Path) -> None:
    path = written(case, tmp_path / "s")
    array = zarr.open_group(path, mode="r")["x"]
    assert isinstance(array, zarr.Array)
    expected = np.concatenate([case.read_back(case.stored(number, rows)) for number, rows in enumerate(LENGTHS)])
    found = np.asarray(array[:])
    np.testing.assert_array_equal(found[: len(expected)], expected, strict=True)


@pytest.mark.parametrize(
    ("field", "mode", "message"),
    [
        (image("", (3, 5, 4), "full", entropy="zstd").field, "half", "frame_delta is for images in mode 'full'"),
        (FieldSpec(name="x", shape=(4, 4), dtype="uint8", scheme=FrameDelta(frame_shape=(4, 4))), "full", "for images"),
        (FieldSpec.image("x", (4, 4), scheme=FrameDelta(frame_shape=(5, 4))), "full", "frame_delta holds frames"),
        (FieldSpec.image("x", (4, 4), scheme=rounded(16)), "full", "round_clamp packs numbers, not images"),
        (FieldSpec(name="x", shape=(4,), dtype="float64", scheme=rounded(4)), "half", "packs rows of 4 float32"),
        (FieldSpec(name="x", shape=(4,), dtype="float32", scheme={"id": "zlib"}), "half", "'zlib': numcodecs knows no"),
        (FieldSpec.image("x", (4, 4), scheme={"id": "zlib"}), "full", "'zlib': numcodecs knows no"),
        (
            FieldSpec(name="x", shape=(4,), dtype="float32", scheme={"id": "replaystore.round_clamp", "digits": 1}),
            "half", "does not load",
        ),
    ],
)  # fmt: skip
def test_fields_that_no_kind_takes(field: FieldSpec, mode: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        ReplayStore.create(tmp_path / "s", [field], mode=mode)
    assert not (tmp_path / "s").exists()


class Inverted(RawRows):
    """A kind that is no part of the package: bytes inverted. It has no fast path."""

    scheme = "test.inverted"
    stores_values = False

    @classmethod
    def of_field(cls, field: FieldSpec, mode: str) -> Inverted:
        assert load_scheme(field, Settings) is not None
        return cls(field.shape, np.dtype(field.dtype))

    def to_rows(self, values: np.ndarray) -> tuple[np.ndarray, int]:
        rows, clamped = super().to_rows(values)
        return ~rows, clamped

    def from_rows(self, rows: np.ndarray, out: np.ndarray, targets: np.ndarray | None = None) -> None:
        super().from_rows(~rows, out, targets)

    def direct_rows(self, out: np.ndarray, depth: int) -> None:
        return None


class Settings:
    @classmethod
    def from_config(cls, settings: dict[str, Any]) -> Settings:
        assert settings == {}
        return cls()


@pytest.mark.parametrize("size", [2, 70, 600])
def test_a_kind_of_its_own_is_a_line_in_the_registry(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, Inverted))
    given = plain("", (size,), "float32")
    field = FieldSpec(name="x", shape=(size,), dtype="float32", scheme={"id": "test.inverted"})
    case = Case("inverted", field, "half", given.values)
    path = written(case, tmp_path / "s")
    first = np.frombuffer(next((path / "x").glob("c.0*")).read_bytes(), np.uint8)
    np.testing.assert_array_equal(~first[: 4 * size].view(np.uint8), case.values(0, 1).view(np.uint8).reshape(-1))
    for residency in RESIDENCIES:
        with ReplayStore.open(path, read_only=True, residency=residency) as store:
            check(case, store)
            assert store.verify().ok
    monkeypatch.undo()
    for read_only in (True, False):
        with pytest.raises(FormatVersionError, match=r"'x': scheme 'test.inverted': numcodecs knows no codec.*install"):
            ReplayStore.open(path, read_only=read_only)
