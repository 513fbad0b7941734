"""Observations of floats, rounded and packed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.adapters.sb3.rounding import codec_of_values
from replaystore.adapters.sb3.step_arrays import StepArray
from replaystore.codecs.round_clamp import RoundClamp

_BLOCK_ROWS = 512
_MARGIN = 0.1  # of the distance between the bounds, on either side: a quarter of a bit
_BITS_TO_SAVE = 0.5  # per value
_CODEC_BYTES_PER_VALUE = 160  # bounds as Python's floats, tables of levels, plan of octets


class FittedCodec:
    """A codec whose bounds follow the data: as long as they hold, it is the same one, because making it takes time.

    Values outside lead to new bounds, around all values of the rollout and a margin. So nothing is clamped. A rollout
    starts with the codec of the one before, or with a closer one if that saves half a bit per value.

    Args:
        name: names the values in errors.
        decimals: see `RoundClamp`.
    """

    def __init__(self, name: str, decimals: int) -> None:
        self._name, self._decimals = name, decimals
        self._codec: RoundClamp | None = None
        self._bounds: NDArray[np.float64] | None = None  # (2, D), of the codec
        self._seen: NDArray[np.float64] | None = None  # (2, D), least and greatest values of this rollout

    def begin_rollout(self) -> None:
        """Starts a rollout."""
        seen, self._seen = self._seen, None
        if self._bounds is not None and seen is not None:
            smallest = 10.0**-self._decimals
            levels = (np.maximum(span[1] - span[0], smallest) for span in (self._bounds, _beyond(seen)))
            bits = [np.log2(span / smallest) for span in levels]
            if np.mean(bits[0] - bits[1]) > _BITS_TO_SAVE:
                self._codec = None

    def __call__(self, rows: NDArray[Any]) -> RoundClamp:
        """Returns the codec of some rows, floats (rows, D)."""
        found = np.stack([rows.min(axis=0), rows.max(axis=0)]).astype(np.float64)
        if self._seen is not None:
            found = np.stack([np.minimum(found[0], self._seen[0]), np.maximum(found[1], self._seen[1])])
        self._seen = found
        codec, bounds = self._codec, self._bounds
        if codec is None or bounds is None or not ((bounds[0] <= found[0]) & (found[1] <= bounds[1])).all():
            codec = codec_of_values(self._name, found.astype(rows.dtype), self._decimals, _MARGIN)
            self._codec, self._bounds = codec, np.array([codec.low, codec.high])
        return codec


def _beyond(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns bounds, (2, D), with the margin."""
    margin = _MARGIN * (bounds[1] - bounds[0])
    return np.stack([bounds[0] - margin, bounds[1] + margin])


class RoundedSteps(StepArray):
    """Floats, packed in blocks of rows.

    Args:
        num_steps: steps of a rollout.
        num_envs: environments.
        shape: of an observation.
        dtype: of its values.
        codec_of: returns the codec of a block of rows, given floats (rows, D).
        budget_bytes: see `StepArray`.

    Attributes:
        values_clamped: values that lay outside the bounds of their codec.
    """

    def __init__(
        self, num_steps: int, num_envs: int, shape: tuple[int, ...], dtype: np.dtype[Any],
        codec_of: Callable[[NDArray[Any]], RoundClamp], *, budget_bytes: int,
    ) -> None:  # fmt: skip
        num_bytes = num_steps * num_envs * math.prod(shape) * dtype.itemsize
        super().__init__(num_steps, num_envs, decoded_bytes=num_bytes, budget_bytes=budget_bytes)
        self._shape = shape
        self._codec_of = codec_of
        self._block_steps = min(num_steps, max(1, _BLOCK_ROWS // num_envs))
        self._staged: NDArray[Any] = np.empty((self._block_steps, num_envs, math.prod(shape)), dtype)
        self._dtype = dtype
        self._blocks: list[tuple[RoundClamp, NDArray[np.uint8]]] = []
        self.values_clamped = 0

    @property
    def nbytes(self) -> int:
        """Bytes of packed rows, of their codecs, and of the rows that wait to be packed."""
        num_codecs = len({id(codec) for codec, _ in self._blocks})
        codec_bytes = num_codecs * _CODEC_BYTES_PER_VALUE * math.prod(self._shape)
        return sum(packed.nbytes for _, packed in self._blocks) + codec_bytes + self._staged.nbytes

    def _set(self, step: int, observations: NDArray[Any]) -> None:
        place = step % self._block_steps
        self._staged[place] = observations.reshape(self._num_envs, -1)
        if place == self._block_steps - 1:
            self._pack(self._staged)

    def _pack(self, staged: NDArray[Any]) -> None:
        rows = staged.reshape(-1, staged.shape[-1])
        codec = self._codec_of(rows)
        packed, clamped = codec.encode_rows(rows)
        self.values_clamped += clamped
        self._blocks.append((codec, packed))

    def _finish(self) -> None:
        left = self._num_steps % self._block_steps
        if left:
            self._pack(self._staged[:left])
        self._staged = self._staged[:0].copy()

    def _decode_all(self) -> NDArray[Any]:
        return np.concatenate([codec.decode_rows(packed) for codec, packed in self._blocks])

    def _read(self, steps: NDArray[np.int64], envs: NDArray[np.int64], decoded: NDArray[Any] | None) -> NDArray[Any]:
        places = steps * self._num_envs + envs  # in the order in which rows were packed
        out: NDArray[Any] = np.empty((len(places), math.prod(self._shape)), self._dtype)
        if decoded is not None:
            out[:] = decoded[places]
            return out.reshape(-1, *self._shape)
        blocks, rows = np.divmod(places, self._block_steps * self._num_envs)
        for block in np.unique(blocks).tolist():
            targets = np.flatnonzero(blocks == block)
            codec, packed = self._blocks[block]
            codec.decode_rows(packed, out, rows[targets], targets)
        return out.reshape(-1, *self._shape)
