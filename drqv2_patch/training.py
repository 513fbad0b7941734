"""Functions that the `train.py` of a patched checkout calls.

A `workspace` is its `Workspace`, and `cfg` is its Hydra configuration.
"""

from __future__ import annotations

import functools
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drqv2_patch.device import choose_device, describe_device
from drqv2_patch.errors import RunError
from drqv2_patch.progress import Pulse, buffer_line, measured_row_bytes, watch
from drqv2_patch.rewind import Mark, mark_of, rewind
from drqv2_patch.runs import BUFFER, SNAPSHOT, budget_bytes, check_config, check_directory, register_resolver
from drqv2_patch.snapshot import (
    agent_state,
    load_agent_state,
    load_random_state,
    random_state,
    read_snapshot,
    write_snapshot,
)
from drqv2_patch.storage import STORE_NAME
from replaystore.errors import NotEnoughData, ReplayStoreError

_FAILED = 2


def run(main: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Decorates `main`: checks the configuration and the run's directory first.

    An error of this package or of `replaystore` becomes one line on stderr and exit status 2.
    """
    register_resolver()

    @functools.wraps(main)
    def checked(cfg: Any) -> Any:
        try:
            check_config(cfg)
            device = choose_device(cfg.device)
            check_directory(cfg, Path.cwd())
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(line_buffering=True)  # otherwise a file or a pipe shows nothing for minutes
            print(f"device: {describe_device(cfg.device, device)}; logs and snapshots: {Path.cwd()}")
            cfg.device = str(device)
            if cfg.resume == "exact":
                _rewind(Path.cwd())
            return main(cfg)
        except NotEnoughData as err:
            line = (
                f"num_seed_frames: expected enough frames for an episode of {cfg.nstep} steps to end before the first"
                f" update, found {cfg.num_seed_frames} and no such episode; raise it"
            )
            cause: ReplayStoreError = err
        except ReplayStoreError as err:
            line, cause = " ".join(str(err).split()), err
        print(f"train.py: error: {line}", file=sys.stderr)
        raise SystemExit(_FAILED) from cause

    return checked


def storage_options(cfg: Any) -> dict[str, Any]:
    """Returns the arguments of `ReplayBufferStorage` that come from the configuration."""
    return {**loader_options(cfg), "frame_stack": cfg.frame_stack}


def loader_options(cfg: Any) -> dict[str, Any]:
    """Returns the arguments of `make_replay_loader` that come from the configuration."""
    return {"mode": cfg.replay_mode, "residency": cfg.replay_residency, "budget_bytes": budget_bytes(cfg)}


def snapshot_is_due(workspace: Any) -> bool:
    """Returns whether to save a snapshot now, at the end of an episode.

    With `save_snapshot` a snapshot is always due. Otherwise one is due if the run has passed a multiple of
    `snapshot_every_frames` since the last one.
    """
    every = workspace.cfg.snapshot_every_frames
    if workspace.cfg.save_snapshot:
        return True
    return every is not None and workspace.global_frame // every > _last_frame(workspace) // every


def save_snapshot(workspace: Any) -> None:
    """Saves the agent, the counters, the draws, the random generators, and the mark of the store.

    The store is synced to disk before the snapshot is written.
    """
    store = workspace.replay_storage.store
    if store is not None:
        store.flush(sync=True)
    payload = {
        "agent": agent_state(workspace.agent),
        "step": int(workspace._global_step),
        "episode": int(workspace._global_episode),
        "seconds": float(workspace.timer.total_time()),
        "loader": workspace.replay_loader.state_dict(),
        "replay": mark_of(store).to_json(),
        "random": random_state(_environments(workspace)),
    }
    write_snapshot(workspace.work_dir / SNAPSHOT, payload)
    workspace.snapshot_frame = workspace.global_frame


def load_snapshot(workspace: Any) -> None:
    """Restores what `save_snapshot` saved. The replay data are in the store.

    Raises:
        RunError: the snapshot is damaged, or belongs to another agent.
    """
    payload = read_snapshot(workspace.work_dir / SNAPSHOT)
    load_agent_state(workspace.agent, payload["agent"])
    workspace._global_step = payload["step"]
    workspace._global_episode = payload["episode"]
    workspace.timer._start_time = time.time() - payload["seconds"]
    workspace.replay_loader.load_state_dict(payload["loader"])
    load_random_state(payload["random"], _environments(workspace))
    workspace.snapshot_frame = workspace.global_frame
    known, now = Mark(**payload["replay"]), mark_of(workspace.replay_storage.store)
    print(
        f"resumed at frame {workspace.global_frame}, episode {workspace._global_episode}: {now.num_episodes} episodes,"
        f" {now.next_episode - known.next_episode} of them newer than the snapshot"
    )


def start(workspace: Any) -> None:
    """Prints the memory of the buffer, and from then on the progress of training and evaluation."""
    print(buffer_line(workspace.replay_storage, workspace.cfg.replay_buffer_size))
    workspace._progress = progress = _Progress(workspace)
    watch(workspace.train_env, progress.train_step)
    watch(workspace.eval_env, progress.eval_step)


class _Progress:
    """Prints lines between those of the checkout, which prints none before its first evaluation and first update."""

    def __init__(self, workspace: Any) -> None:
        self._workspace = workspace
        self._pulse = Pulse()
        self._first_frame = workspace.global_frame
        self._eval_frame, self._eval_steps, self._eval_episodes = -1, 0, 0
        self._eval_seconds = 0.0
        self._eval_started = 0.0
        self._measured = False

    def train_step(self, time_step: Any) -> None:
        """Prints progress if it is due, after a step of training."""
        if not self._pulse.due():
            return
        cfg, frame = self._workspace.cfg, self._workspace.global_frame
        seconds = self._pulse.seconds - self._eval_seconds
        rate = (frame - self._first_frame) / seconds if seconds > 0 else 0.0
        updates = self._workspace.replay_loader.num_batches
        learning = f"{updates:,} updates"
        if not updates and frame < cfg.num_seed_frames:
            learning = f"the first update comes at frame {cfg.num_seed_frames:,}"
        print(
            f"frame {frame:,} of {cfg.num_train_frames:,}, episode {self._workspace._global_episode + 1:,}:"
            f" {rate:,.0f} frames/s, {learning}"
        )
        self._tell_measured()

    def eval_step(self, time_step: Any) -> None:
        """Prints progress if it is due, after a step of an evaluation."""
        now, frame = self._pulse.seconds, self._workspace.global_frame
        if frame != self._eval_frame:
            self._eval_frame, self._eval_steps, self._eval_episodes = frame, 0, 0
            self._eval_started = now
        self._eval_steps += 1
        self._eval_episodes += bool(time_step.last())
        self._eval_seconds += now - self._eval_started
        self._eval_started = now
        if self._pulse.due():
            print(
                f"evaluation at frame {frame:,}: episode {self._eval_episodes + 1:,}, {self._eval_steps:,} steps so far"
            )

    def _tell_measured(self) -> None:
        store = self._workspace.replay_storage.store
        if not self._measured and store is not None and measured_row_bytes(store) is not None:
            self._measured = True
            print(buffer_line(self._workspace.replay_storage, self._workspace.cfg.replay_buffer_size))


def finish(workspace: Any) -> None:
    """Ends a run: saves a last snapshot unless snapshots are turned off, and closes the loader and the store."""
    if workspace.replay_storage.between_episodes:  # the loop counts an episode only when the next one starts
        workspace._global_episode += 1
    if workspace.cfg.save_snapshot or workspace.cfg.snapshot_every_frames is not None:
        save_snapshot(workspace)
    print(
        f"ended at frame {workspace.global_frame:,}, episode {workspace._global_episode:,}:"
        f" {workspace.replay_loader.num_batches:,} updates, {len(workspace.replay_storage):,} transitions"
    )
    workspace.replay_loader.close()
    workspace.replay_storage.close()


def _last_frame(workspace: Any) -> int:
    return int(getattr(workspace, "snapshot_frame", 0))


def _environments(workspace: Any) -> dict[str, Any]:
    return {"train": workspace.train_env, "eval": workspace.eval_env}


def _rewind(directory: Path) -> None:
    path = directory / SNAPSHOT
    if not path.is_file():
        return
    try:
        mark = Mark(**read_snapshot(path)["replay"])
    except (KeyError, TypeError) as err:
        raise RunError(f"{path}: expected what the snapshot knows of the store, found none; use resume=true") from err
    dropped = rewind(directory / BUFFER / STORE_NAME, mark)
    print(f"resume=exact: {dropped} of the episodes, newer than the snapshot, are dropped")
