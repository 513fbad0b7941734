"""What `bench sample` measured, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from replaystore.bench.spread import Spread
from replaystore.errors import SpecError

Kind = Literal["store", "copy", "peer"]


@dataclass(frozen=True, kw_only=True)
class SampleTimes:
    """Batch times and bytes of one store in one residency, of another buffer, or of the copy.

    Attributes:
        kind: `"store"`, `"peer"` (another buffer) or `"copy"` (the same bytes from an array in memory, row by row).
        name: to show.
        store: path; None: not a store. mode, residency: of a store.
        new_arrays: whether a store made new arrays for each batch, instead of filling the same ones.
        transitions: held. bytes_per_transition: of everything held; None: nothing is.
        observation_bytes_per_transition: of its observations alone, for a store.
        n_step: of the batches.
        blocks: how many blocks it was timed in, each of batches one after the other. 0: it was timed in turn.
        milliseconds: a batch, drawing included; over blocks, their means. None: not timed.
        megabytes_per_second: 10^6 bytes of batch, at the median.
        checked: rows of a batch by what a check of them found, for another buffer.
        notes: what a reader has to know. reason: why it could not be measured; everything else is then None.
    """

    kind: Kind
    name: str
    store: str | None = None
    mode: str | None = None
    residency: str | None = None
    new_arrays: bool = False
    transitions: int | None = None
    bytes_per_transition: float | None = None
    observation_bytes_per_transition: float | None = None
    n_step: int | None = None
    blocks: int = 0
    milliseconds: Spread | None = None
    megabytes_per_second: float | None = None
    checked: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()
    reason: str | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` made."""
        spread = data["milliseconds"]
        return cls(
            **{**data, "milliseconds": None if spread is None else Spread(**spread), "notes": tuple(data["notes"])}
        )


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """What `run_sample` measured.

    Attributes:
        batch_bytes: of one batch, all fields.
        raw_observation_bytes: of the observation of a transition, raw, with all frames of its stack.
        times: stores, the copy, other buffers.
    """

    batch_bytes: int
    raw_observation_bytes: int
    times: tuple[SampleTimes, ...]
    conditions: Mapping[str, Any]

    @property
    def copy(self) -> SampleTimes:
        """The copy."""
        return next(entry for entry in self.times if entry.kind == "copy")

    @property
    def stores(self) -> tuple[SampleTimes, ...]:
        """The stores."""
        return tuple(entry for entry in self.times if entry.kind == "store")

    @property
    def peers(self) -> tuple[SampleTimes, ...]:
        """Other buffers."""
        return tuple(entry for entry in self.times if entry.kind == "peer")

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` takes back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` made.

        Raises:
            SpecError: something else.
        """
        try:
            return cls(**{**data, "times": tuple(map(SampleTimes.from_json, data["times"]))})
        except (TypeError, KeyError) as err:
            raise SpecError(f"not a result of bench sample: {err!r}; measure again") from err


def time_ratio(entry: SampleTimes, other: SampleTimes) -> float | None:
    """Median time of `entry` over that of `other`; None where one has none."""
    if entry.milliseconds is None or other.milliseconds is None:
        return None
    return entry.milliseconds.median / other.milliseconds.median


def first_of_each_store(entries: Iterable[SampleTimes]) -> list[SampleTimes]:
    """Of each store the first entry: what the others are compared with."""
    found: dict[str, SampleTimes] = {}
    for entry in entries:
        if entry.store is not None and not entry.new_arrays:
            found.setdefault(entry.store, entry)
    return list(found.values())
