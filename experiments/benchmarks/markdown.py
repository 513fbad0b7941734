"""Results of several kinds of data as Markdown: a summary, and a section per kind with its table and notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from replaystore.bench.paging_plot import format_milliseconds
from replaystore.bench.sample_result import SampleResult, SampleTimes, first_of_each_store
from replaystore.bench.sample_text import conditions_text, notes, table_rows

_NONE = "-"
TEXT_COLUMNS = ("buffer",)


def summary_rows(results: Mapping[str, SampleResult]) -> list[dict[str, str]]:
    """One row per result, by heading: bytes per transition and time.

    Rows are those of the copy, of each store in its first residency, and of the fastest and the smallest of the other
    buffers that were timed. All results have the same stores.
    """
    rows = []
    for heading, result in results.items():
        timed = [entry for entry in result.peers if entry.milliseconds is not None]
        row = {"data": heading, "raw": f"{result.raw_observation_bytes:,} B", "plain copy": _summed_up(result.copy)}
        for store in first_of_each_store(result.stores):
            row[store.name] = _summed_up(store)
        fastest = min(timed, key=lambda entry: entry.milliseconds.median if entry.milliseconds else 0, default=None)
        smallest = min(timed, key=lambda entry: entry.bytes_per_transition or 0, default=None)
        for title, entry in (("fastest other", fastest), ("smallest other", smallest)):
            row[title] = _NONE if entry is None else f"{entry.name}: {_summed_up(entry)}"
        rows.append(row)
    return rows


def _summed_up(entry: SampleTimes) -> str:
    size = "" if entry.bytes_per_transition is None else f"{entry.bytes_per_transition:,.0f} B, "
    return size + (_NONE if entry.milliseconds is None else f"{format_milliseconds(entry.milliseconds.median)} ms")


def markdown_table(rows: Sequence[Mapping[str, str]], text_columns: Sequence[str] = TEXT_COLUMNS) -> Iterator[str]:
    """Lines of a Markdown table; none for no rows. The first row has the columns."""
    if not rows:
        return
    yield "| " + " | ".join(rows[0]) + " |"
    yield "| " + " | ".join("---" if name in text_columns else "---:" for name in rows[0]) + " |"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row.values()) + " |"


def to_markdown(results: Mapping[str, SampleResult], pictures: Mapping[str, str] | None = None) -> str:
    """A section a result: heading, picture, table, notes and conditions.

    Args:
        results: by heading, in order.
        pictures: path of a plot by heading, where there is one.
    """
    lines: list[str] = []
    for heading, result in results.items():
        lines += [f"### {heading}", ""]
        if pictures and heading in pictures:
            lines += [f"![{heading}: bytes per transition against batch time]({pictures[heading]})", ""]
        lines += [*markdown_table(table_rows(result)), "", *(f"- {note}" for note in notes(result)), ""]
        lines += [f"Conditions: {conditions_text(result.conditions)}", ""]
    return "\n".join(lines)
