"""Evaluates an agent without exploration, and films it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from experiments.drqv2.agent import Agent
from experiments.drqv2.environment import Environment
from replaystore.collect import CollectConfig
from replaystore.errors import MissingDependency

_SEED_OFFSET = 1_000_003  # evaluation plays other episodes than training
_FRAMES_PER_SECOND = 30
_SCALE = 4  # enlarges the pixels of a video; even, because the encoder needs even sizes


def evaluate(
    agent: Agent, config: CollectConfig, *, episodes: int, seed: int, video: Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> float:  # fmt: skip
    """Returns the mean reward per episode.

    Args:
        video: file for a video of the first episode, or None for no video.
        on_step: called before every step with the number of the episode, from 0 on, and the rows after its reset.
    """
    total = 0.0
    with closing(Environment(config, seed + _SEED_OFFSET)) as environment:
        for number in range(episodes):
            step = environment.reset()
            pictures = [step.observation]
            while not step.last():
                if on_step is not None:
                    on_step(number, step.number)
                step = environment.step(agent.act(step.observation, 0, explore=False))
                total += step.reward
                if video is not None and number == 0:
                    pictures.append(step.observation)
            if video is not None and number == 0:
                write_video(video, newest_frames(pictures, config.frame_stack))
    return total / episodes


def newest_frames(observations: list[npt.NDArray[np.uint8]], frame_stack: int) -> npt.NDArray[np.uint8]:
    """Returns the newest frame of each stack (channel, height, width), as uint8 (row, height, width, 3)."""
    channels = observations[0].shape[0] // frame_stack
    frames = np.stack([stack[-channels:] for stack in observations]).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(np.broadcast_to(frames, (*frames.shape[:3], 3)))


def check_video() -> None:
    """Raises `MissingDependency` if no video can be written."""
    try:
        import av  # noqa: F401
        import imageio.v3  # noqa: F401
    except ImportError as err:
        raise MissingDependency(
            f"save_video=true: expected imageio and av, found {err}; pip install 'replaystore[drqv2]',"
            " or pass save_video=false"
        ) from err


def write_video(path: Path, frames: npt.NDArray[np.uint8]) -> None:
    """Writes an MP4 file of uint8 frames (row, height, width, 3), four times as wide and high."""
    check_video()
    import imageio.v3

    path.parent.mkdir(parents=True, exist_ok=True)
    large = frames.repeat(_SCALE, axis=1).repeat(_SCALE, axis=2)
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    imageio.v3.imwrite(temporary, large, plugin="pyav", codec="libx264", fps=_FRAMES_PER_SECOND)
    temporary.rename(path)
