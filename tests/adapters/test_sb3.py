"""The buffer for stable-baselines3, beside the one that it comes with."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

import gymnasium
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from replaystore import ReplayStore
from replaystore.adapters.sb3 import StoreReplayBuffer
from replaystore.errors import EpisodeError, NotEnoughData, SpecError, StoreExists, StoreNotFound

SIDE = 36
IMAGE = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
STATE = spaces.Box(-1, 1, (3,), np.float32)


class Counting(gymnasium.Env[Any, Any]):
    """Observations say which environment, episode and step they are of; episodes end in turn by a limit or truly."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], number: int) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self._number = number
        self._episode = -1

    def _observe(self, space: spaces.Space[Any]) -> Any:
        if isinstance(space, spaces.Dict):
            return {name: self._observe(part) for name, part in space.spaces.items()}
        if space.dtype == np.uint8:
            image = np.full(space.shape, self._step, np.uint8)
            image[0], image[1] = self._episode, self._number
            return image
        return np.array([self._step, self._episode, self._number], np.float32) / 64

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._episode += 1
        self._step = 0
        return self._observe(self.observation_space), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        ends = self._step == 5 + (self._episode + self._number) % 3
        cut = self._episode % 2 == 0
        reward = float(np.float32(self._step + 0.25 * self._number + 0.5 * self._episode))
        return self._observe(self.observation_space), reward, ends and not cut, ends and cut, {}


def environments(observation_space: spaces.Space[Any], action_space: spaces.Space[Any], count: int, stack: int) -> Any:
    """As stable-baselines3 wraps them."""
    made: Any = DummyVecEnv([lambda i=i: Counting(observation_space, action_space, i) for i in range(count)])
    if stack > 1:
        made = VecFrameStack(made, stack)
    image = observation_space if not isinstance(observation_space, spaces.Dict) else observation_space["image"]
    return VecTransposeImage(made) if image.dtype == np.uint8 else made


def play(env: Any, buffers: list[Any], steps: int, seed: int = 0) -> None:
    """What the algorithms do between two updates, without them."""
    rng = np.random.default_rng(seed)
    observation = env.reset()
    for _ in range(steps):
        if isinstance(env.action_space, spaces.Discrete):
            action: Any = rng.integers(env.action_space.n, size=(env.num_envs, 1))
        else:
            action = rng.uniform(-1, 1, (env.num_envs, *env.action_space.shape)).astype(np.float32)
        following, reward, done, infos = env.step(action)
        stored = (
            {name: part.copy() for name, part in following.items()} if isinstance(following, dict) else following.copy()
        )
        for i in np.flatnonzero(done):
            last = infos[i]["terminal_observation"]
            if isinstance(stored, dict):
                for name in stored:
                    stored[name][i] = last[name]
            else:
                stored[i] = last
        for buffer in buffers:
            buffer.add(observation, stored, action, reward, done, infos)
        observation = following


def keys_of(samples: Any) -> list[bytes]:
    """One a transition, of everything in it."""
    parts: list[Any] = []
    for part in samples:
        if part is not None:
            parts += list(part.values()) if isinstance(part, dict) else [part]
    arrays = [np.asarray(part.cpu()).reshape(len(part), -1) for part in parts]
    return [b"|".join(array[i].tobytes() for array in arrays) for i in range(len(arrays[0]))]


SPACES = {
    "image": (IMAGE, spaces.Discrete(4), 4),
    "colour": (spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8), spaces.Box(-1, 1, (2,), np.float32), 3),
    "state": (STATE, spaces.Box(-1, 1, (2,), np.float64), 1),
    "dict": (spaces.Dict({"image": IMAGE, "state": STATE}), spaces.Box(-1, 1, (2,), np.float32), 1),
}


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("mode", ["disk", "half", "full"])
@pytest.mark.parametrize("count", [1, 4])
def test_samples_are_the_transitions_of_the_buffer_it_replaces(tmp_path, kind, mode, count):
    observation, action, stack = SPACES[kind]
    env = environments(observation, action, count, stack)
    theirs_class: Any = DictReplayBuffer if kind == "dict" else ReplayBuffer
    theirs = theirs_class(400, env.observation_space, env.action_space, "cpu", count)
    ours = StoreReplayBuffer(
        400, env.observation_space, env.action_space, "cpu", count, path=tmp_path / "buffer", mode=mode,
        frame_stack=stack, commit_every=7, seed=0,
    )  # fmt: skip
    play(env, [theirs, ours], 60)
    ours.commit()
    assert ours.store.num_transitions == 60 * count
    known, found = set(keys_of(theirs.sample(6000))), keys_of(ours.sample(6000))
    assert set(found) == known
    assert len(known) == 60 * count
    example, own = theirs.sample(3), ours.sample(3)
    for name in ("actions", "dones", "rewards"):
        assert getattr(own, name).dtype == getattr(example, name).dtype
        assert getattr(own, name).shape == getattr(example, name).shape
    assert own.discounts is None
    ours.close()


def test_n_steps_are_those_of_the_buffer_it_replaces_where_all_steps_are_there(tmp_path, monkeypatch):
    env = environments(STATE, SPACES["state"][1], 1, 1)
    spaces_ = env.observation_space, env.action_space
    theirs = NStepReplayBuffer(400, *spaces_, "cpu", n_steps=3, gamma=0.5)
    ours = StoreReplayBuffer(400, *spaces_, "cpu", path=tmp_path / "buffer", n_steps=3, gamma=0.5)
    play(env, [theirs, ours], 80)
    ours.commit()
    with monkeypatch.context() as patch:  # it draws with NumPy's global generator: steps, then environments
        patch.setattr(np.random, "randint", lambda low, high, size: np.arange(np.prod(size)) % high)
        samples = theirs.sample(80)
    steps = np.round(64 * samples.observations[:, 0].numpy())
    reached = np.round(64 * samples.next_observations[:, 0].numpy())
    whole = [key for key, length in zip(keys_of(_plain(samples)), reached - steps, strict=True) if length == 3]
    assert set(keys_of(_plain(ours.sample(4000)))) == set(whole)
    ours.close()


def _plain(samples: Any) -> Any:
    """Behind a true end the discount does not count: the target is multiplied by 1 - done."""
    return samples._replace(discounts=samples.discounts * (1 - samples.dones))


def test_an_episode_that_goes_on_is_drawn_from(tmp_path):
    env = environments(IMAGE, spaces.Discrete(2), 1, 4)
    buffer = StoreReplayBuffer(
        100, env.observation_space, env.action_space, "cpu", path=tmp_path / "buffer", frame_stack=4, commit_every=100
    )
    with pytest.raises(NotEnoughData):
        buffer.sample(4)
    play(env, [buffer], 3)
    assert buffer.sample(4).observations.shape == (4, 4, SIDE, SIDE)
    assert buffer.size() == 3
    play(env, [buffer], 3)  # reset in the middle of an episode
    buffer.commit()
    assert [info.num_rows for info in buffer.store.episodes()] == [4, 4]
    with pytest.raises(NotImplementedError, match="another path"):
        buffer.reset()
    buffer.close()


def test_an_interrupted_algorithm_goes_on_in_the_middle_of_an_episode(tmp_path):
    """It has stepped the environment, and stored nothing: the next transition is between t and t + 2."""
    env = environments(IMAGE, spaces.Discrete(2), 1, 4)
    theirs = ReplayBuffer(100, env.observation_space, env.action_space, "cpu")
    ours = StoreReplayBuffer(
        100, env.observation_space, env.action_space, "cpu", path=tmp_path / "buffer", frame_stack=4
    )
    observation = env.reset()
    for number in range(14):  # episodes of 5 and 6 steps; one is missing in the second
        if number == 7:
            env.step(np.zeros((1, 1), np.int64))
        following, reward, done, infos = env.step(np.zeros((1, 1), np.int64))
        stored = infos[0]["terminal_observation"][None] if done[0] else following
        if number != 7:  # between two observations that do not follow each other
            for buffer in (theirs, ours):
                buffer.add(observation, stored, np.zeros((1, 1)), reward, done, infos)
        observation = following
    ours.commit()
    assert ours.size() == theirs.size() == 13
    assert set(keys_of(ours.sample(2000))) == set(keys_of(theirs.sample(2000)))
    ours.close()


def recorded(frame_stack: int) -> list[tuple[Any, ...]]:
    """An episode of 60 transitions with frames of their own, for `add`."""
    rng = np.random.default_rng(0)
    frames = np.concatenate(
        [np.zeros((frame_stack - 1, 12, 12), np.uint8), rng.integers(0, 255, (61, 12, 12), np.uint8)]
    )
    stacks = [np.moveaxis(frames[t : t + frame_stack], 0, -1)[None] for t in range(61)]
    return [
        (stacks[t], stacks[t + 1], np.array([[t % 2]]), np.array([t]), np.array([t == 59]), [{}]) for t in range(60)
    ]


def recorded_buffer(path: Path, frame_stack: int) -> StoreReplayBuffer:
    space = spaces.Box(0, 255, (12, 12, frame_stack), np.uint8)
    return StoreReplayBuffer(5000, space, spaces.Discrete(2), "cpu", path=path, frame_stack=frame_stack)


def kept(buffer: StoreReplayBuffer) -> set[tuple[bytes, ...]]:
    """Every transition of a buffer that can be drawn."""
    buffer.commit()
    rows = [row for info in buffer.store.episodes() for part in info.parts
            for row in range(part.first_row + (part.t_start == 0), part.first_row + part.num_rows)]  # fmt: skip
    batch = buffer.store.gather(rows)
    marked = batch.get("repeated", np.zeros(len(rows), bool))
    names = ("observation", "next_observation", "action", "reward", "discount")
    return {tuple(batch[name][at].tobytes() for name in names) for at in np.flatnonzero(~marked)}


@pytest.mark.parametrize("frame_stack", [1, 4])
def test_transitions_are_kept_in_any_order(tmp_path, frame_stack):
    transitions = recorded(frame_stack)
    ordered, shuffled = (recorded_buffer(tmp_path / name, frame_stack) for name in ("ordered", "shuffled"))
    for transition in transitions:
        ordered.add(*transition)
    for at in np.random.default_rng(0).permutation(60):
        shuffled.add(*transitions[at])
    assert len(kept(ordered)) == 60
    assert kept(shuffled) == kept(ordered)
    assert shuffled.size() == ordered.size() == 60
    drawn = [buffer.sample(20_000) for buffer in (ordered, shuffled)]
    assert set(keys_of(drawn[0])) == set(keys_of(drawn[1]))
    counts = [Counter(keys_of(samples)) for samples in drawn]
    assert len(counts[0]) == 60
    for count in counts:  # 60 classes of 333: five standard deviations of a binomial are 91
        assert all(240 < number < 430 for number in count.values())
    ordered.close()
    again = StoreReplayBuffer(5000, shuffled.observation_space, spaces.Discrete(2), "cpu", path=tmp_path / "shuffled",
                              frame_stack=frame_stack, resume=True)  # fmt: skip
    shuffled.close()
    assert again.size() == 60
    assert set(keys_of(again.sample(2000))) == set(keys_of(drawn[1]))
    again.close()


def test_a_buffer_without_a_transition_to_draw_says_so(tmp_path):
    buffer = recorded_buffer(tmp_path / "buffer", 4)
    frame = recorded(4)[30]
    with pytest.raises(EpisodeError, match="older 3 frames of the stack"):
        buffer.add(frame[0], recorded(4)[50][0], *frame[2:])
    assert buffer.store.num_episodes == 0
    with pytest.raises(NotEnoughData):
        buffer.sample(4)
    buffer.add(*frame)
    assert buffer.sample(4).rewards.flatten().tolist() == [30] * 4
    assert buffer.size() == 1
    buffer.close()


def test_runs_do_not_mix(tmp_path):
    env = environments(STATE, SPACES["state"][1], 1, 1)
    made = (100, env.observation_space, env.action_space, "cpu")
    first = StoreReplayBuffer(*made, path=tmp_path / "buffer")
    play(env, [first], 30)
    first.commit()
    for is_open in (True, False):
        with pytest.raises(StoreExists, match=r"found \d+ episodes with 30 transitions; .*resume=True"):
            StoreReplayBuffer(*made, path=tmp_path / "buffer").size()
        again = StoreReplayBuffer(*made, path=tmp_path / "buffer", resume=True)
        assert again.size() == 30
        if not is_open:
            again.close()
        first.close()


def test_a_moved_run_and_one_that_went_on(tmp_path):
    env = environments(STATE, SPACES["state"][1], 1, 1)
    made = (100, env.observation_space, env.action_space, "cpu")
    buffer = StoreReplayBuffer(*made, path=tmp_path / "buffer")
    play(env, [buffer], 30)
    checkpoint = pickle.dumps(buffer)
    with pytest.raises(SpecError, match="the store is open"):
        buffer.path = tmp_path / "elsewhere"
    play(env, [buffer], 10, seed=1)
    later = pickle.dumps(buffer)
    before = kept(buffer)
    buffer.close()
    (tmp_path / "buffer").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreNotFound, match="set the buffer's path to where it is"):
        pickle.loads(later).size()
    again = pickle.loads(later)
    again.path = tmp_path / "elsewhere"
    assert kept(again) == before
    again.close()
    old = pickle.loads(checkpoint)
    old.path = tmp_path / "elsewhere"
    with pytest.warns(UserWarning, match="saved with 30 transitions, and its store has 40 now"):
        assert old.size() == 40
    old.close()


def test_a_wrong_stack_is_an_error(tmp_path):
    env = environments(IMAGE, spaces.Discrete(2), 1, 4)
    buffer = StoreReplayBuffer(
        100, env.observation_space, env.action_space, "cpu", path=tmp_path / "buffer", frame_stack=2
    )
    with pytest.raises(EpisodeError):
        play(env, [buffer], 6)
    buffer.close()


@pytest.mark.parametrize(("space", "frame_stack"), [(STATE, 1), (IMAGE, 1), (IMAGE, 4)])
def test_an_endless_episode_is_cut_and_evicted(tmp_path, space, frame_stack):
    class Endless(Counting):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self._step += 1
            return self._observe(self.observation_space), 1.0, False, False, {}

    env: Any = DummyVecEnv([lambda: Endless(space, spaces.Discrete(2), 0)])
    env = VecFrameStack(env, frame_stack) if frame_stack > 1 else env
    made = env.observation_space, spaces.Discrete(2), "cpu"
    theirs = ReplayBuffer(400, *made)
    ours = StoreReplayBuffer(80, *made, path=tmp_path / "buffer", commit_every=7, frame_stack=frame_stack)
    play(env, [theirs, ours], 210)
    ours.commit()
    episodes = ours.store.episodes()
    assert {info.num_rows - 1 for info in episodes[:-1]} == {40}
    assert 41 - frame_stack <= ours.size() <= ours.store.num_transitions <= 80
    assert len(kept(ours)) == ours.size()
    assert set(keys_of(ours.sample(2000))) <= set(keys_of(theirs.sample(20_000)))
    ours.close()


def test_the_store_is_left_alone_until_it_is_needed(tmp_path):
    made: Any = {"path": tmp_path / "buffer", "device": "cpu"}
    full = StoreReplayBuffer(100, STATE, spaces.Discrete(2), **made)
    assert not made["path"].exists()
    env = environments(STATE, spaces.Discrete(2), 1, 1)
    play(env, [full], 60)
    full.close()
    small = StoreReplayBuffer(1, STATE, spaces.Discrete(2), resume=True, **made)  # with the size of another run
    assert small.size() == 60
    assert len(small.sample(8).rewards) == 8
    pickled = pickle.dumps(small)
    small.close()
    made["path"].rename(tmp_path / "elsewhere")
    with pytest.raises(StoreNotFound, match="of a pickled buffer"):
        pickle.loads(pickled).sample(4)
    assert not made["path"].exists()


def test_what_normalises_is_applied(tmp_path):
    inner = environments(STATE, SPACES["state"][1], 1, 1)
    env = VecNormalize(inner, clip_obs=0.5)
    buffer = StoreReplayBuffer(
        100, inner.observation_space, inner.action_space, "cpu", path=tmp_path / "buffer", seed=0
    )
    play(inner, [buffer], 30)
    env.obs_rms.mean[:] = 0.25
    env.ret_rms.var = np.float64(4.0)
    pickled = pickle.dumps(buffer)
    raw = buffer.sample(16)
    normal = pickle.loads(pickled).sample(16, env=env)  # of the same state of the draws
    expected = env.normalize_obs(raw.next_observations.numpy())
    assert np.array_equal(normal.next_observations.numpy(), expected)
    assert np.array_equal(normal.rewards.numpy(), env.normalize_reward(raw.rewards.numpy()).astype(np.float32))
    buffer.close()


@pytest.mark.parametrize("algorithm", ["dqn", "sac"])
def test_algorithms_learn_go_on_and_stay_below_the_capacity(tmp_path, algorithm):
    observation, action, stack = SPACES["image" if algorithm == "dqn" else "colour"]
    env = environments(observation, action, 1, stack)
    made: Any = DQN if algorithm == "dqn" else SAC
    kwargs: dict[str, Any] = {
        "path": tmp_path / "buffer", "frame_stack": stack, "n_steps": 3, "gamma": 0.9, "commit_every": 8
    }  # fmt: skip

    def new() -> Any:
        return made(
            "CnnPolicy", env, buffer_size=50, learning_starts=20, batch_size=8, replay_buffer_class=StoreReplayBuffer,
            replay_buffer_kwargs=kwargs, device="cpu", seed=0,
        )  # fmt: skip

    model = new()
    model.learn(60)
    assert 40 <= model.replay_buffer.store.num_transitions <= 50
    model.learn(20, reset_num_timesteps=False)
    model.save_replay_buffer(tmp_path / "saved")
    assert (tmp_path / "saved.pkl").stat().st_size < 60_000  # the spaces and the path, not the data
    newest = model.replay_buffer.store.episodes()[-1].episode
    model.replay_buffer.close()
    again = new()
    again.load_replay_buffer(tmp_path / "saved")
    assert again.replay_buffer.store.episodes()[-1].episode == newest
    again.learn(20)
    assert again.replay_buffer.store.episodes()[-1].episode > newest
    again.replay_buffer.close()


def test_what_cannot_work_is_one_error_with_the_remedy(tmp_path):
    made = {"path": tmp_path / "buffer", "device": "cpu"}
    transposed = spaces.Box(0, 255, (4, SIDE, SIDE), np.uint8)
    with pytest.raises(SpecError, match="pass the n_stack of VecFrameStack"):
        StoreReplayBuffer(100, transposed, spaces.Discrete(2), frame_stack=3, **made)
    with pytest.raises(SpecError, match="gamma"):
        StoreReplayBuffer(100, transposed, spaces.Discrete(2), gamma=0, **made)
    first = StoreReplayBuffer(100, transposed, spaces.Discrete(2), frame_stack=4, **made)
    assert first.size() == 0
    first.close()
    with pytest.raises(SpecError, match=r"expected the fields of these spaces.*or another path"):
        StoreReplayBuffer(100, STATE, spaces.Discrete(2), **made).size()
    with ReplayStore.open(Path(made["path"])) as store:  # and it is left closed
        assert store.num_transitions == 0


def test_a_store_that_is_open_is_used_and_left_open(tmp_path):
    env = environments(STATE, SPACES["state"][1], 1, 1)
    spaces_ = env.observation_space, env.action_space
    first = StoreReplayBuffer(100, *spaces_, "cpu", path=tmp_path / "buffer")
    assert first.size() == 0
    first.close()
    with ReplayStore.open(tmp_path / "buffer") as store:
        buffer = StoreReplayBuffer(100, *spaces_, "cpu", store=store)
        assert buffer.store is store
        play(env, [buffer], 30)
        buffer.close()
        assert store.num_transitions == 30
        assert len(pickle.loads(pickle.dumps(buffer)).sample(4).rewards) == 4
        assert StoreReplayBuffer(100, *spaces_, "cpu", path=tmp_path / "buffer", resume=True).store is store
        with pytest.raises(SpecError, match="expected the fields of these spaces"):
            StoreReplayBuffer(100, STATE, spaces.Discrete(2), "cpu", store=store)
        with pytest.raises(SpecError, match="pass one of them"):
            StoreReplayBuffer(100, *spaces_, "cpu", store=store, path=tmp_path / "buffer")
    with pytest.raises(SpecError, match="pass one of them"):
        StoreReplayBuffer(100, *spaces_, "cpu")
