"""Calculators for published sizes, to put beside measured ones. None of them decides how anything is stored.

Sources, by the names used below:

- *Just Round*: the paper on rounding and clamping stored observations of proximal policy optimization (PPO) and soft
  actor-critic (SAC), code in A2R-Lab/Just-Round.
- *Differentially Encoded Observation Spaces*: the paper on storing frames as differences to keyframes, code in
  A2R-Lab/DiffCompressDRL and A2R-Lab/drqv2_compress.

Sizes are in bytes, MB means 10**6 of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from replaystore.codecs.round_clamp.levels import level_bounds
from replaystore.errors import SpecError

Algorithm = Literal["ppo", "sac"]

_VALUE_NETWORKS: dict[str, int] = {"ppo": 1, "sac": 2}


def packed_bits(decimals: int, low: float, high: float) -> int:
    """Bits that one rounded and clamped value needs: ceil(log2(number of levels)); 0 where there is one level.

    >>> packed_bits(1, -127.0, 127.0), packed_bits(2, -127.0, 127.0)
    (12, 15)
    """
    first, last = level_bounds(decimals, low, high)
    if last < first:
        raise SpecError(f"packed_bits: expected low <= high, got {low} and {high}")
    return (last - first).bit_length()


def published_bits(decimals: int, bound: float) -> int:
    """Bits of a value rounded to `decimals` and clamped to +-`bound`: 1 + ceil(log2 b) + ceil(m log2 10).

    Source: Just Round, its size of a quantized value. It knows no asymmetric bounds, and for a `bound` that is a power
    of two and `decimals` 0 it is one bit short of what the levels need (see `packed_bits`).

    Raises:
        SpecError: `decimals` is negative or `bound` below 1, for which the formula was not made.
    """
    if decimals < 0 or not 1 <= bound < math.inf:
        raise SpecError(f"published_bits: expected decimals >= 0 and a finite bound >= 1, got {decimals} and {bound}")
    return 1 + math.ceil(math.log2(bound)) + math.ceil(decimals * math.log2(10))


def published_observation_bytes(
    *, num_rows: int, frame_stack: int, stored_pixels: float, frame_side: int = 84, num_keyframes: float | None = None
) -> float:
    """Bytes of a compressed observation buffer: I**2 d + 8 d (f - 1) + 4 N + 4 |D| f.

    Source: Differentially Encoded Observation Spaces, equation 3. I is `frame_side` of a grayscale frame, d the
    keyframes (default |D| / f, one a stack), f `frame_stack`, N `stored_pixels` (over all rows; where a buffer is
    written over, its maximum over training) at 1 + 1 bytes of position and 2 of difference, |D| `num_rows`. A frame in
    which a quarter of the pixels changed is no smaller as differences; stored raw it counts as I**2 / 4 pixels.
    """
    keyframes = num_rows / frame_stack if num_keyframes is None else num_keyframes
    raw = frame_side**2 * keyframes
    return raw + 8 * keyframes * (frame_stack - 1) + 4 * stored_pixels + 4 * num_rows * frame_stack


def published_observation_factor(
    *, num_rows: int, frame_stack: int, stored_pixels: float, frame_side: int = 84, num_keyframes: float | None = None
) -> float:
    """How many times smaller than raw stacks: I**2 |D| f over `published_observation_bytes` of the same arguments.

    Source: Differentially Encoded Observation Spaces, equation 4.
    """
    stored = published_observation_bytes(
        num_rows=num_rows,
        frame_stack=frame_stack,
        stored_pixels=stored_pixels,
        frame_side=frame_side,
        num_keyframes=num_keyframes,
    )
    return frame_side**2 * num_rows * frame_stack / stored


def simplified_observation_factor(
    changed_pixels: float, frame_stack: int, *, frame_side: int = 84, as_printed: bool = False
) -> float:
    """The same factor from n = `changed_pixels`, the mean of a frame: 1764 f / ((1762 - n) / f + 2 + n + f).

    Source: Differentially Encoded Observation Spaces, equation 5, where 1764 is 84**2 / 4 (here
    `frame_side`**2 / 4) and 1762 two less. In print the last "+ f" of the denominator is missing; `as_printed` leaves
    it out too. n is the mean over the frames that are not keyframes, so N = n |D| (f - 1) / f in equation 4.
    """
    quarter = frame_side**2 / 4
    denominator = (quarter - 2 - changed_pixels) / frame_stack + 2 + changed_pixels
    return quarter * frame_stack / (denominator if as_printed else denominator + frame_stack)


def buffer_bytes(
    *,
    num_rows: int,
    observation_dims: int,
    action_dims: int,
    observation_bits: float = 64,
    action_bits: float = 64,
    reward_bits: float = 64,
) -> float:
    """Bytes of a buffer of observations, actions and one reward a row, at so many bits a value.

    Source: Just Round, size of the stored experience; its baseline holds 64-bit floats. Its "over 27 MB" are 8,300 rows
    of 391 and 16 values; its 96.8 MB are 10**5 rows (not the 10**6 in print) of 112 and 8.

    >>> round(buffer_bytes(num_rows=8300, observation_dims=391, action_dims=16) / 1e6, 2)
    27.09
    """
    row_bits = observation_dims * observation_bits + action_dims * action_bits + reward_bits
    return num_rows * row_bits / 8


def network_bytes(layer_sizes: Sequence[int], *, bytes_per_weight: int = 4) -> int:
    """Bytes of the weights and biases of fully connected layers, `layer_sizes` from input to output.

    >>> network_bytes([391, 256, 256, 16])
    681024
    """
    return bytes_per_weight * sum((inputs + 1) * outputs for inputs, outputs in pairwise(layer_sizes))


def training_bytes(algorithm: Algorithm, *, policy_bytes: float, value_bytes: float, buffer_bytes: float) -> float:
    """Size of training: the policy, the value network (PPO) or two Q networks (SAC) of `value_bytes`, the buffer.

    Source: Just Round, size of training.
    """
    if algorithm not in _VALUE_NETWORKS:
        raise SpecError(f"training_bytes: expected an algorithm of {tuple(_VALUE_NETWORKS)}, got {algorithm!r}")
    return policy_bytes + _VALUE_NETWORKS[algorithm] * value_bytes + buffer_bytes


def average_factor(raw_bytes: Sequence[float], stored_bytes: Sequence[float]) -> float:
    """The average factor over tasks: mean raw bytes over mean stored bytes, one entry a task in each.

    This ratio of means is what was published as an average (8.9 and 9.9 for Atari, Differentially Encoded Observation
    Spaces); the mean of the tasks' factors is larger. Give each task's factor beside it.

    Raises:
        SpecError: no tasks, sequences of different length, or nothing stored.
    """
    if not raw_bytes or len(raw_bytes) != len(stored_bytes) or sum(stored_bytes) <= 0:
        raise SpecError(
            f"average_factor: expected raw and stored bytes of the same tasks, got {len(raw_bytes)} and"
            f" {len(stored_bytes)} entries, {sum(stored_bytes)} bytes stored"
        )
    return sum(raw_bytes) / sum(stored_bytes)
