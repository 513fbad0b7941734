"""A made-up result of `bench sample` with every kind of entry."""

from __future__ import annotations

from replaystore.bench.sample_result import SampleResult, SampleTimes
from replaystore.bench.spread import Spread


def entry(kind, name, median=None, size=None, **options):
    spread = None if median is None else Spread(median, 0.9 * median, 1.5 * median, 9)
    return SampleTimes(kind=kind, name=name, milliseconds=spread, bytes_per_transition=size, **options)


RESULT = SampleResult(
    batch_bytes=32_522_240,
    raw_observation_bytes=63_504,
    times=(
        entry("store", "half, ram", 2.0, 21_168.0, store="a/half", mode="half", residency="ram", transitions=4000),
        entry("store", "half, mapped", 4.0, 21_168.0, store="a/half", mode="half", residency="mapped"),
        entry("store", "full, ram", 10.0, 5_000.0, store="a/full", mode="full", residency="ram", transitions=4000),
        entry("copy", "plain copy", 1.0),
        entry("peer", "fast", 1.5, 127_008.0, notes=("one | step",)),
        entry("peer", "small", 250.0, 4_000.0),
        entry("peer", "video", size=2_000.0, notes=("size alone",)),
        entry("peer", "none", reason="not installed"),
    ),
    conditions={"batch_size": 256, "threads": 2, "transitions_of_other_buffers": 3000, "commit": None},
)
