"""Whether this checkout is slower than another one: batches and appends of both, in turns in one run.

    python -m experiments.compare_versions OTHER_CHECKOUT [--episodes DIR] [--modes half,full] [--threads 1,2]

A process for each checkout makes a store of the same episodes and opens it with its chunks in RAM. The two take
turns of a few batches, so a machine that slows down slows both. With the same checkout twice the ratios show the noise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

BATCH, N_STEP, BATCHES_PER_TURN, WARM_UP = 256, 3, 4, 20
ANSWER = "answer: "  # the package may print other lines


def child(mode: str, num_threads: int, episode_dir: str) -> None:
    """Answers requests on standard input: `append`, or a number of batches.

    It runs with another version of the package too, so it uses long-standing public names only.
    """
    from replaystore import ReplayStore, Sampler
    from replaystore.cli import cli

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store"
        cli(["convert", episode_dir, str(path), "--mode", mode], standalone_mode=False)
        rng, sampler = np.random.default_rng(0), Sampler(n_step=N_STEP)
        with ReplayStore.open(path, read_only=True, residency="ram", num_threads=num_threads) as store:
            store.wait_until_filled()
            episodes = [store.read_episode(info.episode) for info in store.episodes()]
            out = store.allocate(BATCH)
            for request in sys.stdin:
                times = []
                if request.strip() == "append":
                    with (
                        tempfile.TemporaryDirectory() as other,
                        ReplayStore.create(Path(other) / "store", store.spec.fields, mode=store.spec.mode) as copy,
                    ):
                        start = time.perf_counter()
                        for episode in episodes:
                            copy.append(episode)
                        copy.flush()
                        times.append(1e6 * (time.perf_counter() - start) / store.num_rows)
                else:
                    for _ in range(int(request)):
                        rows = store.draw(sampler, rng, BATCH)
                        start = time.perf_counter()
                        store.gather(rows, n_step=N_STEP, out=out)
                        times.append(1000 * (time.perf_counter() - start))
                print(ANSWER + json.dumps(times), flush=True)


class Checkout:
    """A process that runs `child` with the package of a checkout."""

    def __init__(self, root: Path, mode: str, num_threads: int, episode_dir: Path) -> None:
        self._root = root
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child", mode, str(num_threads), str(episode_dir)], text=True, cwd=root,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip

    def ask(self, request: str) -> list[float]:
        """Sends a request and returns the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return list(json.loads(line.removeprefix(ANSWER)))
        raise RuntimeError(f"the process of {self._root} ended with {self._process.wait()}")

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def in_turns(pair: tuple[Checkout, Checkout], request: str, turns: int) -> dict[str, Any]:
    """Medians of both checkouts, and of the ratio of their turns with its quartiles."""
    answers: list[list[list[float]]] = [[], []]
    for turn in range(turns):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            answers[which].append(pair[which].ask(request))
    times = np.array(answers)  # (checkout, turn, measurement)
    ratios = np.median(times[1], axis=1) / np.median(times[0], axis=1)
    other, this = np.median(times.reshape(2, -1), axis=1)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {"other": other, "this": this, "medians": this / other, "by_turn": middle, "quartiles": [low, high]}


@click.command()
@click.argument("other", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--episodes", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--modes", default="half,full", show_default=True, help="Modes, separated by commas.")
@click.option("--threads", default="1,2", show_default=True, help="Threads per batch, separated by commas.")
@click.option("--turns", type=click.IntRange(2), default=100, show_default=True, help="Turns of four batches.")
@click.option("--append-turns", type=click.IntRange(2), default=6, show_default=True)
def main(other: Path, episodes: Path | None, modes: str, threads: str, turns: int, append_turns: int) -> None:
    """Compares this checkout with OTHER. A ratio above 1: this one is slower."""
    from experiments import RECORDED  # not above: a child may have the `experiments` of another checkout

    episodes = episodes or RECORDED
    this = Path(__file__).parent.parent
    counts = [int(count) for count in threads.split(",")]
    for mode in modes.split(","):
        for count in counts:
            pair = (
                Checkout(other.absolute(), mode, count, episodes.absolute()),
                Checkout(this, mode, count, episodes.absolute()),
            )
            try:
                in_turns(pair, str(WARM_UP), 2)
                measured = {f"{count} threads, ms per batch": (str(BATCHES_PER_TURN), turns)}
                if count == counts[0]:
                    measured["us per appended row"] = ("append", append_turns)
                for name, (request, number) in measured.items():
                    found = in_turns(pair, request, number)
                    low, high = found["quartiles"]
                    by_turn = f"{found['by_turn']:.3f} ({low:.3f} to {high:.3f})"
                    print(
                        f"{mode}, {name}: {found['other']:.3f} -> {found['this']:.3f}, ratio of medians"
                        f" {found['medians']:.3f}, median ratio of turns {by_turn}",
                        flush=True,
                    )
            finally:
                for checkout in pair:
                    checkout.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
