"""Brings frames to payload form: channels moved to the end, and green subtracted from red and blue, modulo 256."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.kernels.compiled import kernel
from replaystore.kernels.observations import copy_bytes

U8 = NDArray[np.uint8]


@kernel
def _interleave_three(red: U8, green: U8, blue: U8, subtract_green: bool, target: U8) -> None:
    # Slices that start at 0 and constant strides let the compiler shuffle whole vectors.
    if subtract_green:
        for i in range(green.size):
            target[3 * i] = np.uint8(red[i] - green[i])
            target[3 * i + 1] = green[i]
            target[3 * i + 2] = np.uint8(blue[i] - green[i])
    else:
        for i in range(green.size):
            target[3 * i] = red[i]
            target[3 * i + 1] = green[i]
            target[3 * i + 2] = blue[i]


@kernel
def to_payload(
    frames: U8, num_channels: int, source_last: bool, target_last: bool, subtract_green: bool, out: U8
) -> None:
    """Brings frames to payload form.

    Args:
        frames: uint8 (rows, frame bytes), C-contiguous.
        num_channels: bytes of a pixel, 3 with `subtract_green`.
        source_last: whether the channels of a frame are last.
        target_last: whether those of the payload are. Channels do not move to the front.
        subtract_green: whether red and blue become differences to green.
        out: uint8, like `frames`, filled. It may be `frames` if no channels move.
    """
    pixels = frames.shape[1] // num_channels
    step, plane = (num_channels, 1) if target_last else (1, pixels)
    for row in range(frames.shape[0]):
        source, target = frames[row], out[row]
        if target_last and not source_last:
            if num_channels == 3:
                red, green, blue = source[:pixels], source[pixels : 2 * pixels], source[2 * pixels :]
                _interleave_three(red, green, blue, subtract_green, target)
                continue
            for c in range(num_channels):
                for i in range(pixels):
                    target[i * num_channels + c] = source[c * pixels + i]
        else:
            copy_bytes(source, target)
        if subtract_green:
            for i in range(pixels):
                green_at = plane + i * step
                target[green_at - plane] = np.uint8(target[green_at - plane] - target[green_at])
                target[green_at + plane] = np.uint8(target[green_at + plane] - target[green_at])
