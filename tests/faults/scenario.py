"""Small stores of self-identifying episodes, and child processes to break them with."""

from __future__ import annotations

import ctypes
import gc
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from replaystore import FieldSpec, ReplayStore, Sampler
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.catalog.log import LogReader
from replaystore.storage.format.layout import Paths
from replaystore.testing import episodes, oracle

FRAME = (8, 8)
STACK = 3
MODES = ("disk", "half", "full")
BLOB_BYTES = 300  # a plain field too large to be held in memory
PART_ROWS = 3


def fields(frame_shape: tuple[int, ...] = FRAME, frame_stack: int = STACK) -> list[FieldSpec]:
    return [
        FieldSpec.image("observation", frame_shape, frame_stack=frame_stack),
        FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
        FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
        FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
        FieldSpec(name="blob", shape=(BLOB_BYTES,), dtype="uint8"),
    ]


def create(path: Path, mode: str = "full", frame_shape: tuple[int, ...] = FRAME, **options: Any) -> ReplayStore:
    return ReplayStore.create(path, fields(frame_shape), mode=mode, **{"chunk_rows": 8, **options})


def rows_of(number: int) -> int:
    """Rows of episode `number`, so that a reader can tell whether it is whole."""
    return 1 + (number * 7919 + 3) % 21


def episode_of(number: int, num_rows: int, frame_shape: tuple[int, ...] = FRAME) -> episodes.Episode:
    """Episode `number`, or the first rows of it."""
    times = np.arange(num_rows)
    return episodes.Episode(
        number,
        np.stack([episodes.frame_of(number, t, frame_shape) for t in range(num_rows)]),
        np.stack([np.full(num_rows, number), times], axis=1).astype(np.float32),
        np.sin(number * 12.9898 + times * 78.233).astype(np.float32),
        np.array([0.0, 0.9, 1.0], np.float32)[(number + times * times) % 3],
    )


def arrays(number: int, num_rows: int | None = None, frame_shape: tuple[int, ...] = FRAME) -> dict[str, np.ndarray]:
    """What is appended of episode `number`: single frames."""
    num_rows = rows_of(number) if num_rows is None else num_rows
    episode = episode_of(number, num_rows, frame_shape)
    return {
        "observation": episode.frames,
        "action": episode.action,
        "reward": episode.reward[:, None],
        "discount": episode.discount[:, None],
        "blob": np.stack([episodes.frame_of(number, t, (BLOB_BYTES,)) for t in range(num_rows)]),
    }


def stacked(given: dict[str, np.ndarray], frame_stack: int = STACK) -> dict[str, np.ndarray]:
    """The same, as `read_episode` returns it."""
    frames = given["observation"]
    stacks = [[frames[max(0, t - frame_stack + 1 + k)] for k in range(frame_stack)] for t in range(len(frames))]
    return {**given, "observation": np.stack([episodes.join(stack, "first") for stack in stacks])}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], where: str) -> None:
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, f"{where}, {name}"
        np.testing.assert_array_equal(found[name], array, err_msg=f"{where}, {name}", strict=True)


def check_live(store: ReplayStore, episode: int, frame_shape: tuple[int, ...] = FRAME) -> tuple[int, int]:
    """Compares a live episode with what its number says; returns the number and its rows."""
    found = store.read_episode(episode)
    number, num_rows = int(found["action"][0, 0]), len(found["action"])
    assert_same(found, stacked(arrays(number, num_rows, frame_shape)), f"episode {episode}")
    return number, num_rows


def check_batch(batch: dict[str, np.ndarray], n_step: int, gamma: float, frame_shape: tuple[int, ...] = FRAME) -> int:
    """Compares every transition of a batch with the oracle; returns how many there were."""
    for b, action in enumerate(batch["action"]):
        number, i = int(action[0]), int(action[1])
        episode = episode_of(number, i + n_step, frame_shape)
        expected = oracle.transition(episode, i, n_step, gamma, STACK)
        where = f"transition {b}: episode {number}, step {i}"
        np.testing.assert_array_equal(batch["observation"][b], episodes.join(list(expected["obs"]), "first"), where)
        np.testing.assert_array_equal(
            batch["next_observation"][b], episodes.join(list(expected["next_obs"]), "first"), where
        )
        assert batch["reward"][b, 0] == expected["reward"], where
        assert batch["discount"][b, 0] == expected["discount"], where
        np.testing.assert_array_equal(batch["blob"][b], episodes.frame_of(number, i, (BLOB_BYTES,)), where)
    return len(batch["action"])


def draw_and_check(store: ReplayStore, rng: np.random.Generator, batch_size: int = 32, n_step: int = 1) -> int:
    """Draws a batch and checks it. The whole episodes of `rows_of` rows are what it may meet."""
    snapshot = store.snapshot()
    rows = store.draw(Sampler(n_step=n_step), rng, batch_size, snapshot=snapshot)
    return check_batch(store.gather(rows, n_step=n_step, discount=0.97, snapshot=snapshot), n_step, 0.97)


def add_episode(
    store: ReplayStore, number: int, *, parts: bool, note: Callable[[int], None] = lambda rows: None
) -> int:
    """Adds an episode row by row; with `parts` every `PART_ROWS` rows are committed, and `note` is called."""
    given = arrays(number)
    num_rows = rows_of(number)
    for t in range(num_rows):
        last = t == num_rows - 1
        done = store.add({name: array[t] for name, array in given.items()}, last=last)
        if parts and not last and (t + 1) % PART_ROWS == 0:
            store.commit_part()
            note(t + 1)
    assert done is not None
    return done


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Child:
    """A forked child that runs `body(report)` and may be killed. What it reports comes as lines."""

    def __init__(self, body: Callable[[Callable[[str], None]], None], *, held: bool = False) -> None:
        self._lines, write = os.pipe()
        hold_read, self._hold = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # no orphans where the tests are stopped
                os.close(self._lines)
                os.close(self._hold)
                if held:
                    os.read(hold_read, 1)
                body(lambda line: os.write(write, f"{line}\n".encode()) and None)
                status = 0
            except BaseException as err:
                os.write(write, f"ERROR {type(err).__name__}: {err}\n".replace("\n", " ").encode() + b"\n")
            finally:
                os._exit(status)
        os.close(write)
        os.close(hold_read)
        self._text = b""
        self._poll = select.poll()
        self._poll.register(self._lines, select.POLLIN)

    def release(self) -> None:
        os.write(self._hold, b"!")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def first_line(self, timeout: float = 30.0) -> bool:
        """Waits for something to be reported."""
        return bool(self._poll.poll(timeout * 1000))

    def wait(self, timeout: float = 60.0) -> tuple[list[str], int]:
        """Reported lines and the exit status, negative for a signal. Kills a child that hangs, and fails."""
        end = time.monotonic() + timeout
        while True:
            if not self._poll.poll(max(0.0, end - time.monotonic()) * 1000):
                self.kill()
                os.waitpid(self.pid, 0)
                raise AssertionError(f"the child hung for {timeout} s; it reported {self._text[-2000:]!r}")
            piece = os.read(self._lines, 1 << 16)
            if not piece:
                break
            self._text += piece
        _, status = os.waitpid(self.pid, 0)
        os.close(self._lines)
        os.close(self._hold)
        return self._text.decode().splitlines(), os.waitstatus_to_exitcode(status)


def run_child(body: Callable[[Callable[[str], None]], None], timeout: float = 60.0) -> list[str]:
    """What a child reports that must end well."""
    lines, status = Child(body).wait(timeout)
    assert status == 0, (status, lines[-5:])
    return lines


_STRACE: list[str] = []


def strace_problem() -> str:
    """Why strace cannot be used here, or an empty string."""
    if not _STRACE:
        found = shutil.which("strace")
        if found is None:
            _STRACE.append("strace is not installed")
        else:
            child = Child(lambda report: None, held=True)
            try:
                tracer = attach(child, ["-e", "trace=pwrite64"])
            except AssertionError as err:
                _STRACE.append(f"ptrace is refused here: {err}")
                child.kill()
                child.wait()
            else:
                child.release()
                child.wait()
                tracer.communicate()
                _STRACE.append("")
    return _STRACE[0]


def attach(child: Child, options: Sequence[str], output: Path | None = None) -> subprocess.Popen[bytes]:
    """strace on a held child, attached when this returns."""
    target = ["-o", str(output)] if output is not None else ["-o", "/dev/null"]
    tracer = subprocess.Popen(
        ["strace", "-f", *target, *options, "-p", str(child.pid)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert tracer.stderr is not None
    line = tracer.stderr.readline()
    if b"attached" not in line:
        tracer.communicate()
        raise AssertionError(line.decode(errors="replace"))
    return tracer


def traced(
    body: Callable[[Callable[[str], None]], None], options: Sequence[str], output: Path | None = None,
    timeout: float = 60.0,
) -> tuple[list[str], int]:  # fmt: skip
    """Runs a child under strace; its lines and exit status."""
    child = Child(body, held=True)
    tracer = attach(child, options, output)
    child.release()
    result = child.wait(timeout)
    tracer.communicate()
    return result


def catalog_of(path: Path) -> Catalog:
    """What the log of a store says."""
    reader = LogReader(Paths(path))
    try:
        catalog = Catalog(str(path))
        reader.replay(catalog, beyond_head=False)
        return catalog
    finally:
        reader.close()


def open_descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def data_files(root: Path) -> list[Path]:
    """Every file of a store but the lock."""
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name != "lock")
