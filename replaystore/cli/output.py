"""What commands print: JSON and tables on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from replaystore.compilation import show_compilation

_WIDTH_OF_FILES = 140  # of tables where stdout is no terminal

Progress = Callable[[int, int], None]


def print_json(data: Any) -> None:
    """Prints plain data as JSON."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None) -> None:
    """Prints a table, the first column to the left and the others to the right; named or not."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(title), caption=caption and escape(caption), title_justify="left", caption_justify="left"
    )
    for number, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    print_rich(table)


def print_rich(content: Any) -> None:
    """Prints something made with rich."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)
    console.print(content)


def note(line: str) -> None:
    """A line on stderr."""
    click.echo(line, err=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """A progress bar on stderr while the block runs: call it with (done, in all). Silent where nobody looks."""
    if not _shows_progress():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr, force_terminal=True)) as bar:
        task = bar.add_task(what, total=None)
        with show_compilation(lambda text: bar.update(task, description=f"{what}, {text}" if text else what)):
            yield lambda done, total: bar.update(task, completed=done, total=total)


def _shows_progress() -> bool:
    asked = (click.get_current_context().find_root().obj or {}).get("progress")
    return sys.stderr.isatty() if asked is None else bool(asked)


def bytes_text(num_bytes: float | None) -> str:
    """`812 B`, `4.2 MiB`; `-` for None."""
    if num_bytes is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"


def number_text(value: float | None, digits: int = 0) -> str:
    """A number with thousands separated; `-` for None."""
    return "-" if value is None else f"{value:,.{digits}f}"
