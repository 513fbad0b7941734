"""An environment as DrQ-v2 sees it: repeated actions in [-1, 1], stacked frames, channels first."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.collect.config import CollectConfig
from replaystore.collect.rendering import ensure_rendering
from replaystore.errors import SpecError

_DOMAIN_ALIASES = {"cup": "ball_in_cup", "pointmass": "point_mass"}
_CAMERAS = {"quadruped": 2}
_UPRIGHT = 0.999  # cosine between a ground's normal and up


@dataclass(frozen=True)
class Row:
    """One time step: an observation and what led to it.

    Attributes:
        observation: (channel, height, width) uint8, `frame_stack` frames, oldest first.
        action: (action,) in [-1, 1]. Zeros at the reset.
        reward: sum over the repeats. 0 at the reset.
        discount: product over the repeats. 1 at the reset, 0 if the task itself ended.
        last: whether the episode ends here.
    """

    observation: npt.NDArray[np.uint8]
    action: npt.NDArray[np.floating[Any]]
    reward: float
    discount: float
    last: bool


class PixelEnvironment:
    """A task of the suite with pixel observations. Make one per episode, because tasks may keep state.

    Args:
        config: the task and how to render it.
        seed: seed of the task's own randomness, 32 bits.

    Raises:
        SpecError: the suite has no such task, or its actions are unbounded.
        MissingDependency: dm_control is missing.
        RenderingUnavailable: OpenGL is missing.
    """

    def __init__(self, config: CollectConfig, seed: int) -> None:
        ensure_rendering()
        from dm_control import suite

        self._config = config
        domain, task = find_task(config.task, suite.ALL_TASKS)
        self._env = suite.load(domain, task, task_kwargs={"random": seed}, visualize_reward=False)
        self._physics = self._env.physics
        self._camera = _CAMERAS.get(domain, 0)
        self._render_flags: dict[str, bool] = {}
        if config.fast_render:
            # Read when the rendering context is made, at the first frame.
            self._physics.model.vis.quality.offsamples = 0
            self._physics.model.vis.quality.shadowsize = 0
            self._render_flags["shadow"] = False
        if config.black_floor:
            blacken_ground(self._physics.model)
        spec = self._env.action_spec()
        self._low = np.asarray(spec.minimum, np.float64)
        self._span = np.asarray(spec.maximum, np.float64) - self._low
        if not (np.isfinite(self._low).all() and np.isfinite(self._span).all()):
            raise SpecError(f"task {config.task!r}: expected bounded actions, found {spec}; record another task")
        self._frames: deque[npt.NDArray[np.uint8]] = deque(maxlen=config.frame_stack)

    @property
    def num_actions(self) -> int:
        """Dimensions of an action."""
        return int(self._low.size)

    def reset(self) -> Row:
        """Starts the episode. The first frame fills the whole stack."""
        self._env.reset()
        frame = self._render()
        self._frames.extend([frame] * self._config.frame_stack)
        action = np.zeros(self._low.shape, self._config.action_dtype)
        return Row(self._stack(), action, 0.0, 1.0, last=False)

    def step(self, action: npt.NDArray[np.floating[Any]]) -> Row:
        """Repeats `action`, (action,) in [-1, 1], `action_repeat` times or until the episode ends.

        Renders once, at the end.
        """
        control = self._low + self._span * (np.asarray(action, np.float64) + 1.0) / 2.0
        reward, discount, last = 0.0, 1.0, False
        for _ in range(self._config.action_repeat):
            time_step = self._env.step(control)
            reward += float(time_step.reward or 0.0) * discount
            discount *= 1.0 if time_step.discount is None else float(time_step.discount)
            last = bool(time_step.last())
            if last:
                break
        self._frames.append(self._render())
        return Row(self._stack(), action, reward, discount, last=last)

    def close(self) -> None:
        """Frees the physics and the rendering context."""
        self._env.close()

    def _render(self) -> npt.NDArray[np.uint8]:
        size = self._config.image_size
        pixels = self._physics.render(size, size, camera_id=self._camera, render_flag_overrides=self._render_flags)
        return luma(pixels) if self._config.grayscale else np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _stack(self) -> npt.NDArray[np.uint8]:
        return np.concatenate(self._frames, axis=0)


def find_task(name: str, known: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """Returns the domain and task of `domain_task`. Either may contain underscores. `cup` stands for `ball_in_cup`.

    >>> find_task("cup_catch", (("ball_in_cup", "catch"), ("point_mass", "easy")))
    ('ball_in_cup', 'catch')

    Args:
        name: domain and task, joined by an underscore.
        known: the pairs of domain and task to choose from.

    Raises:
        SpecError: there is no such task.
    """
    by_name = {f"{domain}_{task}": (domain, task) for domain, task in known}
    for alias, domain in _DOMAIN_ALIASES.items():
        if name.startswith(f"{alias}_"):
            name = f"{domain}_{name.removeprefix(f'{alias}_')}"
    if name not in by_name:
        close = difflib.get_close_matches(name, by_name) or sorted(by_name)
        raise SpecError(f"task: expected one of the suite, as {', '.join(close)}, got {name!r}")
    return by_name[name]


def blacken_ground(model: Any) -> None:
    """Makes every level plane or height field of a compiled model's world body black and matt."""
    from mujoco import mjtGeom

    kinds = (int(mjtGeom.mjGEOM_PLANE), int(mjtGeom.mjGEOM_HFIELD))
    for geom in range(model.ngeom):
        w, x, y, z = model.geom_quat[geom]
        up = w * w - x * x - y * y + z * z
        if model.geom_bodyid[geom] != 0 or int(model.geom_type[geom]) not in kinds or up < _UPRIGHT:
            continue
        model.geom_rgba[geom] = (0.0, 0.0, 0.0, 1.0)
        material = int(model.geom_matid[geom])
        if material >= 0:
            model.mat_rgba[material] = (0.0, 0.0, 0.0, 1.0)
            for shine in (model.mat_specular, model.mat_reflectance, model.mat_emission):
                shine[material] = 0.0


def luma(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Converts (height, width, 3) RGB to (1, height, width) luma of ITU-R 601, rounded half up. White stays 255.

    >>> luma(np.array([[[255, 255, 255], [1, 2, 3]]], np.uint8)).tolist()
    [[[255, 2]]]
    """
    weighted = pixels.astype(np.uint32) @ np.array([299, 587, 114], np.uint32)
    return ((weighted + 500) // 1000).astype(np.uint8)[None]


def smooth_actions(
    rng: np.random.Generator, num_actions: int, *, spread: float, smoothness: float
) -> Iterator[npt.NDArray[np.float64]]:
    """Yields random actions without end, (action,) in [-1, 1], each correlated with the one before.

    They are a stationary autoregressive process (Ornstein-Uhlenbeck at whole times): x' = a x + sqrt(1 - a^2) e. Here a
    is `smoothness`, and e is normal with standard deviation `spread`. Each x is clipped to [-1, 1].

    Args:
        rng: source of randomness.
        num_actions: dimensions of an action.
        spread: standard deviation before clipping.
        smoothness: correlation of an action with the next one.
    """
    state = rng.normal(0.0, spread, num_actions)
    while True:
        yield np.clip(state, -1.0, 1.0)
        state = smoothness * state + np.sqrt(1.0 - smoothness**2) * rng.normal(0.0, spread, num_actions)
