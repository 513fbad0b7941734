"""Where a run writes, and whether it may start there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click

from drqv2_patch.errors import RunError
from drqv2_patch.rewind import finish_rewind
from drqv2_patch.storage import STORE_NAME
from replaystore.cli.options import MODES, RESIDENCIES, size
from replaystore.runtime.extras import needs

with needs("drqv2_patch", "drqv2"):
    from omegaconf import OmegaConf

SNAPSHOT = "snapshot.pt"
BUFFER = "buffer"  # the replay directory, inside the run's
_RESOLVER = "drqv2_run"
_RESUMES = (False, True, "exact")
_LONGEST_NAME = 255  # bytes, of a file


def register_resolver() -> None:
    """Registers `${drqv2_run:RESUME,DIRECTORY}`, which names the run directory in the patched configuration."""
    OmegaConf.register_new_resolver(_RESOLVER, run_directory, replace=True)


def run_directory(resume: Any, fresh: str) -> str:
    """Returns the directory of a run.

    That is `fresh` for a new run. A run that resumes gets the directory of the last run with the same overrides, if
    there is one.

    Args:
        resume: False or None for a new run, anything else to resume.
        fresh: ROOT/DAY/TIME_OVERRIDES. Names of days and times sort by age. Overrides that are too long for the name of
            a directory are cut, and end in their hash.
    """
    path = Path(fresh)
    time, _, overrides = path.name.partition("_")
    if len(path.name.encode()) > _LONGEST_NAME:
        digest = hashlib.sha256(overrides.encode()).hexdigest()[:16]
        cut = overrides.encode()[: _LONGEST_NAME - len(time.encode()) - len(digest) - 2].decode(errors="ignore")
        overrides = f"{cut}_{digest}"
        path = path.with_name(f"{time}_{overrides}")
    if resume in (False, None) or path.exists():
        return str(path)
    earlier = [
        found
        for found in path.parent.parent.glob("*/*")
        if found.name.partition("_")[2] == overrides and _holds_a_run(found)
    ]
    return str(max(earlier, key=lambda found: (found.parent.name, found.name), default=path))


def _holds_a_run(directory: Path) -> bool:
    return (directory / SNAPSHOT).is_file() or (directory / BUFFER).is_dir()


def check_config(cfg: Any) -> None:
    """Checks the replay options of a configuration.

    Raises:
        RunError: a value cannot work.
    """
    choices = {"replay_mode": MODES, "replay_residency": RESIDENCIES, "resume": _RESUMES}
    for name, allowed in choices.items():
        if not any(cfg[name] == value and type(cfg[name]) is type(value) for value in allowed):  # 0 is not False
            texts = ", ".join(str(value).lower() for value in allowed)
            raise RunError(f"{name}: expected one of {texts}, found {cfg[name]!r}; set {name} to one of them")
    every = cfg.snapshot_every_frames
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise RunError(f"snapshot_every_frames: expected a whole number from 1 on or null, found {every!r}")
    budget_bytes(cfg)


def budget_bytes(cfg: Any) -> int | None:
    """Returns `replay_budget` in bytes, or None if the store chooses.

    Raises:
        RunError: the value is no size.
    """
    if cfg.replay_budget is None:
        return None
    try:
        return size(cfg.replay_budget)
    except click.BadParameter as err:
        raise RunError(f"replay_budget: expected a size such as 16GiB, found {cfg.replay_budget!r}") from err


def check_directory(cfg: Any, directory: Path) -> None:
    """Checks that a run does not mix with an earlier one, and prints what it resumes.

    It also finishes an interrupted `rewind`.

    Raises:
        RunError: the directory holds a run and `resume` is false, or it holds no snapshot and `resume` is `exact`.
    """
    finish_rewind(directory / BUFFER / STORE_NAME)
    has_snapshot, has_run = (directory / SNAPSHOT).is_file(), _holds_a_run(directory)
    if cfg.resume is False and has_run:
        raise RunError(
            f"{directory}: expected a new directory, found an earlier run in it; go on with it by resume=true, or"
            " give another hydra.run.dir"
        )
    if cfg.resume == "exact" and has_run and not has_snapshot:
        raise RunError(
            f"{directory}: expected a snapshot to resume exactly from, found episodes only; use resume=true, which"
            " keeps them and starts the agent anew"
        )
    if cfg.resume and not has_run:
        print(f"nothing to resume: no earlier run with these overrides; a new one starts in {directory}")
    elif cfg.resume and not has_snapshot:
        print(f"nothing but episodes to resume in {directory}: the agent starts anew")
