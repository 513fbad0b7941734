"""Rollout buffers of stable-baselines3 whose observations are encoded in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, DictRolloutBuffer, RolloutBuffer

from replaystore.adapters.sb3.delta_steps import DeltaSteps
from replaystore.adapters.sb3.fields import OBSERVATION, observation_field
from replaystore.adapters.sb3.rounded_steps import FittedCodec, RoundedSteps
from replaystore.adapters.sb3.rounding import RoundClampChoice, check_space, codecs_of_spaces
from replaystore.adapters.sb3.step_arrays import DEFAULT_BUDGET_BYTES, StepArray
from replaystore.errors import SpecError
from replaystore.runtime.numbers import byte_size, whole_number


class EncodedRollout(RolloutBuffer):
    """What the rollout buffers of this module share: some observations are `StepArray`s."""

    def __init__(self, buffer_size: int, observation_space: spaces.Space[Any], *arguments: Any) -> None:
        is_dict = isinstance(observation_space, spaces.Dict)
        if is_dict != isinstance(self, DictRolloutBuffer):
            other = f"{'Dict' if is_dict else ''}RolloutBuffer"
            wanted = type(self).__name__.replace("Dict", "").replace("RolloutBuffer", other)
            raise SpecError(f"{type(self).__name__}: it does not take {observation_space}; use {wanted}")
        super().__init__(buffer_size, observation_space, *arguments)

    @abstractmethod
    def _encoded(self, name: str, space: spaces.Space[Any]) -> StepArray | None:
        """Returns an empty array for the observations of a space. None: they stay plain."""

    def reset(self) -> None:
        """Empties the buffer."""
        super().reset()
        if isinstance(self.observation_space, spaces.Dict):
            for name, space in self.observation_space.spaces.items():
                array = self._encoded(name, space)
                if array is not None:
                    self.observations[name] = array
        else:
            array = self._encoded(OBSERVATION, self.observation_space)
            if array is not None:
                self.observations: Any = array

    @staticmethod
    def swap_and_flatten(arr: Any) -> Any:
        """Returns an array with one row per step and environment. A `StepArray` is read by such rows as it is."""
        return arr if isinstance(arr, StepArray) else BaseBuffer.swap_and_flatten(arr)

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Yields the rollout in random order, as the original does. Rows are decoded once, if they fit the budget."""
        try:
            yield from super().get(batch_size)
        finally:
            for array in self._observation_arrays():
                if isinstance(array, StepArray):
                    array.forget_decoded()

    def _observation_arrays(self) -> list[Any]:
        found: Any = self.observations
        return list(found.values()) if isinstance(found, dict) else [found]

    @property
    def observation_bytes(self) -> int:
        """Bytes that the observations take now, without rows that are decoded for a pass."""
        return sum(array.nbytes for array in self._observation_arrays())

    @property
    def num_bytes(self) -> int:
        """Bytes that all arrays take now, without rows that are decoded for a pass."""
        others = (value for name, value in vars(self).items() if name != "observations")
        return self.observation_bytes + sum(value.nbytes for value in others if isinstance(value, np.ndarray))


class RoundClampRolloutBuffer(EncodedRollout):
    """Keeps observations of floats rounded and packed, and gives them back rounded.

    >>> from stable_baselines3 import PPO
    >>> model = PPO(
    ...     "MlpPolicy", "Pendulum-v1", n_steps=1024, batch_size=256, n_epochs=1, seed=0, device="cpu",
    ...     rollout_buffer_class=RoundClampRolloutBuffer, rollout_buffer_kwargs={"decimals": 2},
    ... )
    >>> model = model.learn(1024)
    >>> model.rollout_buffer.observation_bytes < 1024 * 3 * 4 / 2
    True

    `PPO`, `A2C` and others take it as `rollout_buffer_class`. The policy acts on observations as they are. Only the
    rows that it learns from are rounded, to at most half of `10**-decimals` beside what they were.

    With `"auto"`, each value has bounds of its own, which follow the data, so nothing is clamped. With codecs, values
    are clamped to their bounds, and `values_clamped` counts them.

    Args:
        buffer_size: steps per environment.
        observation_space: of one environment, a Box of floats. `RoundClampDictRolloutBuffer` takes a Dict of spaces.
        action_space: of one environment.
        device: where samples go.
        gae_lambda: see `RolloutBuffer`.
        gamma: discount.
        n_envs: environments.
        round_clamp: a codec for all values or one for each key of a Dict, or `"auto"`, which rounds every Box of
            floats.
        decimals: decimals of `"auto"`.
        budget_bytes: most memory for decoded rows during a pass, as a number or text such as `"64MiB"`. If a rollout
            takes more, each batch is decoded on its own.

    Raises:
        SpecError: a space cannot be rounded, bounds do not fit it, or a number cannot work.
    """

    def __init__(
        self, buffer_size: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any],
        device: torch.device | str = "auto", gae_lambda: float = 1, gamma: float = 0.99, n_envs: int = 1, *,
        round_clamp: RoundClampChoice = "auto", decimals: int = 2, budget_bytes: int | str = DEFAULT_BUDGET_BYTES,
    ) -> None:  # fmt: skip
        chosen = codecs_of_spaces(round_clamp, observation_space)
        self._codecs = {name: codec or FittedCodec(name, decimals) for name, codec in chosen.items()}
        self._budget_bytes = byte_size(budget_bytes, "budget_bytes")
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def _encoded(self, name: str, space: spaces.Space[Any]) -> StepArray | None:
        if name not in self._codecs:
            return None
        shape, dtype = check_space(name, space)
        codec = self._codecs[name]
        if isinstance(codec, FittedCodec):
            codec.begin_rollout()
        return RoundedSteps(
            self.buffer_size,
            self.n_envs,
            shape,
            dtype,
            codec if isinstance(codec, FittedCodec) else lambda rows: codec,
            budget_bytes=self._budget_bytes,
        )

    @property
    def values_clamped(self) -> int:
        """Values of this rollout that lay outside the bounds of their codec."""
        arrays = self._observation_arrays()
        return sum(array.values_clamped for array in arrays if isinstance(array, RoundedSteps))


class RoundClampDictRolloutBuffer(RoundClampRolloutBuffer, DictRolloutBuffer):
    """`RoundClampRolloutBuffer` for a Dict of spaces. What `round_clamp` does not name stays plain."""


class DeltaRolloutBuffer(EncodedRollout):
    """Keeps each image once, as its difference to a neighbour in time. Samples equal those of `RolloutBuffer`.

    Give `frame_stack` what `VecFrameStack` has as `n_stack`. Episodes may end anywhere, and stacks may hold anything:
    frames that do not follow from the step before are stored, too.

    Args:
        buffer_size: steps per environment.
        observation_space: of one environment, an image. `DeltaDictRolloutBuffer` takes a Dict of spaces.
        action_space: of one environment.
        device: where samples go.
        gae_lambda: see `RolloutBuffer`.
        gamma: discount.
        n_envs: environments.
        frame_stack: frames that are stacked in an image, along its channels.
        keyframe_interval: see `FrameDelta`.
        budget_bytes: most memory for decoded frames during a pass, as a number or text such as `"64MiB"`. If the frames
            of a rollout take more, each batch is decoded on its own.

    Raises:
        SpecError: there is no image among the observations, or `frame_stack` does not divide its channels.
    """

    def __init__(
        self, buffer_size: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any],
        device: torch.device | str = "auto", gae_lambda: float = 1, gamma: float = 0.99, n_envs: int = 1, *,
        frame_stack: int = 4, keyframe_interval: int = 16, budget_bytes: int | str = DEFAULT_BUDGET_BYTES,
    ) -> None:  # fmt: skip
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else None
        fields = (
            observation_field(name, part, whole_number(frame_stack, "frame_stack"))
            for name, part in (parts or {OBSERVATION: observation_space}).items()
        )
        self._fields = {field.name: field for field in fields if field.is_image}
        if not self._fields:
            raise SpecError(
                f"expected an image among the observations, uint8 with three axes, got {observation_space}; use the"
                " original buffer, or RoundClampRolloutBuffer for floats"
            )
        self._keyframe_interval = keyframe_interval
        self._budget_bytes = byte_size(budget_bytes, "budget_bytes")
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def _encoded(self, name: str, space: spaces.Space[Any]) -> StepArray | None:
        if name not in self._fields:
            return None
        return DeltaSteps(
            self.buffer_size,
            self.n_envs,
            self._fields[name],
            budget_bytes=self._budget_bytes,
            keyframe_interval=self._keyframe_interval,
        )


class DeltaDictRolloutBuffer(DeltaRolloutBuffer, DictRolloutBuffer):
    """`DeltaRolloutBuffer` for a Dict of spaces. What is no image stays plain."""
