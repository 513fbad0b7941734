from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replaystore.bench.memory_limit import MemoryGroup, memory_group
from replaystore.bench.paging import MeasurementFailed, run_paging
from replaystore.bench.paging_config import PagingConfig
from replaystore.bench.paging_ideal import ideal_seconds
from replaystore.bench.paging_result import PagingResult
from replaystore.bench.paging_stores import EpisodeSource
from replaystore.bench.physical_limits import READ_BYTES, copied_bytes_per_second, read_directly
from replaystore.bench.report import write_report
from replaystore.bench.sample_turns import Draws
from replaystore.errors import DamageError, EpisodeFileError, SpecError, StoreExists

MIB = 1 << 20
ROWS = 41
SHAPE = (3, 24, 24)
STACK = 3


def record(directory: Path, episode: int) -> None:
    """An episode file whose pixels tell the episode and the row: a bright square that moves over noise that stays."""
    rng = np.random.default_rng(episode)
    frames = np.repeat(rng.integers(0, 60, (1, *SHAPE), np.uint8), ROWS, axis=0)  # (row, channel, height, width)
    for row in range(ROWS):
        at = (row * 2 + episode) % 20
        frames[row, :, at : at + 4, at : at + 4] = 100 + row
    window = np.maximum(np.arange(ROWS)[:, None] + np.arange(1 - STACK, 1), 0)
    np.savez_compressed(
        directory / f"20260301T120000_{episode}_{ROWS - 1}.npz",
        observation=frames[window].reshape(ROWS, STACK * SHAPE[0], *SHAPE[1:]),
        action=rng.uniform(-1, 1, (ROWS, 2)).astype(np.float32),
        reward=rng.uniform(0, 1, (ROWS, 1)).astype(np.float32),
        discount=np.ones((ROWS, 1), np.float32),
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PagingConfig:
    folder = tmp_path_factory.mktemp("paging")
    episodes = folder / "episodes"
    episodes.mkdir()
    for episode in range(2):
        record(episodes, episode)
    return PagingConfig(
        episode_dir=str(episodes),
        work_dir=str(folder / "work"),
        limit_bytes=768 * MIB,
        sizes=(MIB / (768 * MIB), 2 * MIB / (768 * MIB)),
        batch_size=16,
        num_batches=3,
        max_seconds=20.0,
        chunk_rows=64,
        checksum_batches=3,
    )


@pytest.fixture(scope="module")
def measured(config: PagingConfig) -> tuple[PagingResult, list[str]]:
    lines: list[str] = []
    return run_paging(config, progress=lines.append), lines


def test_every_size_and_mode_is_measured(config: PagingConfig, measured: tuple[PagingResult, list[str]]) -> None:
    result, _ = measured
    assert [(m.size, m.mode) for m in result.measurements] == [(s, m) for s in config.sizes for m in config.modes]
    with memory_group(config.limit_bytes) as group:
        assert result.limited == group.limited
    for entry in result.measurements:
        assert (entry.status, entry.stopped_by, len(entry.batch_seconds)) == ("ok", "num_batches", 3)
        assert entry.p50_seconds == pytest.approx(np.percentile(entry.batch_seconds, 50))
        assert entry.p99_seconds == pytest.approx(np.percentile(entry.batch_seconds, 99))
        assert min(entry.open_seconds or 0, entry.first_batch_seconds or 0, entry.pss_bytes or 0) > 0
        assert entry.data_bytes >= entry.size * config.limit_bytes
        if entry.limited:
            assert 0 < (entry.group_usage_bytes or 0) <= config.limit_bytes


def test_modes_draw_the_same_transitions(config: PagingConfig, measured: tuple[PagingResult, list[str]]) -> None:
    result, _ = measured
    sums = {size: {entry.checksums for entry in result.measurements if entry.size == size} for size in config.sizes}
    assert all(len(found) == 1 for found in sums.values())
    first, second = (next(iter(found)) for found in sums.values())
    assert len(first) == 3
    assert len({*first, *second}) == 6


def test_residency_is_what_the_mode_asks_for(measured: tuple[PagingResult, list[str]]) -> None:
    for entry in measured[0].measurements:
        assert entry.residency == ("mapped" if entry.mode == "disk" else "ram")
        assert (entry.budget_bytes is None) == (entry.mode == "disk")
        assert 0 < (entry.baseline_bytes or 0) < 700 * MIB


def test_residencies_and_memmap_as_contenders(config: PagingConfig, measured: tuple[PagingResult, list[str]]) -> None:
    """They read the stores of the modes, and their batches are those of the modes."""
    lines: list[str] = []
    names = ("disk", "disk-files", "half-mapped", "full-files", "memmap")
    result = run_paging(replace(config, modes=names, sizes=config.sizes[-1:]), progress=lines.append)
    assert [entry.mode for entry in result.measurements] == list(names)
    assert [entry.residency for entry in result.measurements] == ["mapped", "files", "mapped", "files", "memmap"]
    assert [store.mode for store in result.stores] == ["disk", "half", "full"]
    assert not any("appended" in line for line in lines)
    expected = {entry.checksums for entry in measured[0].measurements if entry.size == config.sizes[-1]}
    assert {entry.checksums for entry in result.measurements} == expected
    for entry in result.measurements:
        assert entry.budget_bytes is None
        assert entry.p50_seconds


def test_amounts_and_compression(config: PagingConfig, measured: tuple[PagingResult, list[str]]) -> None:
    result, _ = measured
    assert result.row_bytes == STACK * math.prod(SHAPE) + 2 * 4 + 4 + 4
    rows = {m.size: m.data_bytes // result.row_bytes for m in result.measurements}
    for size in config.sizes:
        wanted = math.ceil(size * config.limit_bytes / result.row_bytes)
        assert rows[size] == math.ceil(wanted / ROWS) * ROWS
    by_mode = {store.mode: store for store in result.stores}
    assert by_mode["full"].bytes_on_disk < by_mode["half"].bytes_on_disk < by_mode["disk"].bytes_on_disk
    assert {store.episodes for store in result.stores} == {rows[config.sizes[-1]] // ROWS}


def test_a_second_run_measures_nothing_again(config: PagingConfig, measured: tuple[PagingResult, list[str]]) -> None:
    result, lines = measured
    assert sum("measuring" in line for line in lines) == 6
    again: list[str] = []
    second = run_paging(config, progress=again.append)
    assert second.measurements == result.measurements
    assert sum("measured earlier" in line for line in again) == 6
    assert not any("measuring" in line or "appended" in line for line in again)


def test_report_of_a_real_run(tmp_path: Path, measured: tuple[PagingResult, list[str]]) -> None:
    files = write_report(measured[0], tmp_path)
    assert PagingResult.from_json(json.loads(files.json.read_text())) == measured[0]
    assert "data:image/png;base64," in files.html.read_text()


@pytest.fixture
def small(config: PagingConfig, measured: tuple[PagingResult, list[str]], tmp_path: Path) -> PagingConfig:
    """A configuration of its own with one size and mode."""
    return replace(config, work_dir=str(tmp_path / "work"), sizes=config.sizes[:1], modes=("half",))


def test_killed_at_the_limit_is_a_result(small: PagingConfig) -> None:
    with memory_group(small.limit_bytes) as group:
        if not group.limited:
            pytest.skip(f"no memory limit here: {group.reason}")
    (entry,) = run_paging(replace(small, limit_bytes=24 * MIB, sizes=(0.01,))).measurements
    assert entry.status == "killed"
    assert entry.p50_seconds is None
    assert entry.batch_seconds == ()


def test_without_a_writable_group_it_runs_and_says_so(small: PagingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replaystore.bench.memory_limit.possible_parents", list)
    result = run_paging(small)
    assert not result.limited
    assert "no control group" in str(result.limit_reason)
    assert result.measurements[0].status == "ok"
    assert result.measurements[0].group_usage_bytes is None


def test_a_failed_child_is_an_error_with_its_words(small: PagingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemoryGroup.run

    def break_store(self: MemoryGroup, *arguments: object, **options: object) -> object:
        for path in Path(small.work_dir, "stores", "half").rglob("zarr.json"):
            path.parent.rename(path.parent.with_name("gone"))
            break
        return original(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryGroup, "run", break_store)
    with pytest.raises(MeasurementFailed, match=r"(?s)mode 'half', size .*Error"):
        run_paging(small)


def test_a_child_that_takes_too_long_is_a_result(small: PagingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replaystore.bench.paging.GRACE_SECONDS", 0.05 - 2 * small.max_seconds)
    (entry,) = run_paging(small).measurements
    assert (entry.status, entry.batch_seconds) == ("timed_out", ())


def test_a_store_that_has_grown_too_large_is_made_anew(config: PagingConfig, small: PagingConfig) -> None:
    lines: list[str] = []
    large = run_paging(replace(small, sizes=config.sizes[1:]), progress=lines.append).measurements[0]
    entry = run_paging(small, progress=lines.append).measurements[0]
    assert entry.transitions < large.transitions
    assert entry.store_bytes < large.store_bytes
    appended = [int(line.split()[2]) for line in lines if "appended" in line]
    assert appended == [large.transitions // (ROWS - 1), entry.transitions // (ROWS - 1)]


def test_codec_of_full_can_be_chosen(small: PagingConfig) -> None:
    chosen = replace(small, modes=("half", "full"), frame_delta={"entropy": "spans", "reference": "keyframe"})
    result = run_paging(PagingConfig.from_json(json.loads(json.dumps(chosen.to_json()))))
    recipe = json.loads(Path(small.work_dir, "stores", "full.json").read_text())
    assert recipe["fields"][0]["scheme"]["entropy"] == "spans"
    assert result.measurements[0].checksums == result.measurements[1].checksums


def test_a_store_grows_from_size_to_size(config: PagingConfig, measured: tuple[PagingResult, list[str]]) -> None:
    result, lines = measured
    appended = [int(line.split()[2]) for line in lines if line.startswith("full: appended")]
    assert len(appended) == len(config.sizes)
    assert sum(appended) == result.stores[0].episodes


def test_modes_that_differ_are_an_error(config: PagingConfig, measured: tuple[PagingResult, list[str]]) -> None:
    path = next(Path(config.work_dir, "measurements").glob("full-*.json"))
    before = path.read_text()
    data = json.loads(before)
    data["measurement"]["checksums"][1] = "00000000"
    path.write_text(json.dumps(data))
    try:
        with pytest.raises(DamageError, match="batch 1: expected the same bytes in all modes"):
            run_paging(config)
    finally:
        path.write_text(before)


def test_a_store_that_is_not_ours_is_left_alone(small: PagingConfig) -> None:
    foreign = Path(small.work_dir, "stores", "half-warm-up")
    foreign.mkdir(parents=True)
    (foreign / "precious").write_text("data")
    with pytest.raises(StoreExists, match="not made by this benchmark"):
        run_paging(small)
    assert (foreign / "precious").exists()


def test_random_reads_are_timed_or_refused(tmp_path: Path) -> None:
    assert read_directly(tmp_path, np.random.default_rng(0)) is None
    (tmp_path / "data").write_bytes(bytes(300_000))
    found = read_directly(tmp_path, np.random.default_rng(0), num_reads=3, in_flight=2)
    if found is not None:  # None: the file system cannot bypass the page cache
        assert found.median_milliseconds > 0
        assert found.bytes_per_second <= 2 * READ_BYTES / (found.median_milliseconds / 1000)


def test_copies_are_timed() -> None:
    draws = Draws(batch_size=16, n_step=1, discount=1.0, threads=2, seed=0)
    assert 1e6 < copied_bytes_per_second(100_000, draws) < 1e12


def test_the_least_time_is_that_of_copies_and_of_what_does_not_fit(
    config: PagingConfig, measured: tuple[PagingResult, list[str]]
) -> None:
    """With speeds that one can count with: 1 GB/s of copies, 1 MB/s of reads."""
    result = measured[0]
    assert result.speeds is not None
    result = replace(result, speeds=replace(result.speeds, copied_bytes_per_second=1e9, read_bytes_per_second=1e6))
    stack = STACK * math.prod(SHAPE)
    row = 2 * stack + 2 * 4 + 4 + 4
    for mode, rows, row_bytes in (("disk", 2, stack), ("half", 2 * STACK, stack // STACK)):
        entry = result.at(config.sizes[-1], mode)
        assert entry is not None
        entry = replace(entry, limited=True)
        stored = next(store.observation_bytes_per_transition for store in result.stores if store.mode == mode)
        assert row_bytes <= stored < 1.1 * row_bytes  # the first row of an episode is not a transition
        assert ideal_seconds(result, entry) == pytest.approx(16 * row / 1e9)
        half = replace(entry, baseline_bytes=config.limit_bytes - entry.store_bytes // 2)
        assert ideal_seconds(result, half) == pytest.approx(16 * rows * stored / 2 / 1e6, rel=1e-3)
        assert ideal_seconds(replace(result, speeds=None), half) is None
        assert ideal_seconds(result, replace(entry, limited=False)) is None


_LOADER = """
import numpy as np, torch

class Episodes(torch.utils.data.IterableDataset):
    def __init__(self, directory, max_size):
        files = sorted(directory.glob("*.npz"))
        assert max_size == sum(int(file.stem.split("_")[2]) + 1 for file in files)
        self.episodes = [dict(np.load(file)) for file in files]

    def __iter__(self):
        while True:
            yield tuple(torch.from_numpy(self.episodes[0][name][1]) for name in ("observation", "action", "reward"))

def make_replay_loader(replay_dir, max_size, batch_size, num_workers, save_snapshot, nstep, discount):
    assert (num_workers, save_snapshot) == (0, True)
    return torch.utils.data.DataLoader(Episodes(replay_dir, max_size), batch_size=batch_size)
"""


def test_the_loader_of_a_checkout_as_a_contender(config: PagingConfig, tmp_path: Path) -> None:
    """A stand-in with the signature of DrQ-v2's loader: it gets links to all episodes, as often as they repeat."""
    (tmp_path / "replay_buffer.py").write_text(_LOADER)
    chosen = replace(config, modes=("disk", "drqv2"), sizes=config.sizes[-1:], drqv2=str(tmp_path))
    result = run_paging(PagingConfig.from_json(json.loads(json.dumps(chosen.to_json()))))
    disk, loader = result.measurements
    assert (loader.status, loader.residency, loader.checksums) == ("ok", "ram", ())
    assert loader.resident_bytes == loader.data_bytes == disk.data_bytes
    assert loader.batch_bytes == 16 * (STACK * math.prod(SHAPE) + 2 * 4 + 4)
    assert len(loader.batch_seconds) == 3


def test_the_loader_needs_a_checkout(config: PagingConfig) -> None:
    with pytest.raises(SpecError, match="needs a checkout of DrQ-v2"):
        replace(config, modes=("drqv2",))


def test_no_episode_files(tmp_path: Path) -> None:
    with pytest.raises(EpisodeFileError, match="found none"):
        EpisodeSource(tmp_path)
