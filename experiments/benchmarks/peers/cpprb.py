"""cpprb's `ReplayBuffer`, plain and with frames kept once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.peers.data import Array, PeerData, by_frame
from experiments.benchmarks.peers.peer import Batch, Candidate, Peer, imported


class _Cpprb(Peer):
    """A buffer filled step by step.

    Args:
        once: whether to keep each frame once (`next_of`, and `stack_compress` for stacks).
    """

    def __init__(self, data: PeerData, *, once: bool) -> None:
        self._field = data.observation
        self._stack_last = once and data.observation.frame_stack > 1
        self._batch_size = data.batch_size
        notes = []
        if once and data.n_step > 1:
            notes.append("one step, because next_of has no n-step")
        if self._stack_last:
            notes.append("the axis of its stacks is last")
        super().__init__(num_transitions=data.num_transitions, n_step=1 if once else data.n_step, notes=tuple(notes))
        self._buffer = self._filled(data, once, None)
        # cpprb hides its arrays. The same arrays as files have sizes.
        with tempfile.TemporaryDirectory(dir=data.scratch) as directory:
            self._filled(data, once, f"{directory}/")
            self._held_bytes = sum(path.stat().st_size for path in Path(directory).iterdir())

    def _filled(self, data: PeerData, once: bool, mmap_prefix: str | None) -> Any:
        example = self._as_fed(data.episodes[0].observation[:1])[0]
        observed = {"shape": example.shape, "dtype": example.dtype}
        fields = {
            "obs": observed,
            "act": {"shape": data.action_shape, "dtype": data.action_dtype},
            "rew": {"dtype": np.float32},
            "done": {"dtype": np.float32},
        }
        options: dict[str, Any] = {}
        if once:
            options["next_of"] = "obs"
            if self._stack_last:
                options["stack_compress"] = "obs"
        else:
            fields["next_obs"] = observed
            if data.n_step > 1:
                options["Nstep"] = {"size": data.n_step, "gamma": data.discount, "rew": "rew", "next": "next_obs"}
        buffer = imported("cpprb").ReplayBuffer(data.num_transitions, fields, mmap_prefix=mmap_prefix, **options)
        for episode in data.episodes:
            stacks = self._as_fed(episode.observation)
            for t in range(1, episode.length + 1):
                last = float(t == episode.length)
                buffer.add(
                    obs=stacks[t - 1], act=episode.action[t], rew=episode.reward[t], next_obs=stacks[t], done=last
                )
            buffer.on_episode_end()
        return buffer

    def _as_fed(self, stacks: Array) -> Array:
        if not self._stack_last:
            return stacks
        return np.ascontiguousarray(np.moveaxis(by_frame(self._field, stacks), 1, -1))

    def restore(self, observations: Array) -> Array:
        """Moves the axis of the stack to where the data have it."""
        if not self._stack_last:
            return observations
        stacks = np.empty((len(observations), *self._field.stacked_shape), observations.dtype)
        by_frame(self._field, stacks)[...] = np.moveaxis(observations, -1, 1)
        return stacks

    def turn(self) -> Batch:
        """Draws a batch."""
        sample = self._buffer.sample(self._batch_size)
        return {
            "observation": sample["obs"],
            "next_observation": sample["next_obs"],
            "action": sample["act"],
            "reward": sample["rew"],
            "done": sample["done"],
        }

    def held_bytes(self) -> int:
        """Returns the bytes that the buffer holds."""
        return self._held_bytes


def candidates() -> list[Candidate]:
    """Returns the candidates."""
    return [
        Candidate("cpprb", "cpprb", lambda data: _Cpprb(data, once=False)),
        Candidate("cpprb, next_of and stack_compress", "cpprb", lambda data: _Cpprb(data, once=True)),
    ]
