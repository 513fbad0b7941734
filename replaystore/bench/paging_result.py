"""What `bench paging` is asked and what it found: frozen, JSON-able data without behaviour of its own."""

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
        episode_dir: directory of DrQ-v2 episode files; replicated in order until there is enough data.
        work_dir: where stores and measurements live; made if absent, and what it already holds is used again.
        limit_bytes: memory limit of each measurement.
        sizes: amounts of data, as multiples of `limit_bytes`, counted as raw stacked rows.
        modes: storage modes to compare.
        batch_size: transitions a batch.
        n_step: steps of the return.
        discount: discount a step.
        num_batches: batches to time at each size and mode, after the first one, which is reported apart.
        max_seconds: stop drawing after so many seconds, with fewer batches.
        seed: of the sampler; the same in every mode.
        threads: threads that gather a batch.
        frame_stack: frames in an observation of the episode files; None: as their first rows tell.
        chunk_rows: rows a chunk of the stores.
        frame_delta: options of the codec of images in mode `full`, such as `{"entropy": "spans"}`; None: its defaults.
        margin_bytes: left free within the limit besides the interpreter and the bytes held in RAM.
        checksum_batches: so many batches of each measurement are compared over the modes.

    Raises:
        SpecError: the parts do not fit together.
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
        """Plain data that `from_json` takes back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PagingConfig:
        """The configuration that `to_json` described."""
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One size and mode.

    The percentiles are over `batch_seconds`, which leaves out the first batch. Bytes read and major faults count from
    before the store was opened to after the last batch.

    Attributes:
        size: amount of data as a multiple of the limit, as asked for.
        data_bytes: amount of data as it is: rows times the bytes of a raw stacked row.
        transitions: that can be drawn.
        store_bytes: the store's files.
        status: `"ok"`, `"killed"` at the limit, or `"timed_out"`.
        limited: whether a memory limit was in force.
        residency: `"mapped"`: nothing is held, the OS pages; `"ram"`: everything is held; `"ram + mapped"`: what fits.
        resident_bytes: bytes that the store holds in RAM, fields with small rows included, page cache not.
        budget_bytes: what `residency="auto"` was allowed; None for `"mapped"`.
        baseline_bytes: anonymous memory of the process before it opened the store, batch buffers included.
        stopped_by: `"num_batches"` or `"max_seconds"`: why no more batches were timed.
        open_seconds: to open the store on a cold cache, loading what is held in RAM.
        first_batch_seconds: the first batch after it.
        major_faults: page faults that waited for the device.
        read_bytes: read from the device.
        pss_bytes: proportional set size at the end; `pss_anonymous_bytes` of it is not backed by files.
        group_usage_bytes: charged to the control group at the end, page cache included; None without a limit.
        group_cache_bytes: the page cache of it.
        group_peak_bytes: the most ever charged; None where the kernel does not say.
        limit_hits: charges that ran into the limit; None where the kernel does not count.
        checksums: CRC32C over all arrays of each of the first batches, as hexadecimal digits.
        measured_at: UTC, ISO 8601.
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
        """The measurement that `dataclasses.asdict` described."""
        lists = {name: tuple(data.get(name, ())) for name in ("batch_seconds", "checksums")}
        return cls(**{**data, **lists})


@dataclass(frozen=True, kw_only=True)
class StoreSummary:
    """How a mode stored the data at the largest size; bytes are those of files.

    `observation_bytes_per_transition` is that of observations, `bytes_per_transition` of all fields. `schemes` holds
    the codec configuration of each field that has a codec.
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
        frame_shape: of one frame.
        frame_bytes: raw.
        stack_bytes: of a raw observation, `frame_stack` frames.
        changed_fraction: part of the pixels in which any channel differs.
        difference_gain: factor by which differences are amplified in the picture.
        previous_png, current_png, difference_png: pictures, base64.
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
    """Everything a report is made from.

    Attributes:
        limited: whether the memory limit was in force in every measurement; if not, `limit_reason` says why.
        row_bytes: bytes of one raw stacked row, all fields.
        source_episodes: different episodes; more are made by appending them again.
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
        """Plain data that `from_json` takes back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PagingResult:
        """The result that `to_json` described."""
        example = data["example"]
        parts = {
            "config": PagingConfig.from_json(data["config"]),
            "measurements": tuple(Measurement.from_json(entry) for entry in data["measurements"]),
            "stores": tuple(StoreSummary(**entry) for entry in data["stores"]),
            "example": example and FrameExample(**{**example, "frame_shape": tuple(example["frame_shape"])}),
        }
        return cls(**{**data, **parts})

    def at(self, size: float, mode: Mode) -> Measurement | None:
        """The measurement of that size and mode, if there is one."""
        return next((entry for entry in self.measurements if (entry.size, entry.mode) == (size, mode)), None)
