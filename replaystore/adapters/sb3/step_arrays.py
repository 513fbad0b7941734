"""Observations of a rollout in memory, encoded block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

DEFAULT_BUDGET_BYTES = 64 << 20


class StepArray(ABC):
    """Observations (num_steps, num_envs, *shape) that are set step by step, in order, and read by row.

    Row `env * num_steps + step` is the order that stable-baselines3 gives a complete rollout.

    Args:
        num_steps: steps of a rollout.
        num_envs: environments.
        decoded_bytes: memory that decoding all rows takes.
        budget_bytes: most memory for decoded rows. If all fit, the first read of a pass decodes them all.
    """

    def __init__(self, num_steps: int, num_envs: int, *, decoded_bytes: int, budget_bytes: int) -> None:
        self._num_steps, self._num_envs = num_steps, num_envs
        self._decodes_all = decoded_bytes <= budget_bytes
        self._decoded: NDArray[Any] | None = None

    def __setitem__(self, step: int, observations: NDArray[Any]) -> None:
        """Sets a step.

        Args:
            step: the step after the one that was set last.
            observations: (num_envs, *shape).
        """
        self._set(step, observations)
        if step == self._num_steps - 1:
            self._finish()

    def __getitem__(self, rows: ArrayLike) -> NDArray[Any]:
        """Returns the observations of rows, (n, *shape). All steps have been set."""
        envs, steps = np.divmod(np.asarray(rows, np.int64), self._num_steps)
        if self._decodes_all and self._decoded is None:
            self._decoded = self._decode_all()
        return self._read(steps, envs, self._decoded)

    def forget_decoded(self) -> None:
        """Frees decoded rows, at the end of a pass."""
        self._decoded = None

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the observations take now, without decoded rows."""

    @abstractmethod
    def _set(self, step: int, observations: NDArray[Any]) -> None:
        """Takes the observations of a step."""

    @abstractmethod
    def _finish(self) -> None:
        """Encodes what waits, after the last step."""

    @abstractmethod
    def _decode_all(self) -> NDArray[Any]:
        """Returns everything decoded, for `_read`."""

    @abstractmethod
    def _read(self, steps: NDArray[np.int64], envs: NDArray[np.int64], decoded: NDArray[Any] | None) -> NDArray[Any]:
        """Returns observations (n, *shape), from what `_decode_all` returned if it is there."""
