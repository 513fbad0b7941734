"""`experiments.device`: what is cached and what was read, against plain reads; a whole run at a tiny size."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from made_up_episodes import made_up_episode

from experiments.device import __main__ as device
from experiments.device.figures import summarise
from experiments.device.reads import PAGE, RowFiles, read_bytes

MIB = 1 << 20
ROW_BYTES, CHUNK_ROWS, NUM_FILES = 3 * PAGE + 100, 16, 3


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Files in which the bytes of a row tell its number."""
    rows = np.arange(CHUNK_ROWS * NUM_FILES, dtype=np.uint8).repeat(ROW_BYTES)
    paths = [tmp_path / f"rows.{number}" for number in range(NUM_FILES)]
    for path, part in zip(paths, np.split(rows, NUM_FILES), strict=True):
        part.tofile(path)
        drop(path)
    return paths


def drop(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def open_files(paths: list[Path]) -> RowFiles:
    try:
        return RowFiles(paths, ROW_BYTES, CHUNK_ROWS, most_reads=32)
    except OSError as err:
        pytest.skip(f"no direct reads here: {err}")


def naive_pages(rows: list[int]) -> set[tuple[int, int]]:
    """(file, page) of every byte of the rows."""
    found = set()
    for row in rows:
        start = row % CHUNK_ROWS * ROW_BYTES
        found |= {(row // CHUNK_ROWS, byte // PAGE) for byte in range(start, start + ROW_BYTES)}
    return found


@pytest.mark.parametrize("rows", [[0], [15, 16], [1, 2, 2, 47], [], list(range(48))])
def test_pages_of_rows(paths: list[Path], rows: list[int]) -> None:
    files = open_files(paths)
    pages = files.pages_of(np.array(rows, np.int64))
    pages_a_file = -(-CHUNK_ROWS * ROW_BYTES // PAGE)
    assert len(pages) == NUM_FILES * pages_a_file
    assert {divmod(page, pages_a_file) for page in np.flatnonzero(pages).tolist()} == naive_pages(rows)
    assert files.num_rows_in(np.array(rows, np.int64), pages) == len(set(rows))


def test_cached_pages_are_those_that_were_read(paths: list[Path]) -> None:
    files = open_files(paths)
    if files.cached().any():
        pytest.skip("this file system keeps pages whatever it is told")
    descriptor = os.open(paths[1], os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    row = CHUNK_ROWS + 5
    before = read_bytes()
    assert set(os.pread(descriptor, ROW_BYTES, 5 * ROW_BYTES)) == {row}
    os.close(descriptor)
    wanted = files.pages_of(np.array([row]))
    assert (files.cached() == wanted).all()
    assert read_bytes() - before == wanted.sum() * PAGE
    neighbours = np.array([row - 1, row, row + 1])
    assert files.num_rows_in(neighbours, files.pages_of(neighbours) & ~files.cached()) == 2


@pytest.mark.parametrize("reuse", [False, True])
def test_direct_reads_leave_the_cache_alone_and_are_all_made(paths: list[Path], reuse: bool) -> None:
    files = open_files(paths)
    cached, before = files.cached(), read_bytes()
    with ThreadPoolExecutor(4) as pool:
        assert files.read_direct(np.random.default_rng(0), 30, 4, pool, reuse=reuse) > 0
    assert read_bytes() - before == 30 * files.request_bytes == 30 * 4 * PAGE
    assert (files.cached() == cached).all()


def test_rows_through_maps(paths: list[Path]) -> None:
    rows = np.array([47, 0, 16, 15])
    out = np.zeros((4, ROW_BYTES), np.uint8)
    open_files(paths).read_map(rows, out)
    assert (out == rows[:, None]).all()


def turn(**changes: object) -> dict[str, object]:
    device_rates = {"1": 100.0, "2": 200.0}
    return {
        "seconds": 1.0, "read_bytes": 150, "missing_rows": 2, "missing_page_bytes": 150, "wanted_page_bytes": 200,
        "unused_page_bytes": 0, "device_one_place": 300.0, "device": device_rates, **changes,
    }  # fmt: skip


def summary(*turns: dict[str, object]) -> dict[str, dict[str, bool]]:
    mapped = [{"seconds": 8.0, "read_bytes": 3000, "missing_page_bytes": 100}]
    return summarise({"turns": list(turns), "map": mapped, "full": {"seconds": [0.04], "held_bytes": 1}}, row_bytes=60)


def test_figures_of_turns() -> None:
    figures = summary(turn(), turn(), turn(seconds=2.0))
    assert (figures["fraction_of_device"], figures["device_best_in_flight"]) == (0.75, 2)
    assert figures["fraction_of_device_one_place"] == 0.5
    assert figures["disk_over_full"] == pytest.approx(25)
    assert figures["map_over_full"] == pytest.approx(200)
    assert (figures["map_read_over_needed_pages"], figures["read_over_row_bytes"]) == (30, 1.25)
    assert set(figures["reached"].values()) == {True}


@pytest.mark.parametrize(
    ("missed", "changes"),
    [
        ("fraction_of_device", {"seconds": 1.2}),
        ("no_read_ahead", {"unused_page_bytes": 1}),
        ("no_read_ahead", {"read_bytes": 201}),
        ("full_gain", {"seconds": 0.7}),
    ],
)
def test_a_missed_figure_is_said_to_be_missed(missed: str, changes: dict[str, object]) -> None:
    reached = summary(turn(**changes))["reached"]
    assert {name for name, value in reached.items() if not value} == {missed}


def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])  # where the measured process finds itself
    episodes = tmp_path / "episodes"
    episodes.mkdir()
    for number in range(2):
        name = f"20260301T120000_{number}_40.npz"
        np.savez_compressed(episodes / name, **made_up_episode(number, 41, size=64))
    arguments = [str(episodes), str(tmp_path / "work"), "--limit", "768MiB", "--size", "2MiB", "--json"]
    arguments += ["--batch-size", "8", "--turns", "2", "--map-batches", "1", "--chunk-rows", "64"]
    arguments += ["--plot", str(tmp_path / "plot.png")]
    run = CliRunner().invoke(device.main, arguments)
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    figures, turns = result["figures"], result["raw"]["turns"]
    assert (result["request"]["row_bytes"], figures["row_bytes"]) == (3 * 64 * 64, 3 * 64 * 64)
    assert result["transitions"] * figures["row_bytes"] > 1.9 * MIB
    assert len(turns) == 2
    assert all(entry["read_bytes"] <= entry["wanted_page_bytes"] for entry in turns)
    assert all(entry["unused_page_bytes"] == 0 for entry in turns)
    assert figures["reached"]["no_read_ahead"]
    assert min(figures["disk_ms"]["median"], figures["full_ms"]["median"], figures["map_ms"]["median"]) > 0
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_a_store_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "episodes").mkdir()
    run = CliRunner().invoke(device.main, [str(tmp_path / "episodes"), str(tmp_path / "work")])
    assert run.exit_code == 1
    assert "found none" in run.output
    assert "Traceback" not in run.output
