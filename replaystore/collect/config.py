"""Describes what to record."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from replaystore.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """What `collect` records. The defaults are DrQ-v2's setting, except for the number of episodes.

    >>> CollectConfig(task="walker_walk", grayscale=True).observation_shape
    (3, 84, 84)

    Attributes:
        task: `domain_task`, such as `"walker_walk"`, `"point_mass_easy"` or `"cup_catch"`.
        episodes: number of episodes, numbered from 0.
        seed: seed. The actions and the environment's randomness depend only on it and on the episode's number.
        frame_stack: frames in an observation, oldest first. The first frame is repeated at the reset.
        action_repeat: environment steps per row.
        image_size: height and width of a frame in pixels.
        max_steps: most rows after the reset. None records until the task ends.
        grayscale: one luma channel instead of RGB: (299 R + 587 G + 114 B) / 1000 (ITU-R 601), rounded half up.
        black_floor: makes the ground's material black and matt in the compiled model. Sky and robot stay as they are.
        fast_render: renders without shadows and multisampling. That is several times faster and changes the images.
        action_dtype: dtype of the recorded actions, `"float32"` (as DrQ-v2 intends) or `"float64"`.
        action_spread: standard deviation of the random actions before they are clipped to [-1, 1].
        action_smoothness: correlation of a row's action with the next one, from 0 up to but not including 1.

    Raises:
        SpecError: a value cannot work.
    """

    task: str
    episodes: int = 1
    seed: int = 0
    frame_stack: int = 3
    action_repeat: int = 2
    image_size: int = 84
    max_steps: int | None = None
    grayscale: bool = False
    black_floor: bool = False
    fast_render: bool = False
    action_dtype: Literal["float32", "float64"] = "float32"
    action_spread: float = 0.7
    action_smoothness: float = 0.9

    def __post_init__(self) -> None:
        if not isinstance(self.task, str) or not re.fullmatch(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)+", self.task):
            raise SpecError(f"task: expected domain_task as in 'walker_walk', got {self.task!r}")
        self._check_whole("episodes", 0, 10**12)
        self._check_whole("seed", 0, 2**64 - 1)
        self._check_whole("frame_stack", 1, 64)
        self._check_whole("action_repeat", 1, 1000)
        self._check_whole("image_size", 1, 4096)
        if self.max_steps is not None:
            self._check_whole("max_steps", 1, 10**9)
        if self.action_dtype not in ("float32", "float64"):
            raise SpecError(f"action_dtype: expected 'float32' or 'float64', got {self.action_dtype!r}")
        if not 0.0 <= self.action_spread <= 10.0:
            raise SpecError(f"action_spread: expected 0 to 10, got {self.action_spread!r}")
        if not 0.0 <= self.action_smoothness < 1.0:
            raise SpecError(f"action_smoothness: expected 0 up to but not including 1, got {self.action_smoothness!r}")

    def _check_whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise SpecError(f"{name}: expected a whole number from {low} to {high}, got {value!r}")

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """Shape of one row of `observation`: (channel, height, width), with the frames joined along the channels."""
        channels = 1 if self.grayscale else 3
        return (channels * self.frame_stack, self.image_size, self.image_size)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data. `CollectConfig(**data)` makes an equal configuration."""
        return asdict(self)
