"""The first transitions of a buffer whose bounds come from the data: kept as they are until there are enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from replaystore.adapters.sb3.rounding import codec_of_values
from replaystore.codecs.round_clamp import RoundClamp


class FirstRows:
    """Transitions in the buffer of stable-baselines3.

    Args:
        num_rows: transitions of all environments together to take bounds from.
        observation_space: of one environment.
        action_space: of one environment.
        device: where samples go.
        num_envs: environments.
        handle_timeout_termination: as in `ReplayBuffer`.
        n_steps: steps of the return.
        gamma: discount of the n-step return.
    """

    def __init__(
        self, num_rows: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], device: Any,
        num_envs: int, *, handle_timeout_termination: bool, n_steps: int, gamma: float,
    ) -> None:  # fmt: skip
        arguments: Any = (max(num_rows, num_envs), observation_space, action_space, device, num_envs)
        timeouts: Any = {"handle_timeout_termination": handle_timeout_termination}
        if isinstance(observation_space, spaces.Dict):
            self._buffer: Any = DictReplayBuffer(*arguments, **timeouts)
        elif n_steps > 1:
            self._buffer = NStepReplayBuffer(*arguments, n_steps=n_steps, gamma=gamma, **timeouts)
        else:
            self._buffer = ReplayBuffer(*arguments, **timeouts)
        self.add: Callable[..., None] = self._buffer.add
        self.size: Callable[[], int] = self._buffer.size
        self.can_be_drawn = n_steps == 1 or isinstance(self._buffer, NStepReplayBuffer)
        """Whether there is an original for these draws. There is none with several steps and a dict space."""

    @property
    def is_complete(self) -> bool:
        """Whether there are enough rows."""
        return bool(self._buffer.full)

    def sample(self, batch_size: int, env: VecNormalize | None) -> Any:
        """Draws transitions as the original does, from NumPy's global generator."""
        return self._buffer.sample(batch_size, env)

    def codecs(self, names: Iterable[str], decimals: int, margin: float) -> dict[str, RoundClamp]:
        """Returns a codec for each observation of `names`. See `codec_of_values`."""
        found = {}
        for name in names:
            arrays = [
                array[name] if isinstance(array, dict) else array
                for array in (self._buffer.observations, self._buffer.next_observations)
            ]
            rows = [array[: self.size()].reshape(self.size() * array.shape[1], -1) for array in arrays]
            found[name] = codec_of_values(name, np.concatenate(rows), decimals, margin)
        return found

    def play_into(self, add: Callable[..., None]) -> None:
        """Passes all steps to `add`, which takes what `ReplayBuffer.add` takes."""
        buffer = self._buffer
        for step in range(self.size()):
            before, after = (
                {name: part[step] for name, part in array.items()} if isinstance(array, dict) else array[step]
                for array in (buffer.observations, buffer.next_observations)
            )
            infos = [{"TimeLimit.truncated": bool(cut)} for cut in buffer.timeouts[step]]
            add(before, after, buffer.actions[step], buffer.rewards[step], buffer.dones[step], infos)
