"""The figures of a run, and which targets they reach."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from replaystore.bench.spread import Spread

MIN_FRACTION = 0.7  # of the device's throughput
MIN_FULL_GAIN = 20.0


def summarise(found: dict[str, Any], row_bytes: int) -> dict[str, Any]:
    """Returns the figures of a run. Throughputs are in bytes per second, times in milliseconds."""
    turns, mapped = found["turns"], found["map"]
    device = {name: Spread.of(turn["device"][name] for turn in turns) for name in turns[0]["device"]}
    best = max(device, key=lambda name: device[name].median)
    ours = Spread.of(turn["read_bytes"] / turn["seconds"] for turn in turns)
    disk_ms = Spread.of(1000 * turn["seconds"] for turn in turns)
    full_ms = Spread.of(1000 * seconds for seconds in found["full"]["seconds"])
    fraction = statistics.median(turn["read_bytes"] / turn["seconds"] / turn["device"][best] for turn in turns)
    needed, missing_rows, delivered = (
        sum(turn[name] for turn in turns) for name in ("missing_page_bytes", "missing_rows", "read_bytes")
    )
    figures: dict[str, Any] = {
        "row_bytes": row_bytes,
        "disk_ms": asdict(disk_ms),
        "disk_bytes_per_second": asdict(ours),
        "device_bytes_per_second": {name: asdict(spread) for name, spread in device.items()},
        "device_best_in_flight": int(best),
        "fraction_of_device": fraction,
        "device_one_place_bytes_per_second": asdict(Spread.of(turn["device_one_place"] for turn in turns)),
        "fraction_of_device_one_place": statistics.median(
            turn["read_bytes"] / turn["seconds"] / turn["device_one_place"] for turn in turns
        ),
        "rows_not_cached_per_batch": missing_rows / len(turns),
        "read_over_needed_pages": delivered / needed if needed else None,
        "unused_page_bytes_per_batch": sum(turn["unused_page_bytes"] for turn in turns) / len(turns),
        "read_over_row_bytes": delivered / (missing_rows * row_bytes) if missing_rows else None,
        "full_ms": asdict(full_ms),
        "full_held_bytes": found["full"]["held_bytes"],
        "disk_over_full": disk_ms.median / full_ms.median,
        # The time of a `disk` batch at the full speed of the device, if nothing else took time.
        "device_ms": 1000 * statistics.median(turn["read_bytes"] / turn["device"][best] for turn in turns),
    }
    figures["device_over_full"] = figures["device_ms"] / full_ms.median
    if mapped:
        missing = sum(entry["missing_page_bytes"] for entry in mapped)
        figures["map_ms"] = asdict(Spread.of(1000 * entry["seconds"] for entry in mapped))
        read = sum(entry["read_bytes"] for entry in mapped)
        figures["map_over_full"] = figures["map_ms"]["median"] / full_ms.median
        figures["map_read_over_needed_pages"] = read / missing if missing else None
    figures["reached"] = {
        "fraction_of_device": fraction >= MIN_FRACTION,
        # A batch may evict pages that were cached when it began. Then it reads them too, but at most once.
        "no_read_ahead": all(
            turn["unused_page_bytes"] == 0 and turn["read_bytes"] <= turn["wanted_page_bytes"] for turn in turns
        ),
        "full_gain": figures["disk_over_full"] >= MIN_FULL_GAIN,
    }
    return figures
