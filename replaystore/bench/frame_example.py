"""Shows two neighbouring frames of an episode and their difference, as pictures."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.bench.paging_result import FrameExample
from replaystore.episodes.stacks import by_frame
from replaystore.runtime.extras import needs
from replaystore.spec import FieldSpec

with needs("pictures of `bench`", "bench"):
    from matplotlib.image import imsave

Array = npt.NDArray[Any]

_MAX_GAIN = 16.0


def _png(picture: Array) -> str:
    """Returns the base64 of a PNG of `picture`, uint8 (height, width, 3)."""
    file = io.BytesIO()
    imsave(file, picture, format="png")
    return base64.b64encode(file.getvalue()).decode()


def _channels_last(spec: FieldSpec, frames: Array) -> Array:
    """Returns a view of frames, (rows, *shape), as (rows, height, width, channel)."""
    if len(spec.shape) == 2:
        return frames[..., None]
    return np.moveaxis(frames, 1, -1) if spec.channels == "first" else frames


def _as_rgb(picture: Array) -> Array:
    """Returns uint8 (height, width, 3). If there are not 3 channels, the first is shown as gray."""
    return np.ascontiguousarray(picture if picture.shape[-1] == 3 else np.repeat(picture[..., :1], 3, axis=-1))


def frame_example(spec: FieldSpec, stacks: Array, episode_file: str) -> FrameExample:
    """Returns the pair of neighbouring frames with the median number of changed pixels.

    That is neither the best case nor the worst.

    Args:
        spec: an image field.
        stacks: (rows, *stacked_shape) uint8, at least two rows of an episode.
        episode_file: name of the episode's file.
    """
    frames = _channels_last(spec, by_frame(spec, stacks)[:, -1])  # (row, height, width, channel)
    changed = np.array([(frames[t] != frames[t - 1]).any(axis=-1).mean() for t in range(1, len(frames))])
    row = 1 + int(changed.argsort(kind="stable")[len(changed) // 2])
    difference = np.abs(frames[row].astype(np.int16) - frames[row - 1])
    moderate = np.percentile(difference[difference > 0], 75) if difference.any() else 255.0
    gain = float(np.clip(255 / moderate, 1, _MAX_GAIN).round(1))
    amplified = np.minimum(difference * gain, 255).astype(np.uint8)
    return FrameExample(
        field=spec.name,
        episode_file=episode_file,
        row=row,
        frame_shape=spec.shape,
        frame_bytes=frames[0].nbytes,
        stack_bytes=stacks[0].nbytes,
        changed_fraction=float(changed[row - 1]),
        difference_gain=gain,
        previous_png=_png(_as_rgb(frames[row - 1])),
        current_png=_png(_as_rgb(frames[row])),
        difference_png=_png(_as_rgb(amplified)),
    )
