"""`StoreReplayBuffer`: experience of stable-baselines3 in a store."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from replaystore.adapters.sb3.episodes import EpisodeWriter
from replaystore.adapters.sb3.fields import OBSERVATION, by_name, fields_of_spaces
from replaystore.adapters.sb3.first_rows import FirstRows
from replaystore.adapters.sb3.opening import check_fields, has_store, open_store
from replaystore.adapters.sb3.repeated import count_marked, draw_unmarked
from replaystore.adapters.sb3.rounding import RoundClampChoice, codecs_of_spaces
from replaystore.errors import NotEnoughData, SpecError
from replaystore.runtime.numbers import whole_number
from replaystore.runtime.paths import local_path
from replaystore.sampling.generators import seeded_generator
from replaystore.sampling.sampler import Sampler
from replaystore.spec import Mode, Residency
from replaystore.store import ReplayStore

_NOT_PICKLED = ("_store", "_closes_store", "_writer", "_first_rows")
_CHECK_EVERY = 4096


class StoreReplayBuffer(ReplayBuffer):
    """Keeps the experience of an algorithm in a store.

    >>> import tempfile
    >>> from stable_baselines3 import DQN
    >>> directory = tempfile.TemporaryDirectory()
    >>> model = DQN(
    ...     "MlpPolicy", "CartPole-v1", buffer_size=1000, learning_starts=20, device="cpu",
    ...     replay_buffer_class=StoreReplayBuffer, replay_buffer_kwargs={"path": directory.name, "commit_every": 8},
    ... )
    >>> model = model.learn(80)
    >>> model.replay_buffer.close()
    >>> with ReplayStore.open(directory.name) as store:
    ...     store.num_transitions
    80
    >>> directory.cleanup()

    Samples equal those of `ReplayBuffer`, or of `NStepReplayBuffer` with `n_steps`. An observation of a dict space has
    a field for each of its parts; the keys of the space are then names of fields: lower case letters, digits and
    underscores, and not action, reward, discount or repeated.

    Transitions are drawn uniformly. Those of an episode that still goes on are drawn once `commit_every` of its rows
    are there, or if there are no others. With `n_steps` a drawn transition has all its steps: the last ones of an
    episode are not drawn, where `NStepReplayBuffer` shortens them. `VecNormalize` scales the sum of rewards.

    The store is opened when it is first needed, and the first `add` sets its capacity. Episodes are evicted whole,
    once they have ended. An endless episode is cut where it has half of its share of `buffer_size`.

    Pickling a buffer keeps the path, not the data. If the run went on after `save_replay_buffer`, the loaded buffer has
    what came later too, and says so. `model.save` pickles `replay_buffer_kwargs`, so an algorithm that is saved needs
    `path`, not `store`. If a run was moved, set `path` after `load_replay_buffer`:
    `model.replay_buffer.path = "new/place"`.

    Transitions may come in any order. A frame is stored once where they follow each other. With `frame_stack` above 1,
    a transition that follows no other takes `frame_stack` more rows. The field `repeated` marks `frame_stack - 1` of
    them, which are not drawn. They count for `buffer_size`, but not in `size`.

    With `round_clamp` observations of floats are stored rounded, in as few bits as their bounds need
    (`RoundClamp`). With `"auto"` each value has bounds of its own: those of the first `bounds_rows` transitions, and a
    margin. Until then the transitions are kept in memory as they are, and drawn as `ReplayBuffer` draws, from NumPy's
    global generator. The bounds stay as they are from then on, since they belong to the store. Later values are clamped
    to them, and a warning tells if these are many. A store that is there keeps its codecs.

    Args:
        buffer_size: transitions of all environments together; the oldest whole episodes go first.
        observation_space: of one environment.
        action_space: of one environment.
        device: where samples go.
        n_envs: environments.
        optimize_memory_usage: has no effect: an observation is always stored once.
        handle_timeout_termination: whether `TimeLimit.truncated` marks an end that is not terminal.
        path: of a store that is made, or with `resume` gone on with.
        store: in place of `path`, an open store, which `close` leaves open.
        mode: how a new store keeps images: `"disk"`, `"half"` or `"full"`.
        frame_stack: frames that `VecFrameStack` stacks in an image, along its channels.
        n_steps: steps of the return.
        gamma: discount of the n-step return; with one step the algorithm's own gamma counts.
        commit_every: rows of an open episode; a kill loses no more than these of each environment.
        seed: of the draws; None: drawn from NumPy's global generator, which `set_random_seed` seeds.
        residency: as in `ReplayStore.open`.
        budget_bytes: as in `ReplayStore.open`.
        round_clamp: a codec for all observations, one for each key of a dict space, or `"auto"`, for all observations
            of floats. None: nothing is rounded. A codec whose bounds are numbers takes the number and dtype of the
            values from the space.
        decimals: decimals of `"auto"`.
        bounds_rows: transitions that `"auto"` takes bounds from, at most `buffer_size`.
        bounds_margin: share of the distance between two bounds that `"auto"` adds on either side.
        max_clamped_share: share of the stored values above which clamping is warned of, once.
        resume: whether a new buffer goes on with the store that is at `path`. Otherwise such a store is refused when
            it is first needed, so that runs do not mix.

    Raises:
        StoreExists: there is experience at `path`, and `resume` is False.
        SpecError: a value cannot work, or the store has other observations or actions.
    """

    def __init__(
        self, buffer_size: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any],
        device: torch.device | str = "auto", n_envs: int = 1, optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True, *, path: str | Path | None = None, store: ReplayStore | None = None,
        mode: Mode = "full", frame_stack: int = 1, n_steps: int = 1, gamma: float = 0.99, commit_every: int = 256,
        seed: int | None = None, residency: Residency = "auto", budget_bytes: int | str | None = None,
        resume: bool = False, round_clamp: RoundClampChoice | None = None, decimals: int = 2,
        bounds_rows: int = 10_000, bounds_margin: float = 0.5, max_clamped_share: float = 0.001,
    ) -> None:  # fmt: skip
        del optimize_memory_usage
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        if not 0 < gamma <= 1:
            raise SpecError(f"gamma: expected a number above 0, at most 1, got {gamma}")
        location = path if store is None else store.path
        if location is None or (path is not None and store is not None):
            raise SpecError(f"expected either path or store, got path={path!r}, store={store!r}; pass one of them")
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps = n_steps
        self.gamma = gamma
        self._sampler = Sampler(n_step=n_steps)
        self._path = local_path(location)
        self._frame_stack = frame_stack
        self._commit_every = whole_number(commit_every, "commit_every")
        self._resume = resume
        self._mode: Mode = mode
        self._reading: dict[str, Any] = {"residency": residency, "budget_bytes": budget_bytes}
        self._rng = seeded_generator(seed)
        chosen = {} if round_clamp is None else codecs_of_spaces(round_clamp, observation_space)
        self._codecs = {name: codec for name, codec in chosen.items() if codec is not None}
        self._to_fit = sorted(set(chosen) - set(self._codecs))
        if store is not None and chosen:
            raise SpecError(f"{location}: round_clamp is for a new store; make this store's fields with schemes")
        if not (bounds_margin >= 0 and 0 <= max_clamped_share <= 1):
            raise SpecError(
                f"expected bounds_margin of at least 0 and max_clamped_share from 0 to 1, got {bounds_margin} and"
                f" {max_clamped_share}"
            )
        self._decimals, self._bounds_margin = decimals, bounds_margin
        self._bounds_rows = min(whole_number(bounds_rows, "bounds_rows"), buffer_size)
        self._max_clamped_share: float | None = max_clamped_share if chosen else None
        self._had_data = False
        self._num_saved: int | None = None
        self._begin(store)
        if store is not None:
            check_fields(store, self._fields)

    def _begin(self, store: ReplayStore | None = None) -> None:
        action_dtype = np.dtype(self._maybe_cast_dtype(self.action_space.dtype))
        self._fields = fields_of_spaces(self.observation_space, self.action_dim, action_dtype, self._frame_stack)
        self._dtypes = {field.name: np.dtype(field.dtype) for field in self._fields}
        self._store = store
        self._closes_store = store is None
        self._writer: EpisodeWriter | None = None
        self._first_rows: FirstRows | None = None
        self._num_unchecked = 0  # transitions since it was last seen how many values are clamped

    @property
    def path(self) -> Path:
        """Directory of the store. It can be set until the store is open."""
        return self._path

    @path.setter
    def path(self, path: str | Path) -> None:
        if self._store is not None:
            raise SpecError(f"{self._path}: the store is open; set the path before the buffer is used")
        self._path = local_path(path)

    @property
    def store(self) -> ReplayStore:
        """The store that holds the experience. It is opened when it is first needed.

        Transitions that wait for bounds are written first, with the bounds that they have.

        Raises:
            NotEnoughData: there is no store yet, and no transition to take bounds from.
        """
        if self._first_rows is not None:
            self._fit()
        if self._store is None:
            if self._to_fit and not has_store(self._path):
                raise NotEnoughData(f"{self._path}: expected transitions to take bounds from, found none; add some")
            self._store = open_store(
                self._path,
                self._fields,
                mode=self._mode,
                capacity=self.buffer_size,
                must_exist=self._had_data,
                resume=self._resume or self._had_data,
                codecs=self._codecs,
                **self._reading,
            )
            found = self._store.num_transitions
            if self._num_saved is not None and found != self._num_saved:
                warnings.warn(
                    f"{self._path}: the buffer was saved with {self._num_saved} transitions, and its store has {found}"
                    " now; a saved buffer keeps the path alone, and the run went on: copy the store to keep a state",
                    stacklevel=2,
                )
            self._num_saved = None
        return self._store

    def add(
        self, obs: Any, next_obs: Any, action: NDArray[Any], reward: NDArray[Any], done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        """Adds one transition of each environment.

        Args:
            obs: observations before the step, environments first.
            next_obs: observations after it; at the end of an episode its last one.
            action: one per environment.
            reward: one per environment.
            done: whether the episode ends, one per environment.
            infos: one per environment.

        Raises:
            EpisodeError: the stack after the step does not go on from the one before it, so `frame_stack` is wrong.
            CapacityError: open episodes exceed `buffer_size`.
        """
        if self._waits_for_bounds():
            self._add_first_row(obs, next_obs, action, reward, done, infos)
            return
        if self.store.capacity != self.buffer_size:
            self.store.set_capacity(self.buffer_size)
        if self._writer is None:
            self._writer = EpisodeWriter(
                self.store,
                self.n_envs,
                frame_stack=self._frame_stack,
                commit_every=self._commit_every,
                max_rows=max(1, self.buffer_size // (2 * self.n_envs) - (self._frame_stack - 1)),
            )
        before, after = (by_name(observations, self.obs_shape, self._dtypes) for observations in (obs, next_obs))
        actions = np.asarray(action, self._dtypes["action"]).reshape(self.n_envs, self.action_dim)
        for env in range(self.n_envs):
            ends = bool(done[env])
            truncated = self.handle_timeout_termination and infos[env].get("TimeLimit.truncated", False)
            row = {
                **{name: array[env].copy() for name, array in after.items()},
                "action": actions[env],
                "reward": np.array([reward[env]], np.float32),
                "discount": np.array([0 if ends and not truncated else 1], np.float32),
            }
            self._writer.add(env, {name: array[env] for name, array in before.items()}, row, last=ends)
        self._num_unchecked += self.n_envs
        if self._max_clamped_share is not None and self._num_unchecked >= _CHECK_EVERY:
            self._check_clamped(self._max_clamped_share)

    def _waits_for_bounds(self) -> bool:
        if self._first_rows is not None:
            return True
        return bool(self._to_fit) and self._store is None and not self._had_data and not has_store(self._path)

    def _add_first_row(self, *step: Any) -> None:
        if self._first_rows is None:
            self._first_rows = FirstRows(
                self._bounds_rows, self.observation_space, self.action_space, self.device, self.n_envs,
                handle_timeout_termination=self.handle_timeout_termination, n_steps=self.n_steps, gamma=self.gamma,
            )  # fmt: skip
        self._first_rows.add(*step)
        if self._first_rows.is_complete:
            self._fit()

    def _fit(self) -> None:
        """Takes bounds from the first rows, and writes these into a store that has them."""
        rows = self._first_rows
        assert rows is not None
        self._codecs |= rows.codecs(self._to_fit, self._decimals, self._bounds_margin)
        self._to_fit, self._first_rows = [], None
        rows.play_into(self.add)

    @property
    def values_clamped(self) -> int:
        """Values of observations that the codecs of the store have clamped to their bounds so far."""
        if self._waits_for_bounds():
            return 0
        fields = self.store.info()["fields"]
        return sum(int(fields[field.name]["values_clamped"]) for field in self._fields if field.role == "observation")

    def _check_clamped(self, most: float) -> None:
        self._num_unchecked = 0
        rounded = (field for field in self.store.spec.fields if field.scheme is not None and not field.is_image)
        values = sum(math.prod(field.shape) for field in rounded)
        clamped, stored = self.values_clamped, self.store.num_transitions * values
        if clamped > most * stored:
            self._max_clamped_share = None
            warnings.warn(
                f"{self._path}: {clamped} of {stored} values were clamped to their bounds, more than a share of {most};"
                " take bounds from more rows (bounds_rows), or pass a RoundClamp with wider ones",
                stacklevel=3,
            )

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Draws transitions: `ReplayBufferSamples`, or `DictReplayBufferSamples` of a dict space.

        Args:
            batch_size: transitions to draw.
            env: normalises observations and rewards.

        Raises:
            NotEnoughData: there is none yet.
        """
        if self._first_rows is not None and self._first_rows.can_be_drawn:
            return self._first_rows.sample(batch_size, env)
        try:
            rows = self._draw(batch_size)
        except NotEnoughData:
            self.commit()
            rows = self._draw(batch_size)
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

    def _draw(self, batch_size: int) -> NDArray[np.int64]:
        if self._frame_stack == 1:
            return self.store.draw(self._sampler, self._rng, batch_size)
        return draw_unmarked(self.store, self._sampler, self._rng, batch_size)

    def _observations(self, batch: Mapping[str, NDArray[Any]], prefix: str, env: VecNormalize | None) -> Any:
        if not isinstance(self.observation_space, spaces.Dict):
            return self.to_torch(self._normalize_obs(batch[prefix + OBSERVATION], env), copy=False)  # type: ignore[arg-type]
        parts = self._normalize_obs({name: batch[prefix + name] for name in self.observation_space.spaces}, env)
        return {name: self.to_torch(part, copy=False) for name, part in parts.items()}  # type: ignore[union-attr]

    def commit(self) -> None:
        """Commits what open episodes have so far. Transitions that wait for bounds are written before."""
        if self._first_rows is not None:
            self._fit()
        if self._writer is not None:
            self._writer.commit()

    def size(self) -> int:
        """Transitions of an environment, on average."""
        if self._waits_for_bounds():
            return 0 if self._first_rows is None else self._first_rows.size()
        repeated = 0 if self._frame_stack == 1 else count_marked(self.store, self._frame_stack)
        return (self.store.num_transitions - repeated) // self.n_envs

    def reset(self) -> None:
        """Not supported: a store keeps what was committed."""
        raise NotImplementedError(f"{self._path}: a store is not emptied; use another path")

    def close(self) -> None:
        """Commits what open episodes have, and closes the store that `path` named."""
        if self._first_rows is not None:
            self._fit()
        if self._store is not None:
            try:
                self.commit()
            finally:
                if self._closes_store:
                    self._store.close()

    def __getstate__(self) -> dict[str, Any]:
        self.commit()
        kept = {name: value for name, value in vars(self).items() if name not in _NOT_PICKLED}
        if self._store is not None and not self._store.closed:
            kept["_num_saved"] = self._store.num_transitions
        return kept | {"_had_data": self._had_data or self._store is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()
