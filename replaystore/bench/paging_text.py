"""Turns a paging result into text: the headline, the cells of its tables, the notes and the conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replaystore.bench.paging_ideal import ideal_seconds
from replaystore.bench.paging_plot import format_milliseconds
from replaystore.bench.paging_result import Measurement, PagingResult

_NONE = "-"
COLUMNS = (
    "data",
    "mode",
    "transitions",
    "store",
    "in RAM",
    "residency",
    "batches",
    "p50 ms",
    "least ms",
    "p95 ms",
    "p99 ms",
    "mean ms",
    "open s",
    "first ms",
    "faults/batch",
    "read/batch",
    "PSS",
    "charged",
    "peak",
    "status",
)
# A page shows `COLUMNS` in two tables, so that each fits a window of 800 pixels and a sheet of paper.
TIME_COLUMNS = (
    "data",
    "mode",
    "residency",
    "p50 ms",
    "least ms",
    "p95 ms",
    "p99 ms",
    "mean ms",
    "open s",
    "first ms",
    "status",
)
MEMORY_COLUMNS = (
    "data",
    "mode",
    "transitions",
    "store",
    "in RAM",
    "batches",
    "faults/batch",
    "read/batch",
    "PSS",
    "charged",
    "peak",
)
NARROW_COLUMNS = (
    "data",
    "mode",
    "in RAM",
    "residency",
    "p50 ms",
    "least ms",
    "p95 ms",
    "p99 ms",
    "first ms",
    "read/batch",
    "status",
)
TEXT_COLUMNS = ("mode", "residency", "status", "codecs")
_CODEC_OPTIONS = ("reference", "entropy", "level", "keyframe_interval", "decimals", "low", "high")


def format_bytes(num_bytes: float | None) -> str:
    """Returns three digits or more and a binary unit, such as `812 B` or `4.21 MiB`, and `-` for None."""
    if num_bytes is None:
        return _NONE
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1000 or unit == "GiB":
            break
        num_bytes /= 1024
    digits = 0 if unit == "B" or num_bytes >= 100 else 1 if num_bytes >= 10 else 2
    return f"{num_bytes:,.{digits}f} {unit}"


def _milliseconds(seconds: float | None) -> str:
    return _NONE if seconds is None else format_milliseconds(1000 * seconds)


def _batches(entry: Measurement) -> str:
    if entry.status != "ok":
        return _NONE
    return f"{len(entry.batch_seconds)}{' (time was up)' if entry.stopped_by == 'max_seconds' else ''}"


def table_rows(result: PagingResult) -> list[dict[str, str]]:
    """Returns the table as text by column name.

    It has one row per measurement, by size and then in the order of the modes.
    """
    rows = []
    for entry in sorted(result.measurements, key=lambda m: (m.size, result.config.modes.index(m.mode))):
        drawn = 1 + len(entry.batch_seconds)
        faults, read = entry.major_faults, entry.read_bytes
        status = entry.status.replace("_", " ") + ("" if entry.limited else ", no limit")
        cells = (
            f"{entry.size:g}x ({format_bytes(entry.data_bytes)})",
            entry.mode,
            f"{entry.transitions:,}",
            format_bytes(entry.store_bytes),
            format_bytes(entry.resident_bytes),
            entry.residency or _NONE,
            _batches(entry),
            _milliseconds(entry.p50_seconds),
            _milliseconds(ideal_seconds(result, entry)),
            _milliseconds(entry.p95_seconds),
            _milliseconds(entry.p99_seconds),
            _milliseconds(entry.mean_seconds),
            _NONE if entry.open_seconds is None else f"{entry.open_seconds:.2f}",
            _milliseconds(entry.first_batch_seconds),
            _NONE if faults is None else f"{faults / drawn:,.1f}",
            _NONE if read is None else format_bytes(read / drawn),
            format_bytes(entry.pss_bytes),
            format_bytes(entry.group_usage_bytes),
            format_bytes(entry.group_peak_bytes),
            status,
        )
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def store_rows(result: PagingResult) -> list[dict[str, str]]:
    """Returns how each mode stored the data at the largest size, as text by column name."""
    return [
        {
            "mode": entry.mode,
            "bytes per transition, observations": f"{entry.observation_bytes_per_transition:,.0f}",
            "bytes per transition, all fields": f"{entry.bytes_per_transition:,.0f}",
            "factor against raw stacks": f"{entry.compression_factor:.2f}",
            "on disk": format_bytes(entry.bytes_on_disk),
            "transitions": f"{entry.transitions:,}",
            "codecs": "; ".join(f"{name}: {_codec(scheme)}" for name, scheme in entry.schemes.items()) or "none",
        }
        for entry in result.stores
    ]


def _codec(scheme: Mapping[str, Any]) -> str:
    identity = str(scheme["id"]).removeprefix("replaystore.")
    options = [f"{name} {scheme[name]}" for name in _CODEC_OPTIONS if name in scheme]
    return f"{identity} ({', '.join(options)})" if options else identity


def headline(result: PagingResult) -> str:
    """Returns one sentence about the largest size at which `full` fits RAM and `disk` does not.

    It compares the times of both.
    """
    limit = format_bytes(result.config.limit_bytes)
    if not result.limited:
        return f"No memory limit was in force ({result.limit_reason}): these times say nothing about paging."
    for size in reversed(result.config.sizes):
        disk, full = result.at(size, "disk"), result.at(size, "full")
        if disk is None or full is None or full.p50_seconds is None or full.residency != "ram":
            continue
        if disk.store_bytes + (full.baseline_bytes or 0) <= result.config.limit_bytes:
            continue
        sized = f"At {size:g} times the memory limit ({format_bytes(full.data_bytes)} of stacked data under {limit})"
        fits = (
            f"`full` fits in {format_bytes(full.resident_bytes)} of RAM and takes {_milliseconds(full.p50_seconds)} ms"
        )
        if disk.p50_seconds is None:
            return f"{sized} `disk` is {disk.status.replace('_', ' ')}, while {fits} per batch (p50)."
        ratio = disk.p50_seconds / full.p50_seconds
        compared = f"{ratio:,.0f} times faster" if ratio >= 10 else f"{ratio:.1f} times faster"
        if ratio < 1:
            compared = f"{1 / ratio:.1f} times slower"
        return (
            f"{sized} `disk` pages and takes {_milliseconds(disk.p50_seconds)} ms per batch; {fits}: {compared} (p50)."
        )
    return f"Under a memory limit of {limit}, at none of these sizes `full` was all in RAM while `disk` did not fit."


def notes(result: PagingResult) -> list[str]:
    """Returns what a reader needs to know to judge the table."""
    config, entries = result.config, result.measurements
    baseline = max((entry.baseline_bytes or 0 for entry in entries), default=0)
    budgets = sorted({entry.budget_bytes for entry in entries if entry.budget_bytes is not None})
    budget = " to ".join(dict.fromkeys((format_bytes(budgets[0]), format_bytes(budgets[-1])))) if budgets else "0 B"
    compared = min((len(entry.checksums) for entry in entries if entry.checksums), default=0)
    limit = f"Memory limit {format_bytes(config.limit_bytes)}, page cache included, swap off."
    if not result.limited:
        limit = f"NO MEMORY LIMIT: {result.limit_reason}. Sizes are multiples of {format_bytes(config.limit_bytes)}."
    probe = result.conditions.get("random_read_64_kib_ms")
    device = f"{probe:g} ms" if isinstance(probe, float) else "an unknown time"
    return [
        f"{limit} Data are {result.source_episodes} recorded episodes, appended again and again, counted as raw stacked"
        f" rows of {result.row_bytes:,} bytes.",
        f"Batches of {config.batch_size}, n_step {config.n_step}, seed {config.seed}, {config.threads} threads, drawn"
        f" and gathered in one process, for at most {config.max_seconds:g} s. Percentiles leave out the first batch,"
        " which has its own column.",
        f"The page cache is cold at the start. `disk` is mapped. `half` and `full` keep what fits a budget of {budget}"
        " in RAM and read the rest, unless their name has a residency. `memmap` reads only the observations, through"
        " NumPy's memory maps of the files of `disk`. `drqv2` is DrQ-v2's loader without workers, which holds all"
        f" episodes in RAM. The process itself takes up to {format_bytes(baseline)}.",
        *_least(result),
        *_gains(result),
        f"All stores gave the same bytes in the first {compared} or more batches of each size (CRC32C)."
        if compared
        else "No batches could be compared between modes.",
        "`charged` is what the control group counts at the end, page cache included. `peak` is the most it counted.",
        f"The device took {device} (median) to read 64 KiB at a random place, one read at a time, past the page cache."
        " The host of a virtual disk may still have cached it.",
    ]


def _least(result: PagingResult) -> list[str]:
    """Returns a sentence on the least times. Nothing if the speeds are unknown."""
    speeds = result.speeds
    if speeds is None:
        return []
    read = "an unknown speed"
    if speeds.read_bytes_per_second is not None:
        read = f"{speeds.read_bytes_per_second / 1e6:,.0f} MB/s"
    return [
        f"`least` is what memory and device allow: the bytes of a batch are copied at"
        f" {speeds.copied_bytes_per_second / 1e6:,.0f} MB/s, and the observations that do not fit what the limit leaves"
        f" are read at {read}, both at once. The machine copied random rows and read 64 KiB at random places past the"
        f" page cache, {speeds.reads_in_flight} at a time, after the batches. Decoding counts as nothing."
    ]


def _gains(result: PagingResult) -> list[str]:
    """Returns a sentence on what it is worth to fit RAM. Nothing if `disk` or all else is missing."""
    parts = []
    for size in result.config.sizes:
        disk = result.at(size, "disk")
        held = [entry for entry in result.measurements if entry.size == size and entry.residency == "ram"]
        times = {entry.mode: entry.p50_seconds for entry in held if entry.p50_seconds}
        if disk is not None and disk.p50_seconds and times:
            best = min(times, key=lambda name: times[name])
            parts.append(f"{size:g}x: {disk.p50_seconds / times[best]:.1f} ({best})")
    return [f"`disk` / the fastest that is all in RAM (p50): {', '.join(parts)}."] if parts else []


def condition_rows(result: PagingResult) -> list[tuple[str, str]]:
    """Returns the names and values of the conditions, as text."""
    rows = []
    for name, value in result.conditions.items():
        text = format_bytes(value) if name.endswith("_bytes") and isinstance(value, int) else str(value or _NONE)
        rows.append((name.removesuffix("_bytes").replace("_", " "), text))
    return rows
