"""Checks that the rows of a batch are transitions of the data, by looking them up in the episodes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.benchmarks.peers.data import PeerData
from experiments.benchmarks.peers.peer import Batch, Peer

Array = npt.NDArray[Any]

_CLOSE = 1e-4  # relative, for rewards: each buffer adds float32 values in another order


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Counts the rows of a batch by how they agree with the data.

    Attributes:
        rows: number of rows in the batch.
        distinct: number of different transitions among the right rows.
        exact: rows that are transitions of the data over `n_step` steps.
        short: rows that are right, but over fewer steps, because the episode ends there.
        masked: rows with another next observation, which `done` marks as unused.
        wrong_reward: rows with the right observations and action, and another reward or discount.
        wrong_next: rows whose observation and action are in the data, with another next observation.
        unknown: rows whose observation does not occur in the data with that action.
    """

    rows: int
    distinct: int
    exact: int = 0
    short: int = 0
    masked: int = 0
    wrong_reward: int = 0
    wrong_next: int = 0
    unknown: int = 0

    @property
    def right(self) -> bool:
        """Returns whether an agent may learn from every row."""
        return self.exact + self.short + self.masked == self.rows

    def notes(self) -> tuple[str, ...]:
        """Returns one sentence per kind of row that is not exact."""
        texts = {
            "short": "end with the episode, after fewer steps",
            "masked": "at the end of an episode have another next observation, hidden by done = 1",
            "wrong_reward": "HAVE A WRONG REWARD OR DISCOUNT",
            "wrong_next": "HAVE A WRONG NEXT OBSERVATION",
            "unknown": "ARE NOT IN THE DATA",
        }
        counts = asdict(self)
        return tuple(f"{counts[kind]} of {self.rows} rows {text}" for kind, text in texts.items() if counts[kind])


class Checker:
    """Looks rows up in the episodes. It compares observations bit for bit, in the dtype of the batch."""

    def __init__(self, data: PeerData) -> None:
        self._data = data
        self._digests: dict[np.dtype[Any], list[list[bytes]]] = {}

    def check(self, peer: Peer, batch: Batch) -> Checked:
        """What the rows of a batch are."""
        observed, following = (
            np.ascontiguousarray(peer.restore(np.asarray(batch[name]))) for name in ("observation", "next_observation")
        )
        shape = self._data.observation.stacked_shape
        if observed.shape[1:] != shape or following.shape != observed.shape:
            raise AssertionError(f"observations of {observed.shape[1:]}, the data have {shape}")
        digests = self._of(observed.dtype)
        where = defaultdict(list)
        for number, episode in enumerate(digests):
            for t, digest in enumerate(episode[:-1]):
                where[digest].append((number, t))
        kinds: dict[str, int] = defaultdict(int)
        found = set()
        for row in range(len(observed)):
            kind, place = self._kind(peer.n_step, batch, row, observed[row], following[row], where, digests)
            kinds[kind] += 1
            if place is not None:
                found.add(place)
        return Checked(rows=len(observed), distinct=len(found), **kinds)

    def _kind(
        self, n_step: int, batch: Batch, row: int, observed: Array, following: Array,
        where: dict[bytes, list[tuple[int, int]]], digests: list[list[bytes]],
    ) -> tuple[str, tuple[int, int] | None]:  # fmt: skip
        next_digest = _digest(following)
        action = np.asarray(batch["action"][row]).reshape(-1)
        done = "done" in batch and bool(_number(batch["done"][row]))
        best: tuple[str, tuple[int, int] | None] = "unknown", None
        for number, t in where.get(_digest(observed), ()):
            episode = self._data.episodes[number]
            if not (episode.action[t + 1].reshape(-1).astype(action.dtype) == action).all():
                continue
            steps = min(n_step, episode.length - t)
            follows = digests[number][t + steps] == next_digest
            rewarded = self._returns_match(batch, row, number, t + 1, steps)
            if follows and rewarded:
                return "exact" if steps == n_step else "short", (number, t)
            at_end = t + n_step >= episode.length
            if rewarded and done and at_end:
                best = "masked", (number, t)
            elif best[0] == "unknown":
                best = ("wrong_reward" if follows else "wrong_next"), None
        return best

    def _returns_match(self, batch: Batch, row: int, number: int, i: int, steps: int) -> bool:
        reward, discount = self._data.window_return(self._data.episodes[number], i, steps)
        close = bool(np.isclose(_number(batch["reward"][row]), reward, rtol=_CLOSE, atol=_CLOSE))
        if "discount" in batch:
            close &= bool(np.isclose(_number(batch["discount"][row]), discount, rtol=_CLOSE, atol=_CLOSE))
        return close

    def _of(self, dtype: np.dtype[Any]) -> list[list[bytes]]:
        if dtype not in self._digests:
            self._digests[dtype] = [
                [_digest(row.astype(dtype, copy=False)) for row in episode.observation]
                for episode in self._data.episodes
            ]
        return self._digests[dtype]


def _number(value: Any) -> float:
    return float(np.asarray(value).reshape(-1)[0])


def _digest(row: Array) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(row).data.cast("B"), digest_size=16).digest()
