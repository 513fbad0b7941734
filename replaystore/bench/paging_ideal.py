"""The least time of a batch that the memory and the device of a machine allow."""

from __future__ import annotations

from replaystore.bench.paging_config import mode_of
from replaystore.bench.paging_result import Measurement, PagingResult


def ideal_seconds(result: PagingResult, entry: Measurement) -> float | None:
    """Returns the least time of a batch from data stored as those of `entry`.

    Its bytes are copied at the speed of memory. Observations are read at the speed of the device, except for the share
    that fits what the process leaves of the limit. Copies and reads overlap perfectly, decoding takes no time, and
    nothing is read but the bytes of the rows that a batch needs.

    Args:
        result: has the speeds.
        entry: a measurement with a limit.

    Returns:
        Seconds. None if a speed is unknown, there was no limit, or the process did not live to be measured.
    """
    speeds, config = result.speeds, result.config
    if speeds is None or not entry.limited or entry.baseline_bytes is None or entry.batch_bytes is None:
        return None
    mode = mode_of(entry.mode)
    copy_seconds = entry.batch_bytes / speeds.copied_bytes_per_second
    available = max(0, config.limit_bytes - entry.baseline_bytes)
    missing = max(0.0, 1 - available / entry.store_bytes)
    if not missing:
        return copy_seconds
    if speeds.read_bytes_per_second is None:
        return None
    stack = 1 if result.example is None else result.example.stack_bytes // result.example.frame_bytes
    rows = 2 if mode == "disk" else min(stack + config.n_step, 2 * stack)
    row_bytes = next(store.observation_bytes_per_transition for store in result.stores if store.mode == mode)
    return max(copy_seconds, missing * config.batch_size * rows * row_bytes / speeds.read_bytes_per_second)
