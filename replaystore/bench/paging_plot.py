"""Plots batch time against amount of data, one line per mode, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from replaystore.bench.paging_config import DRQV2, MEMMAP, mode_of
from replaystore.bench.paging_ideal import ideal_seconds
from replaystore.bench.paging_result import Measurement, PagingResult
from replaystore.runtime.extras import needs
from replaystore.spec import MODES, Mode

with needs("plots of `bench`", "bench"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

# Okabe and Ito's palette suits all kinds of colour vision. Markers and dashes tell the modes apart as well. A contender
# has the colour of the mode of its store.
_COLOURS: dict[Mode, str] = {"disk": "#D55E00", "half": "#0072B2", "full": "#009E73"}
_COLOURS_ON_DARK: dict[Mode, str] = {"disk": "#E69F00", "half": "#56B4E9", "full": "#2CC79B"}
_MARKERS = {"disk": "o", "half": "s", "full": "D", "mapped": "^", "files": "v", MEMMAP: "x", DRQV2: "P"}
_DASHES = {"disk": "-", "half": "--", "full": "-"}

_DPI = 160


def format_milliseconds(milliseconds: float) -> str:
    """Returns three digits if there are decimals: `4.21`, `31.5`, `512`, `5,100`."""
    digits = 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:,.{digits}f}"


def _draw_mode(axes: Axes, mode: str, entries: Sequence[Measurement], colour: str, ink: str, ground: str) -> None:
    timed = [entry for entry in entries if entry.p50_seconds is not None]
    sizes = [entry.size for entry in timed]
    p50, p95, p99 = (
        [1000 * (getattr(entry, name) or 0.0) for entry in timed]
        for name in ("p50_seconds", "p95_seconds", "p99_seconds")
    )
    style: dict[str, Any] = {"color": colour, "marker": _MARKERS[mode.rpartition("-")[2]]}
    axes.plot(sizes, p50, _DASHES.get(mode, "-."), linewidth=2, markersize=7, label=f"{mode}, p50", zorder=4, **style)
    for entry, milliseconds in zip(timed, p50, strict=True):
        if entry.residency != "ram":
            axes.plot(entry.size, milliseconds, markersize=7, markerfacecolor=ground, zorder=5, **style)
    axes.fill_between(sizes, p50, p95, color=colour, alpha=0.18, linewidth=0, zorder=2)
    axes.plot(sizes, p99, ":", linewidth=1, markersize=4, markerfacecolor="none", zorder=3, **style)
    before = None
    for entry in timed:
        if before is not None and entry.residency != before:
            axes.annotate(
                f"{mode}: {entry.residency}",
                (entry.size, 1000 * (entry.p50_seconds or 0.0)),
                xytext=(-12, -52) if entry is timed[-1] else (16, -30),
                ha="right" if entry is timed[-1] else "left",
                textcoords="offset points",
                color=ink,
                fontsize=8.5,
                zorder=5,
                arrowprops={"arrowstyle": "-", "color": ink, "linewidth": 0.7, "shrinkB": 5},
                bbox={"facecolor": ground, "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
            )
        before = entry.residency
    for entry in entries:
        if entry.status != "ok":
            axes.axvline(entry.size, ymax=0.04, color=colour, linewidth=2)
            axes.annotate(
                f"{mode}: {entry.status.replace('_', ' ')}",
                (entry.size, 0.05),
                xycoords=("data", "axes fraction"),
                color=ink,
                ha="center",
                fontsize=8.5,
            )


def _draw_ideal(axes: Axes, result: PagingResult, mode: str, colour: str) -> None:
    """Draws the least times of a mode's batches."""
    entries = [entry for entry in result.measurements if entry.mode == mode]
    found = [(entry.size, ideal_seconds(result, entry)) for entry in entries]
    points = [(size, 1000 * seconds) for size, seconds in found if seconds is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1, alpha=0.8, zorder=2, label=f"{mode}, least")


def plot_png(result: PagingResult, *, dark: bool = False) -> bytes:
    """Plots milliseconds per batch against data in multiples of the limit, log-log.

    Lines are p50, bands reach to p95, and dotted lines are p99. Thin lines are the least times that the memory and the
    device allow.

    Args:
        result: what to draw.
        dark: whether to draw light ink on a dark ground.

    Returns:
        Bytes of a PNG file.
    """
    config = result.config
    ground, ink, faint = ("#171b22", "#e8eaed", "#39404d") if dark else ("#ffffff", "#1d2430", "#d9dde3")
    colours = _COLOURS_ON_DARK if dark else _COLOURS
    figure = Figure(figsize=(8.4, 4.9), dpi=_DPI, facecolor=ground, layout="constrained")
    axes = figure.add_subplot(facecolor=ground)
    for mode in config.modes:
        _draw_mode(
            axes,
            mode,
            [entry for entry in result.measurements if entry.mode == mode],
            colours[mode_of(mode)],
            ink,
            ground,
        )
        if mode in MODES:
            _draw_ideal(axes, result, mode, colours[mode_of(mode)])
    axes.set_xscale("log", base=2)
    if all(entry.p50_seconds is None for entry in result.measurements):
        axes.set_ylim(1, 1000)  # nothing to scale by
    axes.set_yscale("log")
    axes.margins(y=0.08)
    axes.set_xlim(config.sizes[0] / 1.25, config.sizes[-1] * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(config.sizes))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}x"))
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:,.6g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if result.limited and config.sizes[0] <= 1 <= config.sizes[-1]:
        axes.axvline(1, color=ink, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            "memory limit",
            (1, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            color=ink,
            fontsize=9,
            va="top",
        )
    limit = (
        f"memory limit of {config.limit_bytes / (1 << 30):g} GiB" if result.limited else "size unit (no limit in force)"
    )
    axes.set_xlabel(f"raw stacked data, multiples of the {limit}", color=ink)
    axes.set_ylabel(f"time for a batch of {config.batch_size}, milliseconds", color=ink)
    axes.set_title(
        "Lines: p50. Bands: up to p95. Dotted: p99. Filled: all in RAM. Thin: least that memory and device allow.",
        color=ink,
        fontsize=10,
        loc="left",
    )
    axes.grid(True, which="major", color=faint, linewidth=0.7, zorder=0)
    axes.tick_params(colors=ink, which="both")
    for spine in axes.spines.values():
        spine.set_color(faint)
    legend = axes.legend(loc="best", frameon=True, facecolor=ground, edgecolor=faint, labelcolor=ink, fontsize=9)
    legend.set_zorder(6)
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=ground, metadata={"Software": None})
    return file.getvalue()
