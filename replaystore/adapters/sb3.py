"""stable-baselines3 on a replay store: a `replay_buffer_class` for its off-policy algorithms."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import EpisodeError, NotEnoughData, SpecError, StoreNotFound
from replaystore.runtime.extras import needs
from replaystore.sampling.generators import seeded_generator
from replaystore.sampling.sampler import Sampler
from replaystore.spec import FieldSpec, Mode, Residency
from replaystore.store import ReplayStore

with needs("replaystore.adapters.sb3", "sb3"):
    import torch
    from gymnasium import spaces
    from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
    from stable_baselines3.common.preprocessing import get_obs_shape, is_image_space, is_image_space_channels_first
    from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
    from stable_baselines3.common.vec_env import VecNormalize

Observations = dict[str, NDArray[Any]]

_OBSERVATION = "observation"  # the field, where observations are no dict


class StoreReplayBuffer(ReplayBuffer):
    """Keeps the experience of an algorithm in the store at `path`, which it makes, or goes on with.

    To be given as `replay_buffer_class`, with `replay_buffer_kwargs` for the arguments behind `path`. Samples are those
    of `ReplayBuffer`, or of `NStepReplayBuffer` with `n_steps`; observations of a dict space become a field each.
    Transitions are drawn uniformly, those of an episode that is still going on once `commit_every` of its rows are
    there, or if there are no others. With `n_steps` the starting points are those that have all their steps: the last
    ones of an episode are not drawn, where `NStepReplayBuffer` shortens them; `VecNormalize` scales the sum of rewards.

    The store is opened when it is first needed, and its capacity set by the first `add`. Pickling keeps the path, not
    the data. Keys of a dict space are names of fields: lower case letters, digits and underscores; not action, reward
    or discount. Episodes are evicted whole, once they have ended: an endless one of plain values is cut where it has
    half of its share of `buffer_size`; those of stacked frames have to end before all open ones exceed it.

    Args:
        buffer_size: transitions, of all environments together; the oldest whole episodes go first.
        observation_space, action_space, device, n_envs: as in `ReplayBuffer`.
        optimize_memory_usage: has no effect: an observation is stored once always.
        handle_timeout_termination: take `TimeLimit.truncated` for an end that is none.
        path: of the store.
        mode: how images are stored: `"disk"`, `"half"` or `"full"`. Of a new store.
        frame_stack: frames that `VecFrameStack` stacks in an image, along its channels.
        n_steps, gamma: of the n-step return; with one step the algorithm's own gamma counts.
        commit_every: rows of an open episode; a kill loses no more than these of each environment.
        seed: of the draws; None: drawn from NumPy's global generator, which `set_random_seed` seeds.
        residency, budget_bytes: as in `ReplayStore.open`.

    Raises:
        SpecError: a value that cannot work, or a store of other observations or actions.
    """

    def __init__(
        self, buffer_size: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any],
        device: torch.device | str = "auto", n_envs: int = 1, optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True, *, path: str | Path, mode: Mode = "full", frame_stack: int = 1,
        n_steps: int = 1, gamma: float = 0.99, commit_every: int = 256, seed: int | None = None,
        residency: Residency = "auto", budget_bytes: int | None = None,
    ) -> None:  # fmt: skip
        del optimize_memory_usage
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        if not 0 < gamma <= 1 or commit_every < 1:
            raise SpecError(
                f"expected gamma above 0, at most 1, and commit_every from 1 on, got {gamma}, {commit_every}"
            )
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps = n_steps
        self.gamma = gamma
        self._sampler = Sampler(n_step=n_steps)
        self._path = Path(path).absolute()
        self._frame_stack = frame_stack
        self._commit_every = commit_every
        self._mode: Mode = mode
        self._reading: dict[str, Any] = {"residency": residency, "budget_bytes": budget_bytes}
        self._rng = seeded_generator(seed)
        self._had_data = False
        self._begin()

    def _begin(self) -> None:
        self._fields = self._fields_of_spaces()
        self._dtypes = {field.name: np.dtype(field.dtype) for field in self._fields}
        self._store: ReplayStore | None = None
        self._keys = [f"{uuid.uuid4().hex}-{i}" for i in range(self.n_envs)]  # whose episodes are open in the store
        self._last: list[Observations | None] = [None] * self.n_envs
        self._rows = [0] * self.n_envs  # of the open episode
        self._uncommitted = [0] * self.n_envs
        self._lost = [False] * self.n_envs  # a transition is missing, until the next reset
        self._proved = self._had_data  # whole stacks were followed by the next ones
        self._most_rows = max(1, self.buffer_size // (2 * self.n_envs))

    @property
    def store(self) -> ReplayStore:
        """What the experience is in; opened here where it is not yet."""
        if self._store is None:
            self._store = self._open()
        return self._store

    def _open(self) -> ReplayStore:
        fields = self._fields
        shared = store = ReplayStore.opened(self._path)
        if store is None and self._path.exists() and any(self._path.iterdir()):
            store = ReplayStore.open(self._path, **self._reading)
        if store is None and self._had_data:
            raise StoreNotFound(f"{self._path}: expected the store of a pickled buffer, found none; put it there")
        if store is None:
            store = ReplayStore.create(self._path, fields, mode=self._mode, capacity=self.buffer_size, **self._reading)
        stored = [replace(field, scheme=None) for field in store.spec.fields]
        if stored != fields:
            if shared is None:
                store.close()
            raise SpecError(
                f"{self._path}: expected the fields of these spaces and this frame_stack, {fields}, found {stored} in"
                " the store; use the environment it was written with, or another path"
            )
        return store

    def _fields_of_spaces(self) -> list[FieldSpec]:
        space = self.observation_space
        parts = space.spaces if isinstance(space, spaces.Dict) else {_OBSERVATION: space}
        action = np.dtype(self._maybe_cast_dtype(self.action_space.dtype)).name
        return [
            *(_observation_field(name, part, self._frame_stack) for name, part in parts.items()),
            FieldSpec(name="action", shape=(self.action_dim,), dtype=action, role="action"),
            FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
            FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
        ]

    def add(
        self, obs: Any, next_obs: Any, action: NDArray[Any], reward: NDArray[Any], done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        """Adds one transition of each environment.

        Raises:
            EpisodeError: the first observation is none of `frame_stack` frames. CapacityError: open episodes exceed
            `buffer_size`.
        """
        if self.store.capacity != self.buffer_size:
            self.store.set_capacity(self.buffer_size)
        before, after = self._by_name(obs), self._by_name(next_obs)
        actions = np.asarray(action, self._dtypes["action"]).reshape(self.n_envs, self.action_dim)
        for i in range(self.n_envs):
            ends = bool(done[i])
            first = {name: array[i] for name, array in before.items()}
            if not self._lost[i] and not _same(self._last[i], first):
                self._lost[i] = not self._start(i, first)
            truncated = self.handle_timeout_termination and infos[i].get("TimeLimit.truncated", False)
            row = {name: array[i].copy() for name, array in after.items()}
            values = {
                **row, "action": actions[i], "reward": np.array([reward[i]], np.float32),
                "discount": np.array([0 if ends and not truncated else 1], np.float32),
            }  # fmt: skip
            if not self._lost[i] and not self._added(i, values, ends):
                self._end(i)
                self._lost[i] = True
            if self._lost[i]:
                self._lost[i] = not ends
                continue
            self._rows[i] += 1
            self._proved = self._proved or self._rows[i] > self._frame_stack
            self._uncommitted[i] += 1
            self._last[i] = row
            if ends or (self._frame_stack == 1 and self._rows[i] >= self._most_rows):
                self._end(i)
            elif self._uncommitted[i] >= self._commit_every:
                self._commit(i)

    def _start(self, env: int, observation: Observations) -> bool:
        """Begins an episode with the row of a reset, after what is open was ended where it stands."""
        self._end(env)
        action = np.zeros(self.action_dim, self._dtypes["action"])
        reset = {"action": action, "reward": np.zeros(1, np.float32), "discount": np.ones(1, np.float32)}
        return self._added(env, {**observation, **reset}, last=False)

    def _end(self, env: int) -> None:
        self.store.end_episode(self._keys[env])
        self._last[env], self._rows[env], self._uncommitted[env] = None, 0, 0

    def _added(self, env: int, values: Observations, last: bool) -> bool:
        """Adds a row; False where the older frames of an observation are not those before it.

        An algorithm that was interrupted goes on a transition later in the same episode: one is missing, and what
        follows in that episode is left out. Before any stack has fitted, it is `frame_stack` that does not fit.
        """
        try:
            self.store.add(values, env=self._keys[env], last=last)
        except EpisodeError:
            if self._frame_stack == 1 or not self._proved:
                raise
            return False
        return True

    def _by_name(self, observations: Any) -> Observations:
        shapes: Any = self.obs_shape
        if not isinstance(observations, Mapping):
            observations, shapes = {_OBSERVATION: observations}, {_OBSERVATION: shapes}
        arrays = {name: np.asarray(observations[name], self._dtypes[name]) for name in shapes}
        for name, array in arrays.items():
            if array.ndim == 1:  # of a discrete space: a number an environment
                arrays[name] = array.reshape(self.n_envs, *shapes[name])
        return arrays

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Draws transitions: `ReplayBufferSamples`, or `DictReplayBufferSamples` of a dict space.

        Raises:
            NotEnoughData: there is none yet.
        """
        try:
            rows = self.store.draw(self._sampler, self._rng, batch_size)
        except NotEnoughData:
            self.commit()
            rows = self.store.draw(self._sampler, self._rng, batch_size)
        batch = self.store.gather(rows, n_step=self.n_steps, discount=self.gamma)
        is_dict = isinstance(self.observation_space, spaces.Dict)
        now, following = (self._observations(batch, prefix, env) for prefix in ("", "next_"))
        samples: Any = DictReplayBufferSamples if is_dict else ReplayBufferSamples
        return samples(
            observations=now,
            actions=self.to_torch(batch["action"], copy=False),
            next_observations=following,
            dones=self.to_torch((batch["discount"] == 0).astype(np.float32)),
            rewards=self.to_torch(self._normalize_reward(batch["reward"], env), copy=False),
            discounts=None if self.n_steps == 1 else self.to_torch(batch["discount"], copy=False),
        )

    def _observations(self, batch: Mapping[str, NDArray[Any]], prefix: str, env: VecNormalize | None) -> Any:
        if not isinstance(self.observation_space, spaces.Dict):
            return self.to_torch(self._normalize_obs(batch[prefix + _OBSERVATION], env), copy=False)  # type: ignore[arg-type]
        parts = self._normalize_obs({name: batch[prefix + name] for name in self.observation_space.spaces}, env)
        return {name: self.to_torch(part, copy=False) for name, part in parts.items()}  # type: ignore[union-attr]

    def commit(self) -> None:
        """Commits what open episodes have so far."""
        for i, rows in enumerate(self._uncommitted):
            if rows:
                self._commit(i)

    def _commit(self, env: int) -> None:
        self.store.commit_part(self._keys[env])
        self._uncommitted[env] = 0

    def size(self) -> int:
        """Transitions of an environment, on average."""
        return self.store.num_transitions // self.n_envs

    def reset(self) -> None:
        """Not supported: a store keeps what was committed."""
        raise NotImplementedError(f"{self._path}: a store is not emptied; use another path")

    def close(self) -> None:
        """Commits what open episodes have, and closes the store."""
        if self._store is not None:
            try:
                self.commit()
            finally:
                self._store.close()

    def __getstate__(self) -> dict[str, Any]:
        self.commit()
        begun = ("_store", "_keys", "_last", "_rows", "_uncommitted", "_lost", "_proved")
        kept = {name: value for name, value in vars(self).items() if name not in begun}
        return kept | {"_had_data": self._had_data or self._store is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()


def _observation_field(name: str, space: spaces.Space[Any], frame_stack: int) -> FieldSpec:
    shape = get_obs_shape(space)
    assert isinstance(shape, tuple)  # no dict inside a dict
    if not (isinstance(space, spaces.Box) and is_image_space(space)):
        return FieldSpec(name=name, shape=shape, dtype=np.dtype(space.dtype).name, role="observation")
    first = is_image_space_channels_first(space)
    channels = shape[0] if first else shape[2]
    if frame_stack < 1 or channels % frame_stack:
        raise SpecError(
            f"field {name!r}: expected channels that frame_stack={frame_stack} divides, got {shape}; pass the n_stack"
            " of VecFrameStack"
        )
    frame = (channels // frame_stack, *shape[1:]) if first else (*shape[:2], channels // frame_stack)
    return FieldSpec.image(name, frame, frame_stack=frame_stack, channels="first" if first else "last")


def _same(known: Observations | None, found: Observations) -> bool:
    return known is not None and all(np.array_equal(known[name], found[name], equal_nan=True) for name in found)
