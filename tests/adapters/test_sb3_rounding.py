"""`StoreReplayBuffer(round_clamp=...)`: the same transitions as without, rounded."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from replaystore import ReplayStore, RoundClamp
from replaystore.adapters.sb3 import StoreReplayBuffer
from replaystore.errors import NotEnoughData, SpecError

STATE = spaces.Box(-np.inf, np.inf, (3,), np.float64)
DICT = spaces.Dict(state=STATE, speed=spaces.Box(-np.inf, np.inf, (2, 2), np.float32), goal=spaces.Discrete(7))
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
EXACT = ("actions", "rewards", "dones")


def observed(space: spaces.Space[Any], env: int, episode: int, step: int) -> Any:
    """An observation whose values tell the environment, the episode and the step, and have many decimals."""
    if isinstance(space, spaces.Dict):
        return {name: observed(part, env, episode, step) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return np.int64((env + episode + step) % 7)
    values = np.array([env, episode, step, env - step][: int(np.prod(space.shape))]) + np.pi / 10
    return np.resize(values, space.shape).astype(space.dtype)


def transitions(space: spaces.Space[Any], num_envs: int, steps: int, factor: float = 1.0) -> Any:
    """What `add` takes, step by step. Episodes end truly and by a limit, at other steps in each environment."""
    at = [(0, 0)] * num_envs
    rng = np.random.default_rng(1)

    def stacked(parts: list[Any]) -> Any:
        if isinstance(parts[0], dict):
            return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        return np.stack(parts) * factor

    for _ in range(steps):
        before, after, dones, infos = [], [], [], []
        for env in range(num_envs):
            episode, step = at[env]
            ends = step + 1 == 5 + (env + episode) % 4
            before.append(observed(space, env, episode, step))
            after.append(observed(space, env, episode, step + 1))
            dones.append(ends)
            infos.append({"TimeLimit.truncated": ends and episode % 2 == 0})
            at[env] = (episode + 1, 0) if ends else (episode, step + 1)
        actions = rng.uniform(-1, 1, (num_envs, 2)).astype(np.float32)
        yield stacked(before), stacked(after), actions, rng.normal(size=num_envs), np.array(dones), infos


def make(path: Path, space: spaces.Space[Any], num_envs: int, **options: Any) -> StoreReplayBuffer:
    options = {"seed": 3, "commit_every": 4, **options}
    return StoreReplayBuffer(1000, space, ACTIONS, "cpu", num_envs, path=path, **options)


def parts(samples: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in samples._asdict().items():
        if isinstance(value, dict):
            found |= {f"{name}/{key}": part for key, part in value.items()}
        elif value is not None:
            found[name] = value
    return found


def assert_rounded(rounded: Any, plain: Any, decimals: int) -> None:
    """Observations of floats differ by rounding alone, and all else not at all."""
    expected = parts(plain)
    differs = False
    for name, tensor in parts(rounded).items():
        assert tensor.dtype == expected[name].dtype
        if name in EXACT or name.endswith("goal"):
            assert torch.equal(tensor, expected[name]), name
        else:
            differs |= not torch.equal(tensor, expected[name])
            torch.testing.assert_close(tensor, expected[name], atol=0.5001 * 10.0**-decimals, rtol=1e-6)
    assert differs


@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("space", [STATE, DICT], ids=["box", "dict"])
@pytest.mark.parametrize("choice", ["auto", "codec"])
def test_draws_are_those_without_rounding(tmp_path: Path, num_envs: int, space: Any, choice: str) -> None:
    codec = RoundClamp(decimals=1, low=-99.0, high=99.0)
    chosen = {"state": codec, "speed": codec} if space is DICT else codec
    plain = make(tmp_path / "plain", space, num_envs)
    rounded = make(
        tmp_path / "rounded", space, num_envs, round_clamp="auto" if choice == "auto" else chosen, decimals=1,
        bounds_rows=80, bounds_margin=3.0,
    )  # fmt: skip
    for number, step in enumerate(transitions(space, num_envs, 240 // num_envs)):
        plain.add(*step)
        rounded.add(*step)
        if (number + 1) * num_envs >= 100:
            assert_rounded(rounded.sample(16), plain.sample(16), decimals=1)
            assert rounded.size() == plain.size() > 0
    assert rounded.values_clamped == 0
    for buffer in (plain, rounded):
        buffer.close()
    with ReplayStore.open(tmp_path / "rounded") as store:
        schemes = {field.name: field.scheme for field in store.spec.fields if field.scheme}
        assert set(schemes) == ({"state", "speed"} if space is DICT else {"observation"})
        assert {scheme["decimals"] for scheme in schemes.values()} == {1}
        sizes = store.info()["fields"]
    with ReplayStore.open(tmp_path / "plain") as store:
        for name in schemes:
            assert sizes[name]["bytes_on_disk"] < store.info()["fields"][name]["bytes_on_disk"]


@pytest.mark.parametrize("space", [STATE, DICT], ids=["box", "dict"])
def test_until_there_are_bounds_draws_are_those_of_the_original(tmp_path: Path, space: Any) -> None:
    buffer = make(tmp_path / "store", space, 2, round_clamp="auto", bounds_rows=60)
    original = (DictReplayBuffer if space is DICT else ReplayBuffer)(60, space, ACTIONS, "cpu", 2)
    for step in transitions(space, 2, 29):
        buffer.add(*step)
        original.add(*step)
    assert not (tmp_path / "store").exists()
    assert buffer.size() == 29
    np.random.seed(2)  # noqa: NPY002 - the generator of stable-baselines3
    found = parts(buffer.sample(20))
    np.random.seed(2)  # noqa: NPY002
    for name, tensor in parts(original.sample(20)).items():
        assert torch.equal(found[name], tensor), name
    for step in transitions(space, 2, 1):
        buffer.add(*step)
    assert (tmp_path / "store").exists()
    buffer.commit()
    assert buffer.size() == 30
    buffer.close()


def test_a_run_that_ends_before_there_are_enough_rows_keeps_them(tmp_path: Path) -> None:
    buffer = make(tmp_path / "store", STATE, 1, round_clamp="auto", bounds_rows=500)
    for step in transitions(STATE, 1, 20):
        buffer.add(*step)
    again = pickle.loads(pickle.dumps(buffer))
    assert again.size() == buffer.size() == 20
    again.close()
    buffer.close()
    with ReplayStore.open(tmp_path / "store") as store:
        assert store.num_transitions == 20
        assert store.spec.fields[0].scheme is not None


def test_with_steps_and_a_dict_space_the_first_draw_takes_the_bounds(tmp_path: Path) -> None:
    buffer = make(tmp_path / "store", DICT, 1, round_clamp="auto", bounds_rows=500, n_steps=3)
    for step in transitions(DICT, 1, 30):
        buffer.add(*step)
    assert buffer.sample(4).discounts is not None
    assert (tmp_path / "store").exists()
    buffer.close()


def test_what_lies_beyond_the_bounds_is_counted_and_warned_of_once(tmp_path: Path) -> None:
    buffer = make(tmp_path / "store", STATE, 1, round_clamp="auto", bounds_rows=20, bounds_margin=0.0)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    expected = 0
    said = []
    for number, step in enumerate(transitions(STATE, 1, 9000)):
        if number < 20:
            low, high = np.minimum(low, np.minimum(*step[:2])[0]), np.maximum(high, np.maximum(*step[:2])[0])
        else:
            expected += int(((step[1] > high) | (step[1] < low)).sum())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            buffer.add(*step)
        said += caught
    assert [str(entry.message) for entry in said if "were clamped to their bounds" in str(entry.message)]
    assert len(said) == 1
    buffer.commit()
    # The reset rows of episodes are clamped, too. Their step is 0, and their episode lies beyond.
    episodes = int(step[1][0, 1])
    assert expected < buffer.values_clamped <= expected + 2 * (episodes + 1)
    buffer.close()


def test_a_store_that_is_there_keeps_its_bounds(tmp_path: Path) -> None:
    first = make(tmp_path / "store", STATE, 1, round_clamp="auto", bounds_rows=20)
    for step in transitions(STATE, 1, 40):
        first.add(*step)
    before = first.store.spec.fields[0].scheme
    first.close()
    second = make(tmp_path / "store", STATE, 1, round_clamp="auto", bounds_rows=20, resume=True)
    for step in transitions(STATE, 1, 10, factor=0.5):
        second.add(*step)
    assert second.store.spec.fields[0].scheme == before
    second.commit()
    assert second.size() == 50
    second.close()


def test_an_algorithm_learns_from_rounded_rows(tmp_path: Path) -> None:
    model = SAC(
        "MlpPolicy", "Pendulum-v1", learning_starts=20, buffer_size=500, device="cpu", seed=0,
        replay_buffer_class=StoreReplayBuffer,
        replay_buffer_kwargs={"path": tmp_path / "store", "round_clamp": "auto", "bounds_rows": 60},
    )  # fmt: skip
    model.learn(120)
    model.replay_buffer.commit()
    assert model.replay_buffer.size() == 120
    assert model.replay_buffer.values_clamped >= 0
    model.replay_buffer.close()


@pytest.mark.parametrize(
    ("space", "options", "says"),
    [
        (spaces.Discrete(3), {"round_clamp": "auto"}, "expected a Box of floats among the observations"),
        (spaces.Box(0, 255, (36, 36, 1), np.uint8), {"round_clamp": RoundClamp()}, "DeltaRolloutBuffer for images"),
        (STATE, {"round_clamp": RoundClamp(low=[0, 0], high=[1, 1])}, "expected bounds for 3 values"),
        (DICT, {"round_clamp": {"sate": RoundClamp()}}, r"no observations \['sate'\]; the space has"),
        (DICT, {"round_clamp": {"goal": RoundClamp()}}, "goal: expected a Box of floats"),
        (STATE, {"round_clamp": "auto", "bounds_rows": 0}, "bounds_rows"),
        (STATE, {"round_clamp": "auto", "bounds_margin": -1}, "bounds_margin of at least 0"),
    ],
)
def test_what_cannot_work_is_said(tmp_path: Path, space: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        make(tmp_path / "store", space, 1, **options)
    assert not (tmp_path / "store").exists()


def test_without_a_transition_there_are_no_bounds(tmp_path: Path) -> None:
    buffer = make(tmp_path / "store", STATE, 1, round_clamp="auto")
    with pytest.raises(NotEnoughData, match="expected transitions to take bounds from"):
        buffer.sample(4)
    assert buffer.size() == 0
    buffer.close()


def test_a_store_of_another_environment_is_refused(tmp_path: Path) -> None:
    with ReplayStore.create(tmp_path / "store", make(tmp_path / "other", DICT, 1).store.spec.fields, mode="half"):
        pass
    with pytest.raises(SpecError, match="use the environment it was written with"):
        make(tmp_path / "store", STATE, 1, round_clamp="auto", resume=True).sample(1)
