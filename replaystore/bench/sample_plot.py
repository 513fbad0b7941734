"""Plots bytes per transition against batch time, one point per buffer, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from replaystore.bench.sample_result import SampleResult, SampleTimes
from replaystore.runtime.extras import needs

with needs("plots of `bench`", "bench"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    from matplotlib.transforms import Bbox

_DPI = 160
_GROUND, _INK, _FAINT = "#ffffff", "#1d2430", "#e3e7ec"
_STORE, _PEER, _LIMIT = "#0072B2", "#8a93a0", "#D55E00"  # from Okabe and Ito's palette, and a gray
_AROUND = [
    (x * far, y * far)
    for far in (8, 14, 24, 36, 50)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
]  # offsets of a label from its point, in typographic points, best first


def plot_png(result: SampleResult, title: str = "") -> bytes:
    """Plots milliseconds per batch against bytes per transition, log-log. Low and left is good.

    Bars reach from the 5th to the 95th percentile. Buffers of which only the size is known are on the lower edge.

    Args:
        result: what to draw.
        title: title of the plot.

    Returns:
        Bytes of a PNG file.
    """
    figure = Figure(figsize=(9.6, 6.0), dpi=_DPI, facecolor=_GROUND, layout="constrained")
    axes = figure.add_subplot(facecolor=_GROUND)
    canvas: Any = FigureCanvasAgg(figure)
    n_step = result.conditions.get("n_step")
    shown = [entry for entry in result.times if entry.kind != "store" or entry.n_step == n_step]
    timed = [entry for entry in shown if entry.bytes_per_transition and entry.milliseconds]
    sized = [entry for entry in result.times if entry.bytes_per_transition and not entry.milliseconds]
    for entry in timed:
        _draw_point(axes, entry)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _set_limits(axes, result, timed, sized)
    _draw_copy(axes, result)
    low = axes.get_ylim()[0]
    for entry in sized:
        axes.plot(
            [entry.bytes_per_transition or 0.0], [low], marker="|", markersize=16, color=_PEER, clip_on=False, zorder=3
        )
    _name_axes(axes, result, title)
    canvas.draw()
    _place_labels(axes, canvas, timed, sized, low)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=_GROUND, metadata={"Software": None})
    return file.getvalue()


def _draw_point(axes: Axes, entry: SampleTimes) -> None:
    spread = entry.milliseconds
    assert spread is not None
    ours = entry.kind == "store"
    colour = _STORE if ours else _PEER
    # If a percentile is next to the median, rounding may make a negative bar.
    below, above = max(0.0, spread.median - spread.p5), max(0.0, spread.p95 - spread.median)
    hollow = ours and entry.residency != "ram"
    style: dict[str, Any] = {"markerfacecolor": _GROUND if hollow else colour, "markeredgecolor": colour}
    axes.errorbar(
        [entry.bytes_per_transition or 0.0], [spread.median], yerr=[[below], [above]],
        fmt="D" if ours else "o", markersize=9 if ours else 6.5, color=colour, elinewidth=1, capsize=0,
        ecolor=(colour, 0.45),
        zorder=5 if ours else 4, **style,
    )  # fmt: skip


def _set_limits(
    axes: Axes, result: SampleResult, timed: Sequence[SampleTimes], sized: Sequence[SampleTimes]
) -> None:  # fmt: skip
    sizes = [result.raw_observation_bytes, *(entry.bytes_per_transition or 1.0 for entry in (*timed, *sized))]
    times = [entry.milliseconds.median for entry in (*timed, result.copy) if entry.milliseconds]
    axes.set_xlim(min(sizes) / 2.2, max(sizes) * 2.2)
    axes.set_ylim(min(times) / 1.8, max(times) * 1.8)


def _draw_copy(axes: Axes, result: SampleResult) -> None:
    spread = result.copy.milliseconds
    assert spread is not None
    axes.axhline(spread.median, color=_LIMIT, linewidth=1.3, linestyle=(0, (5, 3)), zorder=2)
    axes.annotate(
        f"plain copy of a batch, {result.conditions['threads']} threads",
        (0.995, spread.median), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
        color=_LIMIT, fontsize=8.5, ha="right", va="bottom",
    )  # fmt: skip


def _name_axes(axes: Axes, result: SampleResult, title: str) -> None:
    axes.axvline(result.raw_observation_bytes, color=_INK, linewidth=1, linestyle=":", zorder=1)
    axes.annotate(
        "raw observation",
        (result.raw_observation_bytes, 0.99), xycoords=("data", "axes fraction"), xytext=(-3, 0),
        textcoords="offset points", color=_INK, fontsize=8.5, ha="right", va="top", rotation=90,
    )  # fmt: skip
    for axis, text in (
        (axes.xaxis, "bytes held for a transition (log)"),
        (axes.yaxis, f"time for a batch of {result.conditions['batch_size']}, milliseconds (log)"),
    ):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_formatter(NullFormatter())
        axis.set_label_text(text, color=_INK)
    axes.set_title(title, color=_INK, fontsize=12, loc="left", weight="bold")
    axes.set_title("blue: replaystore (hollow: mapped); gray: others", color=_INK, fontsize=9, loc="right")
    axes.grid(True, which="major", color=_FAINT, linewidth=0.8, zorder=0)
    axes.tick_params(colors=_INK, which="both")
    for spine in axes.spines.values():
        spine.set_color(_FAINT)


def _place_labels(
    axes: Axes, canvas: Any, timed: Sequence[SampleTimes], sized: Sequence[SampleTimes], low: float
) -> None:
    """Writes each name next to its point, if possible without covering another label or point."""
    renderer = canvas.get_renderer()
    pixels = _DPI / 72
    places = [
        (entry, entry.bytes_per_transition or 0.0, entry.milliseconds.median if entry.milliseconds else low)
        for entry in (*[e for e in timed if e.kind == "store"], *[e for e in timed if e.kind != "store"], *sized)
    ]
    taken = [
        Bbox.from_bounds(x - 5 * pixels, y - 5 * pixels, 10 * pixels, 10 * pixels)
        for x, y in (axes.transData.transform((size, time)) for _, size, time in places)
    ]
    taken += [text.get_window_extent(renderer) for text in axes.texts]
    inside = axes.get_window_extent(renderer)
    for number, (entry, size, time) in enumerate(places):
        ours = entry.kind == "store"
        best: tuple[float, Any] | None = None
        label: Any = axes.annotate(
            entry.name, (size, time), textcoords="offset points", xytext=(0, 0), fontsize=9 if ours else 8,
            color=_STORE if ours else _INK, weight="bold" if ours else "normal", zorder=6,
            path_effects=[withStroke(linewidth=2.5, foreground=_GROUND)],
            arrowprops={"arrowstyle": "-", "color": _PEER, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip
        for x, y in _AROUND:
            label.set_position((x, y))
            label.set_ha("left" if x > 0 else "right" if x < 0 else "center")
            label.set_va("bottom" if y > 0 else "top" if y < 0 else "center")
            box = _text_box(label, renderer)
            others = [other for place, other in enumerate(taken) if place != number]
            cost = sum(_overlap(box, other) for other in others) + _outside(box, inside)
            if best is None or cost < best[0]:
                best = cost, (x, y, label.get_ha(), label.get_va(), box)
            if cost == 0:
                break
        assert best is not None
        x, y, horizontal, vertical, box = best[1]
        label.set_position((x, y))
        label.set_ha(horizontal)
        label.set_va(vertical)
        taken.append(box)


def _text_box(label: Any, renderer: Any) -> Bbox:
    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)  # without the line to the point


def _overlap(box: Bbox, other: Bbox) -> float:
    common = Bbox.intersection(box, other)
    return 0.0 if common is None else common.width * common.height + 1


def _outside(box: Bbox, inside: Bbox) -> float:
    common = Bbox.intersection(box, inside)
    return box.width * box.height - (0.0 if common is None else common.width * common.height)
