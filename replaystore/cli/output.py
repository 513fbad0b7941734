"""Output of commands: JSON and tables on stdout, progress on stderr."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from replaystore.runtime.compilation import show_compilation

_WIDTH_OF_FILES = 140  # width of tables if stdout is no terminal

Progress = Callable[[int, int], None]


def print_json(data: Any) -> None:
    """Prints plain data as JSON."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None) -> None:
    """Prints a table. The first column is aligned left, the others right.

    Args:
        title: line above the table.
        columns: headings. If all are empty, the table has no line of headings.
        rows: cells as text.
        caption: lines below the table.
    """
    named = any(columns)
    lines = [columns, *rows] if named else rows
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    text = [_aligned(line, widths) for line in lines]
    if named:
        text.insert(1, "  ".join("-" * width for width in widths))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH_OF_FILES
    text += [click.wrap_text(line, width) for line in (caption or "").splitlines()]
    click.echo("\n".join([title, *text, ""]))


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [text.rjust(width) for text, width in zip(line, widths, strict=True)]
    return "  ".join([line[0].ljust(widths[0]), *cells[1:]]).rstrip()


def print_rich(content: Any) -> None:
    """Prints an object made with rich."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)
    console.print(content)


def note(line: str) -> None:
    """Prints a line on stderr."""
    click.echo(line, err=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """Shows a progress bar on stderr while the block runs. Silent if stderr is no terminal.

    `--progress` and `--no-progress` override that.

    Args:
        what: label of the bar.

    Yields:
        A function to call with (done, in all).
    """
    if not _shows_progress():
        yield lambda done, total: None
        return
    with click.progressbar(length=1, label=what, file=sys.stderr, show_pos=True, width=0) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = max(1, total)
            bar.update(done - bar.pos)

        def show(compiling: str | None) -> None:
            bar.label = f"{what}, {compiling}" if compiling else what
            bar.render_progress()

        with show_compilation(show):
            yield progress


def _shows_progress() -> bool:
    asked = (click.get_current_context().find_root().obj or {}).get("progress")
    return sys.stderr.isatty() if asked is None else bool(asked)


def bytes_text(num_bytes: float | None) -> str:
    """Returns bytes with a unit, such as `812 B` or `4.2 MiB`, and `-` for None."""
    if num_bytes is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"


def number_text(value: float | None, digits: int = 0) -> str:
    """Returns a number with its thousands separated, and `-` for None."""
    return "-" if value is None else f"{value:,.{digits}f}"
