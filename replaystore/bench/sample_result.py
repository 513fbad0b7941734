"""Results of `bench sample`, as plain data."""

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
        name: name to show.
        store: path of the store. None if it is not a store.
        mode: mode of the store.
        residency: residency of the store.
        new_arrays: whether the store made new arrays for each batch, instead of filling the same ones.
        transitions: transitions that it holds.
        bytes_per_transition: bytes of everything that it holds. None for the copy.
        observation_bytes_per_transition: bytes of observations alone, for a store.
        n_step: steps of the return of its batches.
        blocks: blocks that it was timed in, each with consecutive batches. 0 if it was timed in turn.
        milliseconds: time per batch, including drawing. With blocks, over their means. None if it was not timed.
        megabytes_per_second: 10^6 bytes of batch per second, at the median.
        checked: rows of a batch by the finding of a check, for another buffer.
        notes: what a reader needs to know.
        reason: why it could not be measured. All other figures are None then.
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
        """Returns the times that `SampleResult.to_json` described."""
        spread = data["milliseconds"]
        return cls(
            **{**data, "milliseconds": None if spread is None else Spread(**spread), "notes": tuple(data["notes"])}
        )


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """What `run_sample` measured.

    Attributes:
        batch_bytes: bytes of one batch, all fields.
        raw_observation_bytes: bytes of a transition's raw observation, with all frames of its stack.
        times: times of the stores, the copy and the other buffers.
        conditions: conditions of the measurement, by name.
    """

    batch_bytes: int
    raw_observation_bytes: int
    times: tuple[SampleTimes, ...]
    conditions: Mapping[str, Any]

    @property
    def copy(self) -> SampleTimes:
        """Times of the copy."""
        return next(entry for entry in self.times if entry.kind == "copy")

    @property
    def stores(self) -> tuple[SampleTimes, ...]:
        """Times of the stores."""
        return tuple(entry for entry in self.times if entry.kind == "store")

    @property
    def peers(self) -> tuple[SampleTimes, ...]:
        """Times of the other buffers."""
        return tuple(entry for entry in self.times if entry.kind == "peer")

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Returns the result that `to_json` described.

        Raises:
            SpecError: the data are no such result.
        """
        try:
            return cls(**{**data, "times": tuple(map(SampleTimes.from_json, data["times"]))})
        except (TypeError, KeyError) as err:
            raise SpecError(f"not a result of bench sample: {err!r}; measure again") from err


def time_ratio(entry: SampleTimes, other: SampleTimes) -> float | None:
    """Returns the median time of `entry` divided by that of `other`. None if one of them was not timed."""
    if entry.milliseconds is None or other.milliseconds is None:
        return None
    return entry.milliseconds.median / other.milliseconds.median


def first_of_each_store(entries: Iterable[SampleTimes]) -> list[SampleTimes]:
    """Returns the first entry of each store. Others are compared with it."""
    found: dict[str, SampleTimes] = {}
    for entry in entries:
        if entry.store is not None and not entry.new_arrays:
            found.setdefault(entry.store, entry)
    return list(found.values())
