from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from replaystore.bench.frame_example import frame_example
from replaystore.bench.paging_config import CONTENDERS, PagingConfig, mode_of
from replaystore.bench.paging_plot import plot_png
from replaystore.bench.paging_result import FrameExample, Measurement, PagingResult, Speeds, StoreSummary
from replaystore.bench.paging_text import (
    MEMORY_COLUMNS,
    NARROW_COLUMNS,
    TIME_COLUMNS,
    format_bytes,
    headline,
    notes,
    store_rows,
    table_rows,
)
from replaystore.bench.report import to_html, to_markdown, to_table, write_report
from replaystore.errors import SpecError
from replaystore.spec import FieldSpec, Mode

GIB = 1 << 30
SIZES = (0.5, 1.0, 2.0, 4.0, 8.0)
P50: dict[Mode, tuple[float, ...]] = {
    "disk": (0.0051, 0.095, 1.62, 3.3, 5.1),
    "half": (0.0042, 0.0043, 0.0047, 0.31, 0.66),
    "full": (0.0121, 0.0122, 0.0125, 0.0128, 0.021),
}
FACTOR: dict[Mode, float] = {"disk": 1.0, "half": 3.0, "full": 10.0}


def measurement(size: float, mode: Mode) -> Measurement:
    p50 = P50[mode][SIZES.index(size)]
    store_bytes = round(size * GIB / FACTOR[mode])
    resident = min(store_bytes, round(0.75 * GIB)) if mode != "disk" else 0
    return Measurement(
        size=size,
        mode=mode,
        data_bytes=round(size * GIB),
        transitions=round(size * 16_900),
        store_bytes=store_bytes,
        status="ok",
        limited=True,
        measured_at="2026-03-01T12:00:00+00:00",
        residency="mapped" if mode == "disk" else "ram" if resident == store_bytes else "ram + files",
        resident_bytes=resident,
        budget_bytes=None if mode == "disk" else round(0.75 * GIB),
        baseline_bytes=180 << 20,
        batch_bytes=256 * 2 * 63_544,
        stopped_by="num_batches" if p50 < 1 else "max_seconds",
        open_seconds=0.4,
        first_batch_seconds=3 * p50,
        batch_seconds=(p50, p50, 1.4 * p50),
        p50_seconds=p50,
        p95_seconds=1.4 * p50,
        p99_seconds=2.1 * p50,
        mean_seconds=1.05 * p50,
        major_faults=700,
        read_bytes=900 << 20,
        pss_bytes=600 << 20,
        pss_anonymous_bytes=500 << 20,
        group_usage_bytes=GIB - (1 << 20),
        group_cache_bytes=300 << 20,
        group_peak_bytes=GIB,
        limit_hits=None,
        checksums=("0badcafe", "12345678"),
    )


def result(*, limited: bool = True, measurements: tuple[Measurement, ...] | None = None) -> PagingResult:
    pixel = base64.b64encode(b"\x89PNG made up").decode()
    modes: tuple[Mode, ...] = ("disk", "half", "full")
    return PagingResult(
        config=PagingConfig(episode_dir="episodes", work_dir="work", limit_bytes=GIB, sizes=SIZES),
        limited=limited,
        limit_reason=None if limited else "/sys/fs/cgroup: Read-only file system",
        row_bytes=63_544,
        source_episodes=2,
        measurements=measurements or tuple(measurement(size, mode) for size in SIZES for mode in modes),
        stores=tuple(
            StoreSummary(
                mode=mode,
                transitions=135_200,
                episodes=271,
                bytes_on_disk=round(8 * GIB / FACTOR[mode]),
                observation_bytes_per_transition=63_504 / FACTOR[mode],
                bytes_per_transition=63_544 / FACTOR[mode],
                compression_factor=FACTOR[mode],
                schemes={"observation": {"id": "replaystore.frame_delta", "entropy": "lz4"}} if mode == "full" else {},
            )
            for mode in modes
        ),
        example=FrameExample(
            field="observation",
            episode_file="20260301T120000_0_500.npz",
            row=250,
            frame_shape=(3, 84, 84),
            frame_bytes=21_168,
            stack_bytes=63_504,
            changed_fraction=0.23,
            difference_gain=2.5,
            previous_png=pixel,
            current_png=pixel,
            difference_png=pixel,
        ),
        speeds=Speeds(copied_bytes_per_second=8e9, read_bytes_per_second=1e9, reads_in_flight=16),
        conditions={
            "cpu": "Made-up <CPU>",
            "kernel": "Linux 6",
            "git_commit": None,
            "read_ahead_bytes": 131072,
            "random_read_64_kib_ms": 0.25,
        },
    )


class Page(HTMLParser):
    """Cells of the tables, and everything that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.references: list[str] = []
        self.open_tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "data", "action")]
        if tag not in ("img", "meta", "source", "wbr"):
            self.open_tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open_tags and self.open_tags[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def test_result_survives_json() -> None:
    original = result()
    assert PagingResult.from_json(json.loads(json.dumps(original.to_json()))) == original


def test_headline_names_the_largest_size_at_which_full_is_in_ram_and_disk_does_not_fit() -> None:
    text = headline(result())
    assert text.startswith("At 4 times the memory limit")
    assert "`disk` pages and takes 3,300 ms" in text
    assert "takes 12.8 ms: 258 times faster" in text


def test_headline_when_disk_was_killed() -> None:
    parts = [
        replace(entry, status="killed", p50_seconds=None, residency=None) if entry.mode == "disk" else entry
        for entry in result().measurements
    ]
    assert "`disk` is killed, while `full` fits" in headline(result(measurements=tuple(parts)))


def test_headline_when_everything_fits_is_not_a_claim() -> None:
    small = tuple(entry for entry in result().measurements if entry.size == 0.5)
    assert "at none of these sizes" in headline(result(measurements=small))


def test_without_a_limit_every_rendering_says_so() -> None:
    free = result(limited=False, measurements=tuple(replace(m, limited=False) for m in result().measurements))
    assert "No memory limit" in headline(free)
    assert "NO MEMORY LIMIT" in " ".join(notes(free))
    assert all(row["status"] == "ok, no limit" for row in table_rows(free))
    assert "No memory limit could be set" in to_html(free)
    assert "NO MEMORY LIMIT" in to_markdown(free)


def test_table_numbers_are_those_of_the_json() -> None:
    made = result()
    entries = json.loads(json.dumps(made.to_json()))["measurements"]
    rows = table_rows(made)
    assert len(rows) == len(entries) == 15
    for row in rows:
        size = float(row["data"].split("x")[0])
        entry = next(e for e in entries if (e["size"], e["mode"]) == (size, row["mode"]))
        for column, key in (("p50 ms", "p50_seconds"), ("p95 ms", "p95_seconds"), ("p99 ms", "p99_seconds")):
            assert float(row[column].replace(",", "")) == pytest.approx(1000 * entry[key], rel=0.005)
        assert int(row["transitions"].replace(",", "")) == entry["transitions"]
        assert float(row["faults/batch"]) == entry["major_faults"] / 4
        assert row["batches"] == ("3" if entry["p50_seconds"] < 1 else "3 (time was up)")


def test_killed_measurement_has_a_row_without_numbers() -> None:
    killed = Measurement(
        size=8.0, mode="disk", data_bytes=8 * GIB, transitions=5, store_bytes=GIB, status="killed", limited=True,
        measured_at="2026-03-01T12:00:00+00:00",
    )  # fmt: skip
    (row,) = table_rows(result(measurements=(killed,)))
    assert (row["status"], row["p50 ms"], row["batches"], row["PSS"]) == ("killed", "-", "-", "-")
    assert plot_png(result(measurements=(killed,))).startswith(b"\x89PNG")


def test_html_refers_to_nothing_outside_itself() -> None:
    text = to_html(result())
    page = Page(text)
    assert page.references
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    without_data = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//\w|url\(|@import|<script|<link", without_data)


def test_html_tables_are_the_table() -> None:
    page = Page(to_html(result()))
    assert page.open_tags == []
    parts = []
    for (header, *body), columns in zip(page.tables[:2], (TIME_COLUMNS, MEMORY_COLUMNS), strict=True):
        assert header == list(columns)
        parts.append([dict(zip(header, row, strict=True)) for row in body])
    assert [{**time, **memory} for time, memory in zip(*parts, strict=True)] == table_rows(result())
    header, *body = page.tables[2]
    assert [dict(zip(header, row, strict=True)) for row in body] == store_rows(result())


def test_html_escapes_what_comes_from_outside() -> None:
    text = to_html(result())
    assert "Made-up &lt;CPU&gt;" in text
    assert "<CPU>" not in text


def test_terminal_table_fits_and_holds_its_columns() -> None:
    console = Console(file=io.StringIO(), width=130, force_terminal=False)
    console.print(to_table(result()))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(cell in text for row in table_rows(result()) for cell in (row[name] for name in NARROW_COLUMNS))


@pytest.mark.parametrize("dark", [False, True])
def test_plot_is_a_picture(dark: bool) -> None:
    picture = imread(io.BytesIO(plot_png(result(), dark=dark)))
    assert picture.shape[0] > 600
    assert picture.shape[1] > 1000
    assert (picture[0, 0, :3].mean() < 0.5) == dark


def test_bytes_a_transition_and_codecs() -> None:
    rows = store_rows(result())
    assert [row["bytes per transition, observations"] for row in rows] == ["63,504", "21,168", "6,350"]
    assert [row["codecs"] for row in rows] == ["none", "none", "observation: frame_delta (entropy lz4)"]


def test_notes_tell_how_fast_the_device_is() -> None:
    assert any("took 0.25 ms (median)" in note for note in notes(result()))
    assert any("an unknown time" in note for note in notes(replace(result(), conditions={})))


def test_what_fitting_in_ram_is_worth() -> None:
    lines = [line for line in notes(result()) if "all in RAM (p50)" in line]
    # `half` is the fastest while it fits, `full` from 4 times on, and at 8 times nothing is all in RAM.
    assert lines == [
        "`disk` / the fastest that is all in RAM (p50): 0.5x: 1.2 (half), 1x: 22.1 (half), 2x: 344.7 (half),"
        " 4x: 257.8 (full)."
    ]
    only_disk = tuple(entry for entry in result().measurements if entry.mode == "disk")
    assert not [line for line in notes(result(measurements=only_disk)) if "all in RAM (p50)" in line]


def test_every_contender_has_a_line_of_its_own() -> None:
    base = result()
    entries = tuple(replace(measurement(size, mode_of(name)), mode=name) for size in SIZES for name in CONTENDERS)
    found = replace(base, measurements=entries, config=replace(base.config, modes=tuple(CONTENDERS), drqv2="checkout"))
    assert len({plot_png(found), plot_png(base)}) == 2
    assert [row["mode"] for row in table_rows(found)[: len(CONTENDERS)]] == list(CONTENDERS)
    assert "half-files" in to_markdown(found)


def test_write_report(tmp_path: Path) -> None:
    files = write_report(result(), tmp_path / "new")
    assert PagingResult.from_json(json.loads(files.json.read_text())) == result()
    assert files.markdown.read_text() == to_markdown(result())
    assert files.png.read_bytes().startswith(b"\x89PNG")
    assert "<!doctype html>" in files.html.read_text()


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1 << 20, "1.00 MiB"), (1 << 30, "1.00 GiB"),
     (5000 << 30, "5,000 GiB"), (None, "-")],
)  # fmt: skip
def test_format_bytes(num_bytes: int | None, text: str) -> None:
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize("channels", ["first", "last"])
def test_example_takes_the_median_pair(channels: str) -> None:
    frames = np.zeros((6, 4, 5, 3), np.uint8)  # (row, height, width, channel)
    for row, changed in enumerate([0, 1, 2, 3, 12, 20]):
        frames[row] = frames[max(row - 1, 0)]
        frames[row].reshape(-1, 3)[:changed, 1] += 40
    shape, stacks = (4, 5, 3), np.concatenate([frames, frames], axis=-1)
    if channels == "first":
        shape, stacks = (3, 4, 5), np.moveaxis(stacks, -1, 1)
    spec = FieldSpec.image("pixels", shape, frame_stack=2, channels=channels)  # type: ignore[arg-type]
    example = frame_example(spec, np.ascontiguousarray(stacks), "file.npz")
    assert (example.row, example.changed_fraction) == (3, 3 / 20)
    assert (example.frame_bytes, example.stack_bytes) == (60, 120)
    picture = imread(io.BytesIO(base64.b64decode(example.difference_png)))
    assert picture.shape[:2] == (4, 5)
    assert (picture[..., :3] > 0).any(axis=-1).sum() == 3
    assert picture[0, 0, 1] == pytest.approx(40 * example.difference_gain / 255, abs=0.01)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"sizes": ()}, "sizes"), ({"sizes": (1, 1)}, "sizes"), ({"sizes": (0, 1)}, "sizes"), ({"modes": ()}, "modes"),
     ({"modes": ("disk", "tape")}, "modes"), ({"limit_bytes": 1}, "limit_bytes"), ({"num_batches": 0}, "num_batches"),
     ({"max_seconds": 0.0}, "max_seconds"), ({"threads": 0}, "threads")],
)  # fmt: skip
def test_configuration_that_cannot_work_is_refused(change: dict[str, object], name: str) -> None:
    with pytest.raises(SpecError, match=name):
        PagingConfig(**{"episode_dir": "e", "work_dir": "w", "limit_bytes": GIB, **change})  # type: ignore[arg-type]


def test_the_least_time_stands_beside_the_measured_one() -> None:
    rows = [row for row in table_rows(result()) if row["data"].startswith("8x")]
    assert {row["mode"]: row["least ms"] for row in rows} == {"disk": "29.2", "half": "22.5", "full": "4.07"}
    assert any("copied at 8,000 MB/s" in note and "read at 1,000 MB/s" in note for note in notes(result()))
    unknown = replace(result(), speeds=None)
    assert {row["least ms"] for row in table_rows(unknown)} == {"-"}
    assert not any("`least`" in note for note in notes(unknown))
    assert len({plot_png(unknown), plot_png(result())}) == 2
