"""Configuration of `bench paging`, as frozen data that convert to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from replaystore.bench.memory_limit import MIN_LIMIT_BYTES
from replaystore.errors import SpecError
from replaystore.spec import DEFAULT_CHUNK_ROWS, MODES, Mode, Residency

MEMMAP = "memmap"
DRQV2 = "drqv2"
CONTENDERS: Mapping[str, tuple[Mode, Residency | None]] = {
    "disk": ("disk", "mapped"),
    "half": ("half", None),
    "full": ("full", None),
    "half-mapped": ("half", "mapped"),
    "full-mapped": ("full", "mapped"),
    "disk-files": ("disk", "files"),
    "half-files": ("half", "files"),
    "full-files": ("full", "files"),
    MEMMAP: ("disk", "files"),
    DRQV2: ("disk", "ram"),
}
"""The mode of the store, and where its bytes are, by name. None: in RAM as far as they fit, and read from files
beyond.

`memmap` reads the observations of a store in mode `disk` through plain NumPy memory maps of its chunk files. `drqv2` is
the replay loader of DrQ-v2, in the measured process. It reads episode files of the same data into RAM.
"""


def mode_of(name: str) -> Mode:
    """Returns the mode of the store that a contender reads."""
    return CONTENDERS[name][0]


@dataclass(frozen=True, kw_only=True)
class PagingConfig:
    """What to measure.

    Attributes:
        episode_dir: directory of DrQ-v2 episode files. They are replicated in order until there is enough data.
        work_dir: directory of stores and measurements, made if absent. Its contents are reused.
        limit_bytes: memory limit of each measurement.
        sizes: amounts of data, as multiples of `limit_bytes`, counted as raw stacked rows.
        modes: what to compare, names of `CONTENDERS`: storage modes, with or without a residency, `"memmap"`, and
            `"drqv2"`.
        drqv2: checkout of DrQ-v2, for the contender of that name.
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
    modes: tuple[str, ...] = MODES
    drqv2: str | None = None
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
        if not self.modes or len(set(self.modes)) != len(self.modes) or not set(self.modes) <= set(CONTENDERS):
            raise SpecError(f"modes: expected some of {tuple(CONTENDERS)}, each once, got {self.modes}")
        if DRQV2 in self.modes and self.drqv2 is None:
            raise SpecError(f"modes: {DRQV2!r} needs a checkout of DrQ-v2; pass its directory as drqv2 (--drqv2)")
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
