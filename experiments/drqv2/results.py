"""Writes results: JSON, Markdown tables, pictures, and the generated part of a page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replaystore.bench.conditions import conditions
from replaystore.errors import SpecError
from replaystore.runtime.durable_files import replace_file, replacement

BEGIN, END = "<!-- results: generated, see the command above -->", "<!-- end of results -->"
# Okabe and Ito's palette. Its colours differ for any kind of colour vision.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def stated_conditions(directory: Path) -> dict[str, Any]:
    """Machine, versions and device."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    usable = len(os.sched_getaffinity(0))
    return {
        **conditions(directory), "usable_cores": usable, "torch": metadata.version("torch"), "cuda_device": device,
    }  # fmt: skip


def condition_line(stated: Mapping[str, Any]) -> str:
    """Returns the conditions as a sentence for a page."""
    entries = (f"{name.replace('_', ' ')} {value}" for name, value in stated.items() if value is not None)
    return "Conditions: " + "; ".join(entries)


def table(rows: Sequence[Mapping[str, str]], text_columns: Sequence[str] = ()) -> list[str]:
    """Returns the lines of a Markdown table. All rows have the keys of the first one."""
    if not rows:
        return []
    names = list(rows[0])
    lines = [
        "| " + " | ".join(names) + " |",
        "| " + " | ".join("---" if name in text_columns else "---:" for name in names) + " |",
    ]
    return lines + ["| " + " | ".join(row[name].replace("|", "\\|") for name in names) + " |" for row in rows]


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces a file as a whole, or leaves it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content, sync=False, shared=True)


def write_json(path: Path, data: Any) -> None:
    """Replaces a JSON file."""
    write_whole(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def new_axes(width: float = 8.0, height: float = 4.6) -> tuple[Figure, Axes]:
    """Returns an empty plot."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, color="#d9dde3", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def save_result(
    name: str, directory: Path, data: Any, lines: Sequence[str], figure: Figure | None, docs: str | None,
    *, section: bool = False,
) -> None:  # fmt: skip
    """Writes `name`.json, `name`.md and `name`.png into `directory`, and updates the page `docs` if one is given.

    The page keeps the text outside its two markers. If it has several results (`section`), the first marker of each has
    the `name`. Its picture goes into the folder `images` next to the page.

    Raises:
        SpecError: the page has no markers.
    """
    write_json(directory / f"{name}.json", data)
    picture = [f"![{name.replace('_', ' ')}]({name}.png)", ""] if figure is not None else []
    write_whole(directory / f"{name}.md", "\n".join([*picture, *lines]) + "\n")
    if figure is not None:
        with replacement(directory / f"{name}.png", sync=False) as file:
            figure.savefig(file, format="png", metadata={"Software": None})
    if docs is None:
        return
    page = Path(docs)
    if figure is not None:
        write_whole(page.parent / "images" / f"{name}.png", (directory / f"{name}.png").read_bytes())
        picture = [f"![{name.replace('_', ' ')}](images/{name}.png)", ""]
    write_between_markers(page, "\n".join([*picture, *lines]), name if section else None)
    print(f"written: {os.fspath(page)}")


def write_between_markers(page: Path, text: str, section: str | None = None) -> None:
    """Replaces the text between the two markers of a page.

    Args:
        page: the page.
        text: what stands there from now on.
        section: name in the first marker. None: the page has one result, without a name.

    Raises:
        SpecError: the page has no markers.
    """
    content = page.read_text(encoding="utf-8") if page.exists() else ""
    marker = BEGIN if section is None else BEGIN.replace("results", section)
    before, begin, rest = content.partition(marker)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SpecError(f"docs: {page}: expected the lines {marker!r} and {END!r}; put them where results go")
    write_whole(page, f"{before}{marker}\n\n{text.strip()}\n\n{END}{after}")
