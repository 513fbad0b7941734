"""Runs `child` for a measurement, keeps the answer, and prepares the stores to measure."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from experiments.drqv2.buffers import ORIGINAL, PUBLISHED, link_episodes, published_scheme
from experiments.drqv2.recordings import Recording
from experiments.drqv2.results import write_json
from replaystore import ReplayStore
from replaystore.bench.memory_limit import LimitedRun, MemoryGroup
from replaystore.datasets.convert import convert
from replaystore.errors import ReplayStoreError

_TIMEOUT_SECONDS = 4 * 3600.0


class MeasurementFailed(ReplayStoreError):
    """A measured process ended with an error."""


def run_child(request: Mapping[str, Any], group: MemoryGroup | None = None) -> tuple[dict[str, Any] | None, LimitedRun]:
    """Runs a request. Returns its answer, or None if the kernel killed the process at the limit of its group.

    Raises:
        MeasurementFailed: the process ended with an error.
    """
    with tempfile.TemporaryDirectory(prefix="replaystore-") as scratch:
        path, answer = Path(scratch, "request.json"), Path(scratch, "answer.json")
        path.write_text(json.dumps({**request, "answer": str(answer)}))
        command = [sys.executable, "-m", "experiments.drqv2.child", str(path)]
        done = (group or MemoryGroup(None, "none asked for")).run(command, timeout_seconds=_TIMEOUT_SECONDS)
        if done.killed:
            return None, done
        if done.returncode != 0 or not answer.exists():
            lines = done.stderr_tail.strip().splitlines() or [f"status {done.returncode}"]
            raise MeasurementFailed(f"{request['job']} of {request['buffer']['kind']}: {lines[-1]}")
        return json.loads(answer.read_text()), done


def kept(
    directory: Path, request: Mapping[str, Any], version: Any, before: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """Returns the answer to a request that an earlier run left in `directory`, or calls `before` and measures."""
    text = json.dumps([request, version], sort_keys=True)
    path = directory / f"{request['job']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())["answer"]
        return found
    if before is not None:
        before()
    answer, _ = run_child(request)
    assert answer is not None  # there was no limit
    write_json(path, {"request": dict(request), "version": version, "answer": answer})
    return answer


def prepare(recording: Recording, files: Sequence[Path], kind: str, directory: Path) -> dict[str, Any]:
    """Puts missing episodes into the replay directory of a buffer. Returns figures about the directory."""
    episodes = directory / "episodes"
    link_episodes(files, episodes)
    if kind == ORIGINAL:
        return {}
    schemes = {"observation": published_scheme(recording.image_shape, recording.frame_stack)}
    store = directory / kind / "store"
    store.parent.mkdir(parents=True, exist_ok=True)
    convert(
        episodes,
        store,
        mode=cast(Any, "full" if kind == PUBLISHED else kind),
        frame_stack=recording.frame_stack,
        channels="first",
        schemes=schemes if kind == PUBLISHED else None,
    )
    with ReplayStore.open(store, read_only=True, residency="mapped") as opened:
        info = opened.info()
        return {
            "transitions": int(info["transitions"]),
            "observation_bytes_per_transition": float(info["observation_bytes_per_transition"]),
            "bytes_per_transition": float(info["bytes_per_transition"]),
        }


def copy_for_writing(directory: Path, kind: str, target: Path) -> Path:
    """Copies what `prepare` made to a replay directory that a loop may write to."""
    shutil.rmtree(target, ignore_errors=True)
    if kind == ORIGINAL:
        link_episodes(sorted((directory / "episodes").iterdir()), target)
    else:
        shutil.copytree(directory / kind, target)
    return target
