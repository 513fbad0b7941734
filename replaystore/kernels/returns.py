"""n-step returns in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.kernels.compiled import kernel
from replaystore.kernels.pointers import load_f32
from replaystore.kernels.windows import Ints

Floats = npt.NDArray[np.float32]


@kernel
def n_step_returns(reward: Floats, discount: Floats, gamma: Any, out_reward: Floats, out_discount: Floats) -> None:
    """Computes the discounted sum of rewards and the product of discounts of each row of steps, in float32.

    The loop is `R = 0, acc = 1; for k: R += acc * r[k]; acc *= d[k] * gamma`. Every operation is rounded to float32,
    without fused multiply-add or float64. So results equal a NumPy loop bit for bit.

    Args:
        reward: (batch, n_step) float32.
        discount: (batch, n_step) float32.
        gamma: float32. A wider float is rounded to float32 first.
        out_reward: (batch,) float32, filled with R.
        out_discount: (batch,) float32, filled with acc.

    Raises:
        ValueError: shapes do not fit.
    """
    batch, n_step = reward.shape
    if discount.shape != reward.shape or out_reward.shape[0] < batch or out_discount.shape[0] < batch:
        raise ValueError("n_step_returns: shapes of reward, discount and the outputs do not fit")
    step = np.float32(gamma)
    for b in range(batch):
        total = np.float32(0.0)
        product = np.float32(1.0)
        for k in range(n_step):
            total = np.float32(total + np.float32(product * reward[b, k]))
            product = np.float32(product * np.float32(discount[b, k] * step))
        out_reward[b] = total
        out_discount[b] = product


@kernel
def cached_returns(
    reward_base: int, rewards: npt.NDArray[np.uint8], discount_base: int, discounts: npt.NDArray[np.uint8], steps: Ints,
    gamma: Any, out_reward: Floats, out_discount: Floats,
) -> bool:  # fmt: skip
    """Computes `n_step_returns` from rewards and discounts that are in memory.

    Args:
        reward_base: the first row in `rewards`.
        rewards: (rows, 4) uint8, the bytes of float32 values.
        discount_base: the first row in `discounts`.
        discounts: (rows, 4) uint8, the bytes of float32 values.
        steps: (batch, n_step) int64, rows.
        gamma: float32. A wider float is rounded to float32 first.
        out_reward: (batch,) float32, filled with the sums.
        out_discount: (batch,) float32, filled with the products.

    Returns:
        Whether all rows are in memory. If not, the outputs are unchanged.

    Raises:
        ValueError: the outputs are too small, or rows do not have four bytes.
    """
    batch, n_step = steps.shape
    if out_reward.shape[0] < batch or out_discount.shape[0] < batch:
        raise ValueError("cached_returns: the outputs are smaller than the batch")
    if rewards.shape[1] != 4 or discounts.shape[1] != 4:
        raise ValueError("cached_returns: rewards or discounts are not float32")
    for b in range(batch):
        for k in range(n_step):
            r, d = steps[b, k] - reward_base, steps[b, k] - discount_base
            if r < 0 or d < 0 or r >= rewards.shape[0] or d >= discounts.shape[0]:
                return False
    reward, discount = np.int64(rewards.ctypes.data), np.int64(discounts.ctypes.data)
    step = np.float32(gamma)
    for b in range(batch):
        total = np.float32(0.0)
        product = np.float32(1.0)
        for k in range(n_step):
            total = np.float32(total + np.float32(product * load_f32(reward + 4 * (steps[b, k] - reward_base))))
            factor = np.float32(load_f32(discount + 4 * (steps[b, k] - discount_base)) * step)
            product = np.float32(product * factor)
        out_reward[b] = total
        out_discount[b] = product
    return True
