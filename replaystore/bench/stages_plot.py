"""Plots the stages of a batch as stacked bars, one per store, as a PNG."""

from __future__ import annotations

import io
from pathlib import Path

from replaystore.bench.stages import StagesResult
from replaystore.runtime.extras import needs

with needs("plots of `bench`", "bench"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

# The stages in the order in which they happen, with colours of Okabe and Ito's palette.
_STAGES = (
    ("draw", "draw transitions", "#999999"),
    ("lookup", "look up rows, small fields", "#E69F00"),
    ("blocks", "decode LZ4 or zstd", "#0072B2"),
    ("differences", "spans, add differences", "#56B4E9"),
    ("write", "write observations", "#009E73"),
)
_DPI = 160


def plot_png(result: StagesResult) -> bytes:
    """Plots `result` and returns the bytes of a PNG file."""
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(result.stores)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = [Path(entry.store).name for entry in result.stores]
    lefts = [0.0] * len(names)
    for field, label, colour in _STAGES:
        widths = [max(0.0, getattr(entry, field)) for entry in result.stores]
        axes.barh(names, widths, left=lefts, color=colour, label=label, height=0.7)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    for place, (left, entry) in enumerate(zip(lefts, result.stores, strict=True)):
        axes.annotate(f" {entry.total:.1f}", (left, place), va="center")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("milliseconds per batch, one thread, chunks in RAM")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()
