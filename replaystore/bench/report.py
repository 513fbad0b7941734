"""Reports of `bench paging`: JSON, tables for terminals and Markdown, a plot, and one self-contained HTML page."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from replaystore.bench.paging_plot import plot_png
from replaystore.bench.paging_result import PagingResult
from replaystore.bench.paging_text import (
    MEMORY_COLUMNS,
    NARROW_COLUMNS,
    TEXT_COLUMNS,
    TIME_COLUMNS,
    condition_rows,
    headline,
    notes,
    store_rows,
    table_rows,
)
from replaystore.runtime.extras import needs

with needs("reports of `bench`", "bench"):
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from rich.table import Table


@dataclass(frozen=True)
class ReportFiles:
    """Paths of the files of `write_report`."""

    json: Path
    markdown: Path
    png: Path
    html: Path


def to_table(result: PagingResult) -> Table:
    """Returns the table for a terminal, without the columns that would make it too wide."""
    table = Table(title=headline(result), caption="\n".join(notes(result)), caption_justify="left")
    for column in NARROW_COLUMNS:
        table.add_column(column, justify="left" if column in TEXT_COLUMNS else "right")
    previous = None
    for row in table_rows(result):
        if previous not in (None, row["data"]):
            table.add_section()
        previous = row["data"]
        table.add_row(*(row[column] for column in NARROW_COLUMNS))
    return table


def to_markdown(result: PagingResult) -> str:
    """Returns the headline, the tables, the notes and the conditions as Markdown."""

    def table(rows: list[dict[str, str]]) -> Iterator[str]:
        if rows:
            yield "| " + " | ".join(rows[0]) + " |"
            yield "| " + " | ".join("---" if name in TEXT_COLUMNS else "---:" for name in rows[0]) + " |"
        yield from ("| " + " | ".join(cell.replace("|", "\\|") for cell in row.values()) + " |" for row in rows)

    lines = [headline(result), "", *table(table_rows(result)), "", *(f"- {note}" for note in notes(result)), ""]
    lines += [*table(store_rows(result)), "", "Conditions: " + "; ".join(f"{k} {v}" for k, v in condition_rows(result))]
    return "\n".join(lines) + "\n"


def to_html(result: PagingResult) -> str:
    """Returns one self-contained page. It refers to nothing outside itself."""
    environment = Environment(
        loader=PackageLoader("replaystore.bench"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    full = next((entry for entry in result.stores if entry.mode == "full"), None)
    return environment.get_template("paging.html.j2").render(
        result=result,
        config=result.config,
        headline=headline(result).replace("`", ""),
        notes=[note.replace("`", "") for note in notes(result)],
        rows=table_rows(result),
        text_columns=TEXT_COLUMNS,
        time_columns=TIME_COLUMNS,
        memory_columns=MEMORY_COLUMNS,
        stores=store_rows(result),
        conditions=condition_rows(result),
        example=result.example,
        full=full,
        plot=base64.b64encode(plot_png(result)).decode(),
        plot_dark=base64.b64encode(plot_png(result, dark=True)).decode(),
    )


def write_report(result: PagingResult, directory: str | Path) -> ReportFiles:
    """Writes `paging.json`, `paging.md`, `paging.png` and `paging.html` into `directory`, made if absent."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    files = ReportFiles(*(folder / f"paging.{ending}" for ending in ("json", "md", "png", "html")))
    files.json.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    files.markdown.write_text(to_markdown(result), encoding="utf-8")
    files.png.write_bytes(plot_png(result))
    files.html.write_text(to_html(result), encoding="utf-8")
    return files
