"""Results of `bench paging`, as frozen data that convert to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from replaystore.bench.paging_config import PagingConfig
from replaystore.spec import Mode

Status = Literal["ok", "killed", "timed_out"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The measurement of one size and contender.

    The percentiles are over `batch_seconds`, which leaves out the first batch. Bytes read and major faults count from
    before the store was opened until after the last batch.

    Attributes:
        size: requested amount of data, as a multiple of the limit.
        mode: name of the contender, one of `CONTENDERS`. Three of them are the storage modes.
        data_bytes: actual amount of data: rows times the bytes of a raw stacked row.
        transitions: transitions that can be drawn.
        store_bytes: size of the store's files.
        status: `"ok"`, `"killed"` at the limit, or `"timed_out"`.
        limited: whether a memory limit was in force.
        measured_at: time in UTC, ISO 8601.
        residency: `"mapped"`, `"files"` or `"memmap"` if the OS pages everything, `"ram"` if everything is in RAM,
            `"ram + files"` if a part is.
        resident_bytes: bytes that the store keeps in RAM, including fields with small rows, without page cache.
        budget_bytes: the store's budget. None for `"mapped"` and `"files"`.
        baseline_bytes: anonymous memory of the process before it opened the store, including batch buffers.
        batch_bytes: bytes of the arrays of a batch.
        stopped_by: why no more batches were timed: `"num_batches"` or `"max_seconds"`.
        open_seconds: time to open the store on a cold cache, including loading bytes into RAM.
        first_batch_seconds: time of the first batch after that.
        batch_seconds: times of the other batches.
        p50_seconds: median time per batch.
        p95_seconds: 95th percentile.
        p99_seconds: 99th percentile.
        mean_seconds: mean time per batch.
        major_faults: page faults that waited for the device.
        read_bytes: bytes read from the device.
        pss_bytes: proportional set size at the end.
        pss_anonymous_bytes: the part of `pss_bytes` that no file backs.
        group_usage_bytes: bytes charged to the control group at the end, including page cache. None without a limit.
        group_cache_bytes: the part of `group_usage_bytes` that is page cache.
        group_peak_bytes: largest charge ever. None if the kernel does not report it.
        limit_hits: charges that reached the limit. None if the kernel does not count them.
        checksums: CRC32C over all arrays of each of the first batches, as hexadecimal digits.
    """

    size: float
    mode: str
    data_bytes: int
    transitions: int
    store_bytes: int
    status: Status
    limited: bool
    measured_at: str
    residency: str | None = None
    resident_bytes: int | None = None
    budget_bytes: int | None = None
    baseline_bytes: int | None = None
    batch_bytes: int | None = None
    stopped_by: str | None = None
    open_seconds: float | None = None
    first_batch_seconds: float | None = None
    batch_seconds: tuple[float, ...] = ()
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    p99_seconds: float | None = None
    mean_seconds: float | None = None
    major_faults: int | None = None
    read_bytes: int | None = None
    pss_bytes: int | None = None
    pss_anonymous_bytes: int | None = None
    group_usage_bytes: int | None = None
    group_cache_bytes: int | None = None
    group_peak_bytes: int | None = None
    limit_hits: int | None = None
    checksums: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Returns the measurement that `dataclasses.asdict` described."""
        lists = {name: tuple(data.get(name, ())) for name in ("batch_seconds", "checksums")}
        return cls(**{**data, **lists})


@dataclass(frozen=True, kw_only=True)
class StoreSummary:
    """How a mode stored the data at the largest size. Bytes are bytes of files.

    Attributes:
        mode: storage mode.
        transitions: transitions of the store.
        episodes: episodes of the store.
        bytes_on_disk: size of all files.
        observation_bytes_per_transition: bytes of observations per transition.
        bytes_per_transition: bytes of all fields per transition.
        compression_factor: factor against raw stacks.
        schemes: codec configuration by field name, for fields with a codec.
    """

    mode: Mode
    transitions: int
    episodes: int
    bytes_on_disk: int
    observation_bytes_per_transition: float
    bytes_per_transition: float
    compression_factor: float
    schemes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FrameExample:
    """Two neighbouring frames of an episode and what changed between them.

    Attributes:
        field: name of the image field.
        episode_file: file name, without its directory.
        row: row of the later frame.
        frame_shape: shape of one frame.
        frame_bytes: bytes of a raw frame.
        stack_bytes: bytes of a raw observation, which holds `frame_stack` frames.
        changed_fraction: share of the pixels in which any channel differs.
        difference_gain: factor that amplifies differences in the picture.
        previous_png: picture of the earlier frame, base64.
        current_png: picture of the later frame, base64.
        difference_png: picture of the difference, base64.
    """

    field: str
    episode_file: str
    row: int
    frame_shape: tuple[int, ...]
    frame_bytes: int
    stack_bytes: int
    changed_fraction: float
    difference_gain: float
    previous_png: str
    current_png: str
    difference_png: str


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What the machine does at best, measured after the batches.

    Attributes:
        copied_bytes_per_second: copies of random rows into a batch, with as many threads as gather one.
        read_bytes_per_second: direct reads of the files at random places, `reads_in_flight` at once. None if the file
            system cannot bypass the page cache.
        reads_in_flight: reads at once.
    """

    copied_bytes_per_second: float
    read_bytes_per_second: float | None
    reads_in_flight: int


@dataclass(frozen=True, kw_only=True)
class PagingResult:
    """All data of a report.

    Attributes:
        config: what was measured.
        limited: whether the memory limit was in force in every measurement.
        limit_reason: why it was not. None if it was.
        row_bytes: bytes of one raw stacked row, all fields.
        source_episodes: different episodes. The stores hold them repeatedly.
        measurements: one per size and contender.
        stores: one per mode of a store, at the largest size.
        example: two neighbouring frames. None if there are no images.
        speeds: what the machine does at best. None in results of before these were measured.
        conditions: the machine, the versions and the date, by name.
    """

    config: PagingConfig
    limited: bool
    limit_reason: str | None
    row_bytes: int
    source_episodes: int
    measurements: tuple[Measurement, ...]
    stores: tuple[StoreSummary, ...]
    example: FrameExample | None
    speeds: Speeds | None = None
    conditions: Mapping[str, str | int | float | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PagingResult:
        """Returns the result that `to_json` described."""
        example, speeds = data["example"], data.get("speeds")
        parts = {
            "config": PagingConfig.from_json(data["config"]),
            "measurements": tuple(Measurement.from_json(entry) for entry in data["measurements"]),
            "stores": tuple(StoreSummary(**entry) for entry in data["stores"]),
            "example": example and FrameExample(**{**example, "frame_shape": tuple(example["frame_shape"])}),
            "speeds": speeds and Speeds(**speeds),
        }
        return cls(**{**data, **parts})

    def at(self, size: float, mode: str) -> Measurement | None:
        """Returns the measurement of that size and contender. None if there is none."""
        return next((entry for entry in self.measurements if (entry.size, entry.mode) == (size, mode)), None)
