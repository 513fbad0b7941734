"""Turns a result of `bench sample` into text: the cells of a table, notes and conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replaystore.bench.paging_plot import format_milliseconds
from replaystore.bench.sample_result import SampleResult, SampleTimes, first_of_each_store, time_ratio

_NONE = "-"
_MOST_BY_OTHERS = 0.1  # of the processor time used


def format_factor(factor: float | None) -> str:
    """Returns a factor such as `1.4x`, `12x` or `350x`, and `-` for None."""
    if factor is None:
        return _NONE
    return f"{factor:,.1f}x" if factor < 9.95 else f"{factor:,.0f}x"


def table_rows(result: SampleResult) -> list[dict[str, str]]:
    """Returns the table as text by column name.

    There is one row per store and residency, one for the copy, and one per other buffer. A column named after a store
    holds the time of the row divided by that of the store in its first residency.
    """
    compared = first_of_each_store(result.stores)
    marks = _marks(result)
    rows = []
    for entry in result.times:
        spread = entry.milliseconds
        row = {
            "buffer": entry.name + marks.get(entry.name, ""),
            "bytes per transition": _NONE
            if entry.bytes_per_transition is None
            else f"{entry.bytes_per_transition:,.0f}",
            "raw / held": _NONE
            if entry.bytes_per_transition is None
            else format_factor(result.raw_observation_bytes / entry.bytes_per_transition),
            "ms per batch": _NONE if spread is None else format_milliseconds(spread.median),
            "p5 - p95": _NONE
            if spread is None
            else f"{format_milliseconds(spread.p5)} - {format_milliseconds(spread.p95)}",
            "x copy": format_factor(time_ratio(entry, result.copy)),
        }
        for store in compared:
            row[f"x {store.name}"] = format_factor(time_ratio(entry, store))
        rows.append(row)
    return rows


def _marks(result: SampleResult) -> dict[str, str]:
    """Returns the number of the note of each entry that has one."""
    noted = [entry for entry in result.times if entry.notes or entry.reason]
    return {entry.name: f" [{number}]" for number, entry in enumerate(noted, 1)}


def notes(result: SampleResult) -> list[str]:
    """Returns what a reader needs to know to judge the table. The numbered notes belong to rows."""
    marks = _marks(result)
    numbered = [
        f"{marks[entry.name].strip()} {entry.name}: {_sentences(entry)}"
        for entry in result.times
        if entry.name in marks
    ]
    held = {entry.transitions for entry in result.stores}
    return [
        f"Raw: {result.raw_observation_bytes:,} bytes per observation with all its frames. A batch of"
        f" {result.conditions['batch_size']} has {result.batch_bytes:,} bytes. Stores hold"
        f" {', '.join(f'{count:,}' for count in sorted(filter(None, held)))} transitions"
        + (f", other buffers {result.conditions['transitions_of_other_buffers']:,} of them." if result.peers else "."),
        *numbered,
        *_warnings(result),
    ]


def _warnings(result: SampleResult) -> list[str]:
    share = result.conditions.get("used_by_other_processes") or 0.0
    if share <= _MOST_BY_OTHERS:
        return []
    return [
        f"OTHER PROCESSES USED {share:.0%} OF THE PROCESSOR TIME: measure again on an idle machine. Work on several"
        " threads waits for the slowest thread, and threads of torch wait long."
    ]


def _sentences(entry: SampleTimes) -> str:
    return "; ".join([*entry.notes, *([f"not measured: {entry.reason}"] if entry.reason else [])])


def conditions_text(conditions: Mapping[str, Any]) -> str:
    """Returns the names and values of the conditions in one line."""
    return "; ".join(
        f"{name.replace('_', ' ')} {_NONE if value is None else value}" for name, value in conditions.items()
    )
