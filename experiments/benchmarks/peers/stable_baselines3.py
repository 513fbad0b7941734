"""The `ReplayBuffer` of stable-baselines3, and the buffers of sb3-extra-buffers, which have its interface."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from experiments.benchmarks.peers.data import PeerData
from experiments.benchmarks.peers.peer import Batch, Candidate, Peer, Unable, array_bytes, imported

_FED_WINDOWS = "n-step transitions are assembled before they are added, because it has no n-step"
_ONE_STEP = "one step, because this option has no n-step"


def _box(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    spaces = imported("gymnasium.spaces")
    if dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, shape, dtype.type)
    bounds = np.iinfo(dtype)
    return spaces.Box(bounds.min, bounds.max, shape, dtype.type)


class _FromBaselines(Peer):
    """A buffer with the interface of `stable_baselines3.common.buffers.ReplayBuffer`."""

    def __init__(self, data: PeerData, buffer: Any, *, n_step: int, notes: tuple[str, ...], windows: bool) -> None:
        super().__init__(num_transitions=buffer.buffer_size, n_step=n_step, notes=notes)
        self._buffer = buffer
        self._batch_size = data.batch_size
        timeouts = buffer.handle_timeout_termination
        for step in _windows(data) if windows else data.steps():
            observation, following, action, reward, last, terminated = step
            info = {"TimeLimit.truncated": last and not terminated} if timeouts else {}
            buffer.add(observation[None], following[None], action[None], np.array([reward]), np.array([last]), [info])

    def turn(self) -> Batch:
        """Draws a batch."""
        sample = self._buffer.sample(self._batch_size)
        return {
            "observation": sample.observations,
            "next_observation": sample.next_observations,
            "action": sample.actions,
            "reward": sample.rewards,
            "done": sample.dones,
        }

    def held_bytes(self) -> int:
        """Returns the bytes that the buffer holds."""
        return array_bytes(*vars(self._buffer).values())


def _windows(data: PeerData) -> Any:
    for part in data.n_step_transitions():
        names = ("observation", "next_observation", "action", "reward", "last", "terminated")
        yield from zip(*(part[name] for name in names), strict=True)


def _plain(data: PeerData) -> Peer:
    buffers = imported("stable_baselines3.common.buffers")
    spaces = _box(data.observation.stacked_shape, np.dtype(data.observation.dtype)), _action_space(data)
    if data.n_step == 1:
        buffer = buffers.ReplayBuffer(data.num_transitions, *spaces, device="cpu")
        return _FromBaselines(data, buffer, n_step=1, notes=(), windows=False)
    buffer = buffers.NStepReplayBuffer(
        data.num_transitions, *spaces, device="cpu", n_steps=data.n_step, gamma=data.discount
    )
    return _FromBaselines(data, buffer, n_step=data.n_step, notes=("its NStepReplayBuffer",), windows=False)


def _optimised(data: PeerData) -> Peer:
    buffers = imported("stable_baselines3.common.buffers")
    buffer = buffers.ReplayBuffer(
        data.num_transitions,
        _box(data.observation.stacked_shape, np.dtype(data.observation.dtype)),
        _action_space(data),
        device="cpu",
        optimize_memory_usage=True,
        handle_timeout_termination=False,
    )
    notes = (_ONE_STEP,) if data.n_step > 1 else ()
    return _FromBaselines(data, buffer, n_step=1, notes=notes, windows=False)


def _compressed(data: PeerData, method: str) -> Peer:
    compressed, base = imported("sb3_extra_buffers.compressed"), imported("sb3_extra_buffers.compressed.base")
    if method.rstrip("0123456789") not in base.COMPRESSION_METHOD_MAP:
        raise Unable(f"this sb3-extra-buffers has no {method} here")
    shape, dtype = data.observation.stacked_shape, np.dtype(data.observation.dtype)
    buffer = compressed.CompressedReplayBuffer(
        sum(len(part["reward"]) for part in data.n_step_transitions()),
        _box(shape, dtype),
        _action_space(data),
        device="cpu",
        dtypes=base.find_buffer_dtypes(shape, dtype.type, method),
        compression_method=method,
    )
    notes = (_FED_WINDOWS,) if data.n_step > 1 else ()
    return _FromBaselines(data, buffer, n_step=data.n_step, notes=notes, windows=True)


def _action_space(data: PeerData) -> Any:
    return _box(data.action_shape or (1,), data.action_dtype)


def candidates() -> list[Candidate]:
    """Returns the candidates."""
    return [
        Candidate("stable-baselines3", "stable-baselines3", _plain),
        Candidate("stable-baselines3, optimize_memory_usage", "stable-baselines3", _optimised),
    ]


def compressed_candidates() -> list[Candidate]:
    """Returns the candidates of sb3-extra-buffers."""
    return [
        Candidate(f"sb3-extra-buffers, {method}", "sb3-extra-buffers", partial(_compressed, method=method))
        for method in ("rle", "rle-jit", "gzip1", "lz4-block")
    ]
