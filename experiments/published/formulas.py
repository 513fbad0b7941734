"""Calculators for published sizes, to compare with measured ones. The store does not use them.

Sources, by the names used below:

- *Just Round*: the paper on rounding and clamping stored observations of proximal policy optimization (PPO) and soft
  actor-critic (SAC), code in A2R-Lab/Just-Round.
- *Differentially Encoded Observation Spaces*: the paper on storing frames as differences to keyframes, code in
  A2R-Lab/DiffCompressDRL and A2R-Lab/drqv2_compress.

Sizes are in bytes. A MB has 10**6 bytes.
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
    """Returns the bits that one rounded and clamped value needs: ceil(log2(number of levels)).

    >>> packed_bits(1, -127.0, 127.0), packed_bits(2, -127.0, 127.0)
    (12, 15)
    """
    first, last = level_bounds(decimals, low, high)
    if last < first:
        raise SpecError(f"packed_bits: expected low <= high, got {low} and {high}")
    return (last - first).bit_length()


def published_bits(decimals: int, bound: float) -> int:
    """Returns the bits of a value with m `decimals`, clamped to +-b (`bound`): 1 + ceil(log2 b) + ceil(m log2 10).

    Source: Just Round, size of a quantized value. The formula has no asymmetric bounds. If `bound` is a power of two
    and `decimals` is 0, it gives one bit less than the levels need (see `packed_bits`).

    Raises:
        SpecError: `decimals` is negative or `bound` is below 1, which the formula does not cover.
    """
    if decimals < 0 or not 1 <= bound < math.inf:
        raise SpecError(f"published_bits: expected decimals >= 0 and a finite bound >= 1, got {decimals} and {bound}")
    return 1 + math.ceil(math.log2(bound)) + math.ceil(decimals * math.log2(10))


def published_observation_bytes(
    *, num_rows: int, frame_stack: int, stored_pixels: float, frame_side: int = 84, num_keyframes: float | None = None
) -> float:
    """Returns the bytes of a compressed observation buffer: I**2 d + 8 d (f - 1) + 4 N + 4 |D| f.

    Source: Differentially Encoded Observation Spaces, equation 3. I is `frame_side` of a grayscale frame. d is the
    number of keyframes, by default |D| / f, one per stack. f is `frame_stack`, and |D| is `num_rows`. N is
    `stored_pixels` over all rows, or its maximum over training if the buffer is overwritten. A pixel takes 1 + 1 bytes
    of position and 2 of difference. A frame in which a quarter of the pixels changed is not smaller as differences.
    Stored raw it counts as I**2 / 4 pixels.
    """
    keyframes = num_rows / frame_stack if num_keyframes is None else num_keyframes
    raw = frame_side**2 * keyframes
    return raw + 8 * keyframes * (frame_stack - 1) + 4 * stored_pixels + 4 * num_rows * frame_stack


def published_observation_factor(
    *, num_rows: int, frame_stack: int, stored_pixels: float, frame_side: int = 84, num_keyframes: float | None = None
) -> float:
    """Returns the factor against raw stacks: I**2 |D| f over `published_observation_bytes` of the same arguments.

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
    """Returns the same factor from the mean n of `changed_pixels` per frame: 1764 f / ((1762 - n) / f + 2 + n + f).

    Source: Differentially Encoded Observation Spaces, equation 5. There 1764 is 84**2 / 4, which is
    `frame_side`**2 / 4 here, and 1762 is two less. In print the last "+ f" of the denominator is missing, and
    `as_printed` leaves it out too. The mean n is over frames that are not keyframes, so N = n |D| (f - 1) / f in
    equation 4.
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
    """Returns the bytes of a buffer with observations, actions and one reward per row, for the given bits per value.

    Source: Just Round, size of the stored experience. Its baseline holds 64-bit floats. Its "over 27 MB" are 8,300 rows
    of 391 and 16 values. Its 96.8 MB are 10**5 rows of 112 and 8 values, not the 10**6 rows in print.

    >>> round(buffer_bytes(num_rows=8300, observation_dims=391, action_dims=16) / 1e6, 2)
    27.09
    """
    row_bits = observation_dims * observation_bits + action_dims * action_bits + reward_bits
    return num_rows * row_bits / 8


def network_bytes(layer_sizes: Sequence[int], *, bytes_per_weight: int = 4) -> int:
    """Returns the bytes of the weights and biases of fully connected layers, with `layer_sizes` from input to output.

    >>> network_bytes([391, 256, 256, 16])
    681024
    """
    return bytes_per_weight * sum((inputs + 1) * outputs for inputs, outputs in pairwise(layer_sizes))


def training_bytes(algorithm: Algorithm, *, policy_bytes: float, value_bytes: float, buffer_bytes: float) -> float:
    """Returns the bytes of policy, buffer, and value network (PPO) or two Q networks (SAC) of `value_bytes` each.

    Source: Just Round, size of training.
    """
    if algorithm not in _VALUE_NETWORKS:
        raise SpecError(f"training_bytes: expected an algorithm of {tuple(_VALUE_NETWORKS)}, got {algorithm!r}")
    return policy_bytes + _VALUE_NETWORKS[algorithm] * value_bytes + buffer_bytes


def average_factor(raw_bytes: Sequence[float], stored_bytes: Sequence[float]) -> float:
    """Returns the average factor over tasks: mean raw bytes over mean stored bytes. Both have one entry per task.

    Differentially Encoded Observation Spaces published this ratio of means as an average (8.9 and 9.9 for Atari). The
    mean of the factors is larger, so report the factor of each task too.

    Raises:
        SpecError: there are no tasks, the sequences differ in length, or nothing is stored.
    """
    if not raw_bytes or len(raw_bytes) != len(stored_bytes) or sum(stored_bytes) <= 0:
        raise SpecError(
            f"average_factor: expected raw and stored bytes of the same tasks, got {len(raw_bytes)} and"
            f" {len(stored_bytes)} entries, {sum(stored_bytes)} bytes stored"
        )
    return sum(raw_bytes) / sum(stored_bytes)


ATARI_FACTORS = {"ppo": 8.9, "qrdqn": 9.9}
"""Published factors of the observations of ten Atari games: Differentially Encoded Observation Spaces, table II."""

JUST_ROUND_DIMS = {"Walker2d": (17, 6), "HalfCheetah": (17, 6), "Ant": (111, 8), "Humanoid": (376, 17)}
"""Values of an observation and of an action, of the versions of these tasks that Just Round has."""

JUST_ROUND_FACTORS = {
    "ppo": {"Walker2d": 2.16, "HalfCheetah": 2.16, "Ant": 3.69, "Humanoid": 4.18},
    "sac": {"Walker2d": 2.63, "HalfCheetah": 2.63, "Ant": 3.74, "Humanoid": 3.95},
}
"""Factors of the memory of training in figure 2 of Just Round, recomputed from its conventions. They agree with it."""


def just_round_bytes(algorithm: Algorithm, observation_dims: int, action_dims: int, bits: int) -> tuple[float, float]:
    """Returns the bytes of the buffer and of the networks, in the convention of figure 2 of Just Round.

    One copy of the observations, `bits` per value, 64 without rounding. Actions have 4 bytes per value. A row has 24
    bytes more in the 2,048 rows of PPO, and 8 in the 10**6 of SAC. Networks are float32, with two layers of 64, one
    policy and one value network (PPO) or two (SAC), without target networks.

    >>> [round(sum(just_round_bytes("sac", 376, 17, bits)) / 2**20) for bits in (64, 15)]
    [2941, 745]
    """
    rows, others = (2048, 24) if algorithm == "ppo" else (10**6, 8)
    buffer = rows * (observation_dims * bits / 8 + 4 * action_dims + others)
    policy = network_bytes([observation_dims, 64, 64, action_dims])
    inputs = observation_dims + (action_dims if algorithm == "sac" else 0)
    networks = policy + _VALUE_NETWORKS[algorithm] * network_bytes([inputs, 64, 64, 1])
    return buffer, networks
