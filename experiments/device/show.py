"""Shows a run as a table and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.device.figures import MIN_FRACTION, MIN_FULL_GAIN
from experiments.device.reads import MOST_IN_FLIGHT
from replaystore.runtime.extras import needs

with needs("experiments.device", "bench"):
    from rich.console import Console
    from rich.table import Table


def show(console: Console, result: dict[str, Any]) -> None:
    """Prints a table of the figures, and which targets they reach."""
    figures, mb = result["figures"], 1e6
    table = Table("figure", "median", "p5 to p95", "wanted")

    def row(name: str, spread: dict[str, Any], unit: float = 1.0) -> None:
        low, high = spread["p5"] / unit, spread["p95"] / unit
        table.add_row(name, f"{spread['median'] / unit:,.1f}", f"{low:,.1f} to {high:,.1f}", "")

    row("disk, mapped: ms per batch", figures["disk_ms"])
    row("disk, mapped: MB/s from the device", figures["disk_bytes_per_second"], mb)
    for name, spread in figures["device_bytes_per_second"].items():
        row(f"device, {name} in flight: MB/s", spread, mb)
    best = figures["device_best_in_flight"]
    table.add_row(f"of the device, {best} in flight", f"{figures['fraction_of_device']:.2f}", "", f"{MIN_FRACTION}")
    row(f"device, {MOST_IN_FLIGHT} in flight, into one place: MB/s", figures["device_one_place_bytes_per_second"], mb)
    table.add_row("of that", f"{figures['fraction_of_device_one_place']:.2f}", "", "")
    table.add_row("rows per batch not cached", f"{figures['rows_not_cached_per_batch']:.0f}", "", "")
    unused = figures["unused_page_bytes_per_batch"]
    table.add_row("pages read and not used, bytes per batch", f"{unused:,.0f}", "", "0")
    for key, wanted in (("read_over_needed_pages", "1"), ("read_over_row_bytes", "")):
        value = figures[key]
        table.add_row(key.replace("_", " "), "-" if value is None else f"{value:.4f}", "", wanted)
    if "map_ms" in figures:
        row("plain map: ms per batch", figures["map_ms"])
        value = figures["map_read_over_needed_pages"]
        table.add_row("plain map: read over needed pages", "-" if value is None else f"{value:.1f}", "", "")
    row("full, ram: ms per batch", figures["full_ms"])
    table.add_row("disk over full", f"{figures['disk_over_full']:.1f}", "", f"{MIN_FULL_GAIN:.0f}")
    if "map_over_full" in figures:
        table.add_row("plain map over full", f"{figures['map_over_full']:.0f}", "", "")
    table.add_row("the device alone over full", f"{figures['device_over_full']:.1f}", "", "")
    console.print(table)
    if result["limit_bytes"] is None:
        console.print(f"[yellow]No memory limit was in force:[/] {result['limit_reason']}")
    for name, reached in figures["reached"].items():
        console.print(f"{name.replace('_', ' ')}: {'reached' if reached else '[red]missed[/]'}")


def plot(figures: dict[str, Any], path: Path) -> None:
    """Plots the throughput of the device over reads in flight, with the throughput of batches, as a PNG."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6, 3.6), layout="constrained")
    axes = picture.subplots()
    spreads = figures["device_bytes_per_second"]
    in_flight = [int(name) for name in spreads]
    low, middle, high = ([spread[key] / 1e6 for spread in spreads.values()] for key in ("p5", "median", "p95"))
    axes.fill_between(in_flight, low, high, color="#0072B2", alpha=0.18, linewidth=0)
    axes.plot(in_flight, middle, "o-", color="#0072B2", label="the device, O_DIRECT reads of a row")
    ours = figures["disk_bytes_per_second"]
    axes.axhspan(ours["p5"] / 1e6, ours["p95"] / 1e6, color="#D55E00", alpha=0.18, linewidth=0)
    axes.axhline(ours["median"] / 1e6, color="#D55E00", linestyle="--", label="batches, mode disk, mapped")
    axes.set_xscale("log", base=2)
    axes.set_xticks(in_flight, [str(count) for count in in_flight])
    axes.set(xlabel="reads in flight", ylabel="MB/s from the device")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    picture.savefig(path, dpi=160)
