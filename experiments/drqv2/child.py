"""Measurements that need a process for themselves: `python -m experiments.drqv2.child REQUEST.json`.

The request is plain data, and names the file of the answer. `memory` fills a buffer and measures the memory of the
process. `speed` times a training loop over a filled buffer, and `growth` times one over a growing buffer.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from replaystore.collect import CollectConfig
from replaystore.datasets.drqv2_npz import read_episode
from replaystore.runtime.extras import needs

with needs("experiments.drqv2.child", "bench", "dmc", "drqv2", in_command=__name__ == "__main__"):
    import psutil
    import torch

    from experiments.drqv2.agent import Agent, AgentConfig
    from experiments.drqv2.buffers import ORIGINAL, Buffer, BufferConfig, episode_length, link_episodes, open_buffer
    from experiments.drqv2.environment import Environment, TimeStep
    from experiments.drqv2.recordings import Recording, play, time_steps

_KEPT_EPISODES = 2  # whose rows stand in for an environment
_LINKED = 4_000_000_000  # linked episodes are numbered from here, and so named later than those that a loop writes


def buffer_config(data: Mapping[str, Any]) -> BufferConfig:
    """Returns a `BufferConfig` from JSON."""
    return BufferConfig(**{**data, "image_shape": tuple(data["image_shape"])})


def private_bytes() -> int:
    """Returns the bytes of memory that only this process and its children use."""
    own = psutil.Process()
    return sum(int(each.memory_full_info().uss) for each in (own, *own.children(recursive=True)))


def memory(request: Mapping[str, Any]) -> dict[str, Any]:
    """Measures private bytes with a filled buffer minus those with a small one. The small one compiles the kernels."""
    for number in range(2):
        warm = open_buffer(buffer_config(request["warm"]))
        for _ in range(3):
            warm.batch()
        if number:
            small = private_bytes()
        warm.close()
    del warm
    gc.collect()  # of what the original holds
    full = open_buffer(buffer_config(request["buffer"]))
    for _ in range(8):
        full.batch()
    answer = {"private_bytes": private_bytes() - small, "held_bytes": full.held_bytes()}
    full.close()
    return answer


class _Learner:
    """The real agent, or a pause of a set time, as the CPU has while a GPU learns."""

    def __init__(self, request: Mapping[str, Any], shape: Sequence[int], num_actions: int) -> None:
        self._seconds = request["learner_milliseconds"]
        self._agent: Agent | None = None
        if self._seconds is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._agent = Agent(AgentConfig(**request["agent"]), shape, num_actions, device)
        else:
            self._seconds /= 1000
        self._rng = np.random.default_rng(0)
        self._num_actions = num_actions

    def act(self, observation: Any) -> Any:
        if self._agent is None:
            return self._rng.uniform(-1, 1, self._num_actions).astype(np.float32)
        return self._agent.act(observation, 10_000, explore=True)

    def update(self, batch: Sequence[torch.Tensor]) -> None:
        if self._agent is not None:
            self._agent.update(batch, 10_000)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        elif self._seconds:
            time.sleep(self._seconds)


def _environment_steps(request: Mapping[str, Any], learner: _Learner, episodes: list[Any]) -> Iterator[TimeStep]:
    """Yields rows without end, from the real environment or from recorded episodes, which take no time."""
    if request["environment"] == "recorded":
        rows = [time_steps(arrays) for arrays in episodes]
        while True:
            for episode in rows:
                yield from episode
    environment = Environment(CollectConfig(**request["collect"]), seed=1)
    while True:
        step = environment.reset()
        yield step
        while not step.last():
            step = environment.step(learner.act(step.observation))
            yield step


def _loop(
    buffer: Buffer, steps: Iterator[TimeStep], learner: _Learner, num_rows: int, update_every: int
) -> tuple[float, list[float], list[float]]:
    """Returns the total seconds, the seconds that each update waits for its batch, and those of each whole update."""
    waits, updates = [], []
    started = time.perf_counter()
    for number in range(num_rows):
        buffer.add(next(steps))
        if number % update_every == 0:
            begin = time.perf_counter()
            batch = buffer.batch()
            waits.append(time.perf_counter() - begin)
            learner.update(batch)
            updates.append(time.perf_counter() - begin)
            del batch
    return time.perf_counter() - started, waits, updates


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": 1000 * float(p50), "p99": 1000 * float(p99), "mean": 1000 * float(np.mean(seconds))}


def speed(request: Mapping[str, Any]) -> dict[str, Any]:
    """Times a training loop over a filled buffer. Returns frames per second, and milliseconds of updates."""
    config = buffer_config(request["buffer"])
    recording = Recording.find(request["episodes"])
    kept = [read_episode(path) for path in recording.files[:_KEPT_EPISODES]]
    learner = _Learner(request, config.image_shape, config.num_actions)
    buffer = open_buffer(config)
    steps = _environment_steps(request, learner, kept)
    _loop(buffer, steps, learner, request["warm_rows"], request["update_every_steps"])
    seconds, waits, updates = _loop(buffer, steps, learner, request["rows"], request["update_every_steps"])
    buffer.close()
    return {
        "seconds": seconds,
        "rows_per_second": request["rows"] / seconds,
        "wait_milliseconds": _milliseconds(waits),
        "update_milliseconds": _milliseconds(updates),
    }


def growth(request: Mapping[str, Any]) -> dict[str, Any]:
    """Times updates while the buffer grows. It writes each stage at once, as the process may be killed in the next."""
    config = buffer_config(request["buffer"])
    recording = Recording.find(request["episodes"])
    kept = [read_episode(path) for path in recording.files[:_KEPT_EPISODES]]
    learner = _Learner({**request, "agent": None}, config.image_shape, config.num_actions)
    buffer = open_buffer(config)
    fill = _filler(buffer, config, recording)
    stages = Path(request["stages"])
    transitions = 0

    def counted(steps: Iterator[TimeStep]) -> Iterator[TimeStep]:
        nonlocal transitions
        for step in steps:
            transitions += not step.first()
            yield step

    for target in request["transitions"]:
        while transitions < target:
            transitions += fill()
        reached = transitions
        steps = counted(_environment_steps({"environment": "recorded"}, learner, kept))
        _loop(buffer, steps, learner, request["warm_rows"], request["update_every_steps"])
        _, waits, updates = _loop(buffer, steps, learner, request["rows"], request["update_every_steps"])
        entry = {
            "transitions": reached,
            "wait_milliseconds": _milliseconds(waits),
            "update_milliseconds": _milliseconds(updates),
            "held_bytes": buffer.held_bytes(),
        }
        with open(stages, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        for step in steps:
            buffer.add(step)
            if step.last():
                break
    buffer.close()
    return {}


def _filler(buffer: Buffer, config: BufferConfig, recording: Recording) -> Callable[[], int]:
    """Returns a function that adds one recorded episode and returns its number of transitions.

    The original gets its files as links, because its own compressed writing would take most of the time.
    """
    count = 0
    cache: dict[Path, Any] = {}

    def add() -> int:
        nonlocal count
        path = recording.files[count % len(recording.files)]
        count += 1
        if config.kind == ORIGINAL:
            link_episodes([path], Path(config.directory), _LINKED + count)
            return episode_length(path)
        if path not in cache:
            cache.clear()
            cache[path] = read_episode(path)
        arrays = cache[path]
        play(buffer, arrays)
        return len(arrays["reward"]) - 1

    return add


JOBS = {"memory": memory, "speed": speed, "growth": growth}


def main(path: Path) -> None:
    """Runs the request in the file, and writes the answer."""
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    request = json.loads(path.read_text())
    if request["job"] != "speed" or request["learner_milliseconds"] is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # no agent: pinned batches would bring in the memory of a context
    torch.set_num_threads(request.get("torch_threads", 1))
    answer = JOBS[request["job"]](request)
    Path(request["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
