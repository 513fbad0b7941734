"""Observations of stacked images: each frame once, as its difference to a neighbour."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from replaystore.adapters.sb3.step_arrays import StepArray
from replaystore.codecs.frame_delta import FrameDelta
from replaystore.episodes.stacks import StackOrder, by_frame, copy_frames
from replaystore.spec import FieldSpec

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

_ZEROS = -1  # a frame of zeros, which VecFrameStack puts before the first frame of an episode


class _Frames:
    """The frames of one environment in the order of time, encoded block by block."""

    def __init__(self, codec: FrameDelta, frame_shape: tuple[int, ...]) -> None:
        self._codec = codec
        self._staged = np.empty((codec.group_rows, *frame_shape), np.uint8)
        self._num_staged = 0
        self.chunks: list[bytes] = []

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.chunks)) + self._staged.nbytes

    def push(self, frame: U8) -> int:
        """Adds a frame. Returns its number."""
        number = len(self.chunks) * self._codec.group_rows + self._num_staged
        self._staged[self._num_staged] = frame
        self._num_staged += 1
        if self._num_staged == len(self._staged):
            self._encode()
        return number

    def _encode(self) -> None:
        self.chunks.append(self._codec.encode_frames(self._staged[: self._num_staged]))
        self._num_staged = 0

    def finish(self) -> None:
        """Encodes the frames that wait. No frame comes after them."""
        if self._num_staged:
            self._encode()
        self._staged = self._staged[:0].copy()

    def read(self, numbers: I64, out: U8) -> None:
        """Decodes frames, in any order, into `out`, uint8 (n, *frame_shape)."""
        chunks, rows = np.divmod(numbers, self._codec.group_rows)
        for chunk in np.unique(chunks).tolist():
            places = np.flatnonzero(chunks == chunk)
            out[places] = self._codec.decode_rows(self.chunks[chunk], rows[places])


class DeltaSteps(StepArray):
    """Stacked images of any number of environments. Nothing is lost, whatever the stacks hold.

    A stack that goes on from the one before adds its newest frame. Any other stack adds all its frames, but for zeros
    and repetitions. So the stacks of the first step keep the frames from before it.

    Args:
        num_steps: steps of a rollout.
        num_envs: environments.
        field: the images and their stack.
        budget_bytes: see `StepArray`.
        keyframe_interval: see `FrameDelta`.
    """

    def __init__(
        self, num_steps: int, num_envs: int, field: FieldSpec, *, budget_bytes: int, keyframe_interval: int
    ) -> None:
        stack, frame_bytes = field.frame_stack, math.prod(field.shape)
        decoded_bytes = num_steps * num_envs * frame_bytes
        super().__init__(num_steps, num_envs, decoded_bytes=decoded_bytes, budget_bytes=budget_bytes)
        self._field = field
        codec = FrameDelta(
            frame_shape=field.shape, channels=field.channels or "first", keyframe_interval=keyframe_interval
        )
        self._frames = [_Frames(codec, field.shape) for _ in range(num_envs)]
        numbers = np.min_scalar_type(-num_steps * stack)
        self._numbers = np.zeros((num_steps, num_envs, stack), numbers)  # frames of each stack, oldest first
        self._order = StackOrder(field) if stack > 1 else None
        self._last = np.empty((num_envs, stack * frame_bytes), np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of encoded frames, of the numbers of each stack's frames, and of frames that wait to be encoded."""
        return sum(frames.nbytes for frames in self._frames) + self._numbers.nbytes + self._last.nbytes

    def _set(self, step: int, observations: NDArray[np.uint8]) -> None:
        flat = observations.reshape(self._num_envs, -1)
        windows = by_frame(self._field, observations)
        breaks = np.ones(self._num_envs, bool)
        if step and self._order is not None:
            breaks = self._order.breaks(self._last, flat)
        for env, frames in enumerate(self._frames):
            numbers = self._numbers[step, env]
            if breaks[env]:
                numbers[:] = self._push_all(frames, windows[env])
            else:
                numbers[:-1] = self._numbers[step - 1, env, 1:]
                numbers[-1] = frames.push(windows[env, -1])
        self._last[:] = flat

    @staticmethod
    def _push_all(frames: _Frames, window: U8) -> list[int]:
        numbers: list[int] = []
        for k, frame in enumerate(window):
            if k and np.array_equal(frame, window[k - 1]):
                numbers.append(numbers[-1])
            else:
                numbers.append(frames.push(frame) if frame.any() else _ZEROS)
        return numbers

    def _finish(self) -> None:
        for frames in self._frames:
            frames.finish()
        self._last = self._last[:0].copy()

    def _first_numbers(self) -> I64:
        """Returns the place of each environment's first frame, if those of all are in a row after one of zeros."""
        counts = self._numbers.max(axis=(0, 2)).astype(np.int64) + 1
        return 1 + np.concatenate([[0], np.cumsum(counts)])

    def _decode_all(self) -> U8:
        first = self._first_numbers()
        decoded = np.zeros((first[-1], *self._field.shape), np.uint8)
        for env, frames in enumerate(self._frames):
            frames.read(np.arange(first[env + 1] - first[env]), decoded[first[env] : first[env + 1]])
        return decoded

    def _read(self, steps: I64, envs: I64, decoded: U8 | None) -> U8:
        numbers = self._numbers[steps, envs].astype(np.int64)  # (row, frame of the stack)
        first = self._first_numbers()
        places = np.where(numbers == _ZEROS, 0, numbers + first[envs][:, None])
        if decoded is None:
            needed, places = np.unique(places, return_inverse=True)
            decoded = np.zeros((len(needed), *self._field.shape), np.uint8)
            for env, frames in enumerate(self._frames):
                chosen = np.flatnonzero((needed >= first[env]) & (needed < first[env + 1]))
                if chosen.size:
                    decoded[chosen] = self._read_frames(frames, needed[chosen] - first[env])
        out = np.empty((len(steps), *self._field.stacked_shape), np.uint8)
        windows = by_frame(self._field, out)
        for k in range(windows.shape[1]):
            copy_frames(self._field, decoded[places[:, k]], windows[:, k])
        return out

    def _read_frames(self, frames: _Frames, numbers: I64) -> U8:
        out = np.empty((len(numbers), *self._field.shape), np.uint8)
        frames.read(numbers, out)
        return out
