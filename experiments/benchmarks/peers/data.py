"""The transitions that other buffers are filled with: whole episodes of a store, from its public interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from replaystore import FieldSpec, ReplayStore, StoreSpec
from replaystore.errors import SpecError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PeerEpisode:
    """One episode of L + 1 rows, row 0 the reset.

    Attributes:
        observation: (rows, *stacked_shape). action: (rows, ...). reward, discount: float32 (rows,).
    """

    observation: Array
    action: Array
    reward: Array
    discount: Array

    @property
    def length(self) -> int:
        """Transitions, L."""
        return len(self.reward) - 1

    @property
    def terminated(self) -> bool:
        """Whether the episode ended in a terminal state. A time limit is none."""
        return bool(self.discount[-1] == 0)

    def arrays(self) -> dict[str, Array]:
        """Returns the arrays as DrQ-v2 stores them, with reward and discount of shape (rows, 1)."""
        return {
            "observation": self.observation,
            "action": self.action,
            "reward": self.reward[:, None],
            "discount": self.discount[:, None],
        }


class Step(NamedTuple):
    """A transition of one step."""

    observation: Array
    next_observation: Array
    action: Array
    reward: float
    last: bool
    terminated: bool


@dataclass(frozen=True, kw_only=True)
class PeerData:
    """The transitions that a buffer must hold, and the settings of its batches.

    Attributes:
        observation: the field of the observations. A row has its `stacked_shape`.
        scratch: a directory for files. It is removed afterwards.
    """

    observation: FieldSpec
    episodes: tuple[PeerEpisode, ...]
    batch_size: int
    n_step: int
    discount: float
    scratch: Path

    @property
    def num_transitions(self) -> int:
        """Of one step."""
        return sum(episode.length for episode in self.episodes)

    @property
    def num_rows(self) -> int:
        """Transitions and resets."""
        return self.num_transitions + len(self.episodes)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of one action."""
        return self.episodes[0].action.shape[1:]

    @property
    def action_dtype(self) -> np.dtype[Any]:
        """Of an action."""
        return self.episodes[0].action.dtype

    def steps(self) -> Iterator[Step]:
        """Every transition of one step, in order."""
        for episode in self.episodes:
            for t in range(1, episode.length + 1):
                last = t == episode.length
                yield Step(
                    episode.observation[t - 1], episode.observation[t], episode.action[t], float(episode.reward[t]),
                    last, last and episode.terminated,
                )  # fmt: skip

    def n_step_transitions(self) -> Iterator[dict[str, Array]]:
        """Yields the assembled transitions of `n_step` steps, one episode at a time. Axis 0 counts transitions."""
        for episode in self.episodes:
            count = episode.length - self.n_step + 1
            if count < 1:
                continue
            returns = np.array([self.window_return(episode, i, self.n_step) for i in range(1, count + 1)], np.float32)
            last = np.arange(count) == count - 1
            yield {
                "observation": episode.observation[:count],
                "next_observation": episode.observation[self.n_step :],
                "action": episode.action[1 : count + 1],
                "reward": returns[:, 0],
                "discount": returns[:, 1],
                "last": last,
                "terminated": last & episode.terminated,
            }

    def window_return(self, episode: PeerEpisode, i: int, steps: int) -> tuple[float, float]:
        """Returns the reward and discount of transition i over `steps` steps, computed by loops in float64."""
        reward, product = 0.0, 1.0
        for k in range(steps):
            reward += product * float(episode.reward[i + k])
            product *= float(episode.discount[i + k]) * self.discount
        return reward, product


def by_frame(field: FieldSpec, stacks: Array) -> Array:
    """Returns a view of stacks, (rows, *stacked_shape), as (rows, frame_stack, *shape), oldest frame first.

    Args:
        field: the field of the stacks.
        stacks: its rows.
    """
    if field.channels == "last":
        height, width, *channels = field.shape
        return np.moveaxis(stacks.reshape(len(stacks), height, width, field.frame_stack, *channels), 3, 1)
    return stacks.reshape(len(stacks), field.frame_stack, *field.shape)


def take_episodes(store: ReplayStore, transitions: int) -> tuple[FieldSpec, tuple[PeerEpisode, ...]]:
    """Returns the oldest episodes of a store, with up to `transitions` in all. The last episode may be cut.

    Raises:
        SpecError: the store does not have exactly one observation, one action and one reward.
    """
    spec = store.spec
    observation, action, reward = (_only(spec, role) for role in ("observation", "action", "reward"))
    discount = next((field for field in spec.fields if field.role == "discount"), None)
    episodes: list[PeerEpisode] = []
    left = transitions
    for info in store.episodes():
        if left < 1:
            break
        arrays = store.read_episode(info.episode)
        rows = min(left + 1, len(arrays[reward.name]))
        factors = np.ones(rows, np.float32) if discount is None else arrays[discount.name][:rows].reshape(rows)
        episodes.append(
            PeerEpisode(
                observation=arrays[observation.name][:rows],
                action=arrays[action.name][:rows],
                reward=arrays[reward.name][:rows].reshape(rows).astype(np.float32),
                discount=factors.astype(np.float32),
            )
        )
        left -= rows - 1
    return observation, tuple(episodes)


def _only(spec: StoreSpec, role: str) -> FieldSpec:
    found = [field for field in spec.fields if field.role == role]
    if len(found) != 1:
        raise SpecError(
            f"other buffers are compared on one field with the role {role!r}, the store has"
            f" {[field.name for field in found]}; compare stores alone (--peers none)"
        )
    return found[0]
