"""Configuration and results of `bench paging`, as frozen data that convert to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from replaystore.bench.memory_limit import MIN_LIMIT_BYTES
from replaystore.errors import SpecError
from replaystore.spec import DEFAULT_CHUNK_ROWS, MODES, Mode

Status = Literal["ok", "killed", "timed_out"]


@dataclass(frozen=True, kw_only=True)
class PagingConfig:
    """What to measure.

    Attributes:
        episode_dir: directory of DrQ-v2 episode files. They are replicated in order until there is enough data.
        work_dir: directory of stores and measurements, made if absent. Its contents are reused.
        limit_bytes: memory limit of each measurement.
        sizes: amounts of data, as multiples of `limit_bytes`, counted as raw stacked rows.
        modes: storage modes to compare.
        batch_size: transitions per batch.
        n_step: steps of the return.
        discount: discount per step.
        num_batches: batches to time per size and mode. The first batch is reported separately and not among them.
        max_seconds: time after which no more batches are drawn.
        seed: seed of the sampler, the same in every mode.
        threads: threads that gather a batch.
        frame_stack: frames in an observation of the episode files. None derives it from the first episode.
        chunk_rows: rows per chunk of the stores.
        frame_delta: options of the image codec in mode `full`, such as `{"entropy": "spans"}`. None takes its defaults.
        margin_bytes: bytes of the limit to leave free, besides the interpreter and the bytes in RAM.
        checksum_batches: first batches of each measurement whose bytes are compared between modes.

    Raises:
        SpecError: a value is out of range, or sizes or modes repeat.
    """

    episode_dir: str
    work_dir: str
    limit_bytes: int
    sizes: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    modes: tuple[Mode, ...] = MODES
    batch_size: int = 256
    n_step: int = 3
    discount: float = 0.99
    num_batches: int = 100
    max_seconds: float = 120.0
    seed: int = 0
    threads: int = 2
    frame_stack: int | None = None
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    frame_delta: Mapping[str, Any] | None = None
    margin_bytes: int = 64 << 20
    checksum_batches: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "episode_dir", str(Path(self.episode_dir)))
        object.__setattr__(self, "work_dir", str(Path(self.work_dir)))
        object.__setattr__(self, "sizes", tuple(sorted(float(size) for size in self.sizes)))
        object.__setattr__(self, "modes", tuple(self.modes))
        if not self.sizes or self.sizes[0] <= 0 or len(set(self.sizes)) != len(self.sizes):
            raise SpecError(f"sizes: expected different positive multiples of the limit, got {self.sizes}")
        if not self.modes or len(set(self.modes)) != len(self.modes) or not set(self.modes) <= set(MODES):
            raise SpecError(f"modes: expected some of {MODES}, each once, got {self.modes}")
        if self.limit_bytes < MIN_LIMIT_BYTES:
            raise SpecError(f"limit_bytes: expected at least {MIN_LIMIT_BYTES}, got {self.limit_bytes}")
        for name in ("batch_size", "n_step", "num_batches", "threads", "chunk_rows", "checksum_batches"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.max_seconds <= 0:
            raise SpecError(f"max_seconds: expected a positive number of seconds, got {self.max_seconds}")

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PagingConfig:
        """Returns the configuration that `to_json` described."""
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The measurement of one size and mode.

    The percentiles are over `batch_seconds`, which leaves out the first batch. Bytes read and major faults count from
    before the store was opened until after the last batch.

    Attributes:
        size: requested amount of data, as a multiple of the limit.
        mode: storage mode.
        data_bytes: actual amount of data: rows times the bytes of a raw stacked row.
        transitions: transitions that can be drawn.
        store_bytes: size of the store's files.
        status: `"ok"`, `"killed"` at the limit, or `"timed_out"`.
        limited: whether a memory limit was in force.
        measured_at: time in UTC, ISO 8601.
        residency: `"mapped"` if the OS pages everything, `"ram"` if everything is in RAM, `"ram + mapped"` if a part
            is.
        resident_bytes: bytes that the store keeps in RAM, including fields with small rows, without page cache.
        budget_bytes: the store's budget. None for `"mapped"`.
        baseline_bytes: anonymous memory of the process before it opened the store, including batch buffers.
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
    mode: Mode
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
class PagingResult:
    """All data of a report.

    Attributes:
        config: what was measured.
        limited: whether the memory limit was in force in every measurement.
        limit_reason: why it was not. None if it was.
        row_bytes: bytes of one raw stacked row, all fields.
        source_episodes: different episodes. The stores hold them repeatedly.
        measurements: one per size and mode.
        stores: one per mode, at the largest size.
        example: two neighbouring frames. None if there are no images.
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
    conditions: Mapping[str, str | int | float | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PagingResult:
        """Returns the result that `to_json` described."""
        example = data["example"]
        parts = {
            "config": PagingConfig.from_json(data["config"]),
            "measurements": tuple(Measurement.from_json(entry) for entry in data["measurements"]),
            "stores": tuple(StoreSummary(**entry) for entry in data["stores"]),
            "example": example and FrameExample(**{**example, "frame_shape": tuple(example["frame_shape"])}),
        }
        return cls(**{**data, **parts})

    def at(self, size: float, mode: Mode) -> Measurement | None:
        """Returns the measurement of that size and mode. None if there is none."""
        return next((entry for entry in self.measurements if (entry.size, entry.mode) == (size, mode)), None)
