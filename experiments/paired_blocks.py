"""Times two ways to do the same, block by block, in turns which is first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

_RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class PairedBlocks:
    """Seconds of blocks, each done in both ways, one after the other.

    Attributes:
        steps: steps per block.
        original_seconds: of each block in the first way.
        our_seconds: of each block in the second way.
    """

    steps: int
    original_seconds: tuple[float, ...]
    our_seconds: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Time of the second way divided by that of the first: the median over blocks."""
        return float(np.median(self._ratios))

    @property
    def interval(self) -> tuple[float, float]:
        """The interval that holds `ratio` with a confidence of 95%, from resampled blocks."""
        ratios = self._ratios
        drawn = np.random.default_rng(0).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
        low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
        return float(low), float(high)

    @property
    def _ratios(self) -> Any:
        return np.array(self.our_seconds) / np.array(self.original_seconds)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Returns what `to_json` described."""
        lists = {name: tuple(data[name]) for name in ("original_seconds", "our_seconds")}
        return cls(**{**data, **lists})


def time_in_turns(
    original: Callable[[], object], ours: Callable[[], object], *, num_blocks: int, steps: int
) -> PairedBlocks:
    """Calls both functions `num_blocks` times.

    Args:
        original: does a block in the first way.
        ours: does it in the second way.
        num_blocks: number of blocks.
        steps: steps per block, for the result.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for block in range(num_blocks):
        for which in (0, 1) if block % 2 else (1, 0):
            begin = time.perf_counter()
            (original, ours)[which]()
            seconds[which].append(time.perf_counter() - begin)
    return PairedBlocks(steps=steps, original_seconds=tuple(seconds[0]), our_seconds=tuple(seconds[1]))
