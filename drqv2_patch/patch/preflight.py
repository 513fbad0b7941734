"""The first call of a patched `train.py`, before the imports at which a half patched checkout fails."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from drqv2_patch.device import check_device_argument
from drqv2_patch.errors import PatchError
from drqv2_patch.patch.checkout import Checkout
from drqv2_patch.patch.config_edits import CONFIG
from replaystore.errors import ReplayStoreError

_REFUSED = 2
_TASK = "task@_global_"


def require_whole(train: str) -> None:
    """Checks the checkout of this `train.py` and the command line.

    The process ends with one line on stderr and exit status 2 if the checkout is half patched, if the task does not
    exist, or if torch does not find the CUDA device.

    Args:
        train: path of `train.py`.
    """
    directory = Path(train).resolve().parent
    try:
        Checkout(directory).check_whole()
        check_task(directory / "cfgs" / "task", sys.argv[1:])
        check_device_argument(sys.argv[1:], directory / CONFIG)
    except ReplayStoreError as err:
        print(f"train.py: error: {err}", file=sys.stderr)
        sys.exit(_REFUSED)


def check_task(directory: Path, arguments: Sequence[str]) -> None:
    """Checks that the task of a command line exists. Hydra would answer an unknown one with a page of names.

    Each task of a list with commas, as in a sweep, is checked. Hydra checks anything but plain names.

    Args:
        directory: holds one file per task.
        arguments: the arguments of the command line.

    Raises:
        PatchError: the task has no file in `directory`, or is given as `task=`.
    """
    tasks = sorted(path.stem for path in directory.glob("*.yaml"))
    if not tasks:
        return
    for argument in arguments:
        name, _, value = argument.partition("=")
        unknown = [task for task in value.split(",") if task.replace("_", "").isalnum() and task not in tasks]
        if name == "task":
            raise PatchError(f"{argument}: expected {_TASK}={value}, as Hydra 1.3 takes it")
        if name == _TASK and unknown:
            near = difflib.get_close_matches(unknown[0], tasks, n=3, cutoff=0.5) or tasks[:3]
            raise PatchError(
                f"{argument}: expected one of {len(tasks)} tasks in {directory}, found {unknown[0]!r}; try"
                f" {', '.join(near)}"
            )
