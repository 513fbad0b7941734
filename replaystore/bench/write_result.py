"""Results of `bench write`, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from replaystore.bench.spread import Spread


@dataclass(frozen=True, kw_only=True)
class AddTimes:
    """Microseconds that `add` takes for one row. Rows whose `add` commits an episode are left out.

    Attributes:
        p50: median.
        p99: 99th percentile.
        count: number of rows.
    """

    p50: float
    p99: float
    count: int


@dataclass(frozen=True, kw_only=True)
class WriteTimes:
    """Speed of writing in one mode, or of writing plain files.

    Attributes:
        mode: mode of the store. None for plain files, which hold the same arrays, one file per thread.
        rows_per_second: rows per second, until everything is encoded and in its files.
        append_milliseconds: time of one `append`, after which the episode is committed. None for plain files.
        add_microseconds: time of one `add`, which adds one row. None for plain files.
        megabytes_per_second: 10^6 appended bytes per second, at the median.
    """

    mode: str | None
    rows_per_second: Spread
    append_milliseconds: Spread | None
    add_microseconds: AddTimes | None
    megabytes_per_second: float


@dataclass(frozen=True, kw_only=True)
class WriteResult:
    """What `run_write` measured.

    Attributes:
        rows: rows appended in each repeat.
        num_bytes: bytes appended in each repeat, images as raw stacks.
        times: times of each mode and of plain files.
        conditions: conditions of the measurement, by name.
    """

    rows: int
    num_bytes: int
    times: tuple[WriteTimes, ...]
    conditions: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)
