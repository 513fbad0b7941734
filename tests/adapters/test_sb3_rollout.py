"""Rollout buffers with encoded observations, compared draw by draw with those of stable-baselines3."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from replaystore import RoundClamp
from replaystore.adapters.sb3 import (
    DeltaDictRolloutBuffer,
    DeltaRolloutBuffer,
    RoundClampDictRolloutBuffer,
    RoundClampRolloutBuffer,
)
from replaystore.errors import EpisodeError, SpecError

STEPS = 70
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
TINY = 1  # a budget that no decoded rollout fits


def frames_of(env: int, step: int, shape: tuple[int, int], channels: int) -> np.ndarray:
    """A frame that tells the environment and the step: a square that moves over noise that stays."""
    frame = np.random.default_rng(env).integers(1, 60, (*shape, channels), np.uint8)
    frame[step % shape[0], :, :] = 100 + env
    frame[0, 0, :] = step % 251 + 1
    return frame


def stacked_rollout(num_envs: int, stack: int, channels: int, order: str, *, foreign: bool, offset: int) -> np.ndarray:
    """Observations (steps, envs, *stacked): episodes end at steps that differ by environment, with zeros after it.

    With `foreign`, some stacks hold frames that nobody saw before, in another order.
    """
    shape = (16, 12)
    rng = np.random.default_rng(offset + 17)
    rows = []
    history = [[np.zeros((*shape, channels), np.uint8)] * stack for _ in range(num_envs)]
    for step in range(-5, STEPS):
        observations = []
        for env in range(num_envs):
            if (step + 7 * env) % 23 == 0 and step > 0:
                history[env] = [np.zeros((*shape, channels), np.uint8)] * stack
            history[env] = [*history[env][1:], frames_of(env, step + offset, shape, channels)]
            chosen = history[env]
            if foreign and rng.random() < 0.2:
                chosen = [chosen[k] for k in rng.permutation(stack)]
            stacked = np.concatenate(chosen, axis=-1)
            observations.append(stacked if order == "last" else np.moveaxis(stacked, -1, 0))
        rows.append(np.stack(observations))
    return np.stack(rows)[5:]


def fill(buffer: RolloutBuffer, observations, seed: int) -> None:
    """Fills a rollout; all but the observations come from a generator."""
    rng = np.random.default_rng(seed)
    envs = buffer.n_envs
    for step in range(buffer.buffer_size):
        taken = {name: array[step] for name, array in observations.items()} if isinstance(observations, dict) else None
        buffer.add(
            observations[step] if taken is None else taken,
            rng.normal(size=(envs, 2)).astype(np.float32),
            rng.normal(size=envs),
            rng.random(envs) < 0.1,
            torch.from_numpy(rng.normal(size=envs)),
            torch.from_numpy(rng.normal(size=envs)),
        )
    buffer.compute_returns_and_advantage(torch.from_numpy(rng.normal(size=envs)), rng.random(envs) < 0.5)


def passes(buffer: RolloutBuffer, count: int = 2, batch_size: int | None = 13) -> list:
    np.random.seed(5)  # noqa: NPY002 - the generator of stable-baselines3
    return [batch for _ in range(count) for batch in buffer.get(batch_size)]


def assert_same(found: list, expected: list) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name, value in other._asdict().items():
            pairs = value.items() if isinstance(value, dict) else [(None, value)]
            for key, tensor in pairs:
                got = getattr(one, name) if key is None else getattr(one, name)[key]
                assert got.dtype == tensor.dtype, name
                assert torch.equal(got, tensor), name


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize(("num_envs", "stack", "channels"), [(1, 4, 1), (4, 4, 1), (2, 3, 3), (3, 1, 3), (2, 2, 1)])
def test_delta_equals_the_original(num_envs: int, stack: int, channels: int, order: str, foreign: bool) -> None:
    total = stack * channels
    space = spaces.Box(0, 255, (16, 12, total) if order == "last" else (total, 16, 12), np.uint8)
    arguments = (STEPS, space, ACTIONS, "cpu", 0.9, 0.97, num_envs)
    original = RolloutBuffer(*arguments)
    ours = [DeltaRolloutBuffer(*arguments, frame_stack=stack, budget_bytes=budget) for budget in (TINY, "1GiB")]
    for rollout in range(2):
        observations = stacked_rollout(num_envs, stack, channels, order, foreign=foreign, offset=100 * rollout)
        for buffer in (original, *ours):
            buffer.reset()
            fill(buffer, observations, rollout)
        expected = passes(original)
        for buffer in ours:
            assert_same(passes(buffer), expected)
            assert_same(passes(buffer, 1, None), passes(original, 1, None))


def test_delta_is_small() -> None:
    """Frames that move a little, 2 x 128 steps with stacks of 4: below a fortieth of the raw stacks."""
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    frames = np.zeros((2, 131, 84, 84), np.uint8) + np.random.default_rng(0).integers(0, 99, (2, 1, 84, 84), np.uint8)
    for step in range(131):
        frames[:, step, step % 80 : step % 80 + 4, 40:44] = 255
    buffer = DeltaRolloutBuffer(128, space, ACTIONS, "cpu", n_envs=2, frame_stack=4)
    raw = 2 * 128 * 4 * 84 * 84
    fill(buffer, np.stack([frames[:, step : step + 4] for step in range(128)]), 0)
    assert buffer.observation_bytes < raw / 40
    assert buffer.num_bytes - buffer.observation_bytes == 128 * 2 * (6 + 2) * 4
    before = buffer.observation_bytes
    batches = buffer.get(64)
    next(batches)
    assert buffer.observation_bytes == before
    batches.close()


def floats(num_envs: int, dtype: str, *, shape: tuple[int, ...] = (2, 3), scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(size=(STEPS, num_envs, *shape)), axis=0) * scale
    walk[..., 0] = np.arange(STEPS).reshape(-1, *[1] * (walk.ndim - 2))
    walk[STEPS // 2, 0] *= 50  # a row far beyond the others
    return walk.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("budget", [TINY, "1GiB"])
def test_rounded_equals_the_original_filled_with_rounded_values(dtype: str, num_envs: int, budget: int | str) -> None:
    space = spaces.Box(-np.inf, np.inf, (2, 3), dtype)
    arguments = (STEPS, space, ACTIONS, "cpu", 0.9, 0.97, num_envs)
    codec = RoundClamp(decimals=2, low=-9.0, high=60.0, dtype=dtype, row_size=6)
    observations = floats(num_envs, dtype)
    packed, clamped = codec.encode_rows(observations.reshape(-1, 6))
    rounded = codec.decode_rows(packed).reshape(observations.shape)
    assert clamped > 0
    original = RolloutBuffer(*arguments)
    ours = RoundClampRolloutBuffer(
        *arguments, round_clamp=RoundClamp(decimals=2, low=-9.0, high=60.0), budget_bytes=budget
    )
    for rollout in range(2):
        for buffer, values in ((original, rounded), (ours, observations)):
            buffer.reset()
            fill(buffer, values, rollout)
        assert_same(passes(ours), passes(original))
        assert ours.values_clamped == clamped


@pytest.mark.parametrize("num_envs", [1, 300])
def test_fitted_bounds_clamp_nothing(num_envs: int) -> None:
    """Even where later blocks go far beyond the first, and where the next rollout has other values."""
    space = spaces.Box(-np.inf, np.inf, (2, 3), np.float32)
    ours = RoundClampRolloutBuffer(STEPS, space, ACTIONS, "cpu", n_envs=num_envs)
    for scale in (1.0, 40.0, 0.01):
        observations = floats(num_envs, "float32", scale=scale)
        ours.reset()
        fill(ours, observations, 0)
        found = np.concatenate([batch.observations.numpy() for batch in passes(ours, 1)])
        rows = observations.swapaxes(0, 1).reshape(-1, 2, 3)
        np.random.seed(5)  # noqa: NPY002
        order = np.random.permutation(len(rows))  # noqa: NPY002
        np.testing.assert_allclose(found, rows[order], atol=0.005 * 1.0001, rtol=2e-7)
        assert ours.values_clamped == 0


def test_bounds_come_closer_with_the_next_rollout() -> None:
    space = spaces.Box(-np.inf, np.inf, (2, 3), np.float32)
    ours = RoundClampRolloutBuffer(STEPS, space, ACTIONS, "cpu")
    sizes = []
    for scale in (1000.0, 1.0, 1.0, 1.0):
        ours.reset()
        fill(ours, floats(1, "float32", scale=scale), 0)
        sizes.append(ours.observation_bytes)
    assert sizes[0] == sizes[1] > sizes[2] == sizes[3]


def test_a_dict_of_spaces() -> None:
    space = spaces.Dict(
        state=spaces.Box(-np.inf, np.inf, (3,), np.float64),
        camera=spaces.Box(0, 255, (4, 16, 12), np.uint8),
        goal=spaces.Discrete(5),
    )
    observations = {
        "state": np.round(floats(2, "float64", shape=(3,)), 2),
        "camera": stacked_rollout(2, 4, 1, "first", foreign=False, offset=0),
        "goal": np.arange(2 * STEPS).reshape(STEPS, 2) % 5,
    }
    arguments = (STEPS, space, ACTIONS, "cpu", 0.9, 0.97, 2)
    expected = DictRolloutBuffer(*arguments)
    fill(expected, observations, 0)
    delta = DeltaDictRolloutBuffer(*arguments, frame_stack=4)
    auto, named = (
        RoundClampDictRolloutBuffer(*arguments, round_clamp=choice)
        for choice in ("auto", {"state": RoundClamp(decimals=2, low=-9999.0, high=9999.0)})
    )
    plain = passes(expected)
    for buffer in (delta, auto, named):
        fill(buffer, observations, 0)
        assert_same(passes(buffer), plain)
    raw = observations["state"].nbytes
    assert auto.observation_bytes < named.observation_bytes < auto.observation_bytes + raw
    assert isinstance(delta.observations["state"], np.ndarray)


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_an_algorithm_learns_with_it(algorithm: type) -> None:
    """The same learning as with the original, if observations have no more decimals than are kept."""

    def learned(**options: object) -> dict[str, torch.Tensor]:
        env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0), norm_reward=True)
        model = algorithm("MlpPolicy", env, n_steps=32, seed=0, device="cpu", **options)
        model.learn(128)
        assert not options or isinstance(model.rollout_buffer, RoundClampRolloutBuffer)
        return model.policy.state_dict()

    fine = {"rollout_buffer_class": RoundClampRolloutBuffer, "rollout_buffer_kwargs": {"decimals": 7}}
    for name, tensor in learned().items():
        torch.testing.assert_close(learned(**fine)[name], tensor, atol=1e-4, rtol=1e-3)


BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (4, 16, 12), np.uint8)


@pytest.mark.parametrize(
    ("kind", "space", "options", "says"),
    [
        (RoundClampRolloutBuffer, IMAGE, {}, "expected a Box of floats among the observations"),
        (RoundClampRolloutBuffer, IMAGE, {"round_clamp": RoundClamp()}, "observation: expected a Box of floats"),
        (RoundClampRolloutBuffer, spaces.Discrete(3), {}, "expected a Box of floats among"),
        (
            RoundClampRolloutBuffer,
            BOX,
            {"round_clamp": RoundClamp(low=[-1, -2], high=1)},
            "expected bounds for 3 values",
        ),
        (RoundClampRolloutBuffer, BOX, {"round_clamp": {"state": RoundClamp()}}, r"no observations \['state'\]"),
        (RoundClampRolloutBuffer, BOX, {"round_clamp": "tight"}, "'auto', got 'tight'"),
        (RoundClampRolloutBuffer, BOX, {"budget_bytes": 0}, "budget_bytes"),
        (RoundClampRolloutBuffer, spaces.Dict(a=BOX), {}, "use RoundClampDictRolloutBuffer"),
        (RoundClampDictRolloutBuffer, BOX, {}, "use RoundClampRolloutBuffer"),
        (DeltaRolloutBuffer, spaces.Dict(a=IMAGE), {}, "use DeltaDictRolloutBuffer"),
        (DeltaRolloutBuffer, BOX, {}, "expected an image among the observations"),
        (DeltaRolloutBuffer, IMAGE, {"frame_stack": 3}, "frame_stack=3 divides"),
    ],
)
def test_what_cannot_work_is_said(kind: type, space: spaces.Space, options: dict, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        kind(4, space, ACTIONS, "cpu", **options)


def test_nan_is_refused_by_name() -> None:
    buffer = RoundClampRolloutBuffer(2, BOX, ACTIONS, "cpu")
    observations = np.zeros((2, 1, 3), np.float32)
    observations[1, 0, 2] = np.nan
    with pytest.raises(EpisodeError, match="observation: expected finite numbers to take bounds from"):
        fill(buffer, observations, 0)


class Moving(gymnasium.Env):
    """A square that moves by the action over noise that stays. Episodes end after 11 steps."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self, number: int) -> None:
        self._noise = np.random.default_rng(number).integers(0, 60, (36, 36, 1), np.uint8)

    def _observe(self) -> np.ndarray:
        image = self._noise.copy()
        image[self._at : self._at + 4, 3 * self._step : 3 * self._step + 3] = 255
        return image

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict]:
        self._step, self._at = 0, 16
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._step += 1
        self._at = int(np.clip(self._at + action - 1, 0, 32))
        return self._observe(), float(self._at == 20), self._step == 11, False, {}


def test_ppo_learns_the_same_bit_for_bit() -> None:
    """From stacked images, over several rollouts in which episodes end: the same parameters and the same rewards."""

    def learned(**options: object) -> tuple[dict[str, torch.Tensor], list]:
        env = VecFrameStack(DummyVecEnv([lambda i=i: Monitor(Moving(i)) for i in range(2)]), 4)
        model = PPO("CnnPolicy", env, n_steps=16, batch_size=16, n_epochs=2, seed=3, device="cpu", **options)
        model.learn(96)
        return model.policy.state_dict(), [entry["r"] for entry in model.ep_info_buffer]

    ours = {"rollout_buffer_class": DeltaRolloutBuffer, "rollout_buffer_kwargs": {"frame_stack": 4}}
    (expected, expected_rewards), (found, rewards) = learned(), learned(**ours)
    assert rewards == expected_rewards
    assert len(rewards) >= 8
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    other = learned(**{**ours, "rollout_buffer_kwargs": {"frame_stack": 2}})[0]  # another way to store the same stacks
    assert all(torch.equal(other[name], tensor) for name, tensor in expected.items())
