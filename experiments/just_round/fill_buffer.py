"""The measured process: fills one buffer with recorded rows, and says what it takes and what the process grew by."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.just_round.tasks import DECIMALS, make_environment, published_codec, random_rows
from replaystore.adapters.sb3 import RoundClampRolloutBuffer, StoreReplayBuffer
from replaystore.runtime.extras import needs

with needs("experiments.just_round", "sb3", "humanoid"):
    from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer

_RECORDED = 4096  # rows that are added again and again


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def _fill_rollout(buffer: Any, rows: dict[str, Any]) -> None:
    zero = torch.zeros(1)
    for step in range(buffer.buffer_size):
        k = step % len(rows["rewards"])
        buffer.add(rows["observations"][k][None], rows["actions"][k][None], rows["rewards"][k : k + 1],
                   rows["ends"][k : k + 1], zero, zero)  # fmt: skip


def _fill_replay(buffer: Any, rows: dict[str, Any], num_rows: int) -> None:
    count = len(rows["rewards"])
    for step in range(num_rows):
        k = step % count
        ends = rows["ends"][k : k + 1] | (k == count - 1)
        buffer.add(rows["observations"][k][None], rows["next_observations"][k][None], rows["actions"][k][None],
                   rows["rewards"][k : k + 1], ends, [{}])  # fmt: skip


def measure(asked: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Fills a small buffer first, so that kernels are compiled, and then the one to measure.

    Args:
        asked: algorithm, task, arm and rows.
        scratch: directory for stores.
    """
    env = make_environment(asked["task"])
    spaces = (env.observation_space, env.action_space)
    rows = random_rows(asked["task"], min(_RECORDED, asked["rows"]))
    algorithm, arm = asked["algorithm"], asked["arm"]
    rounding: dict[str, Any] = {"decimals": DECIMALS[algorithm]}
    rounding["round_clamp"] = "auto" if arm == "auto" else published_codec(algorithm)

    def made(num_rows: int, name: str) -> Any:
        if algorithm == "ppo":
            kind: Any = RolloutBuffer if arm == "original" else RoundClampRolloutBuffer
            return kind(num_rows, *spaces, "cpu", **({} if arm == "original" else rounding))
        if arm == "original":
            return ReplayBuffer(num_rows, *spaces, "cpu")
        return StoreReplayBuffer(num_rows, *spaces, "cpu", path=scratch / name, commit_every=1024, **rounding)

    def fill(num_rows: int, name: str) -> Any:
        buffer = made(num_rows, name)
        if algorithm == "ppo":
            _fill_rollout(buffer, rows)
            buffer.compute_returns_and_advantage(torch.zeros(1), np.ones(1))
        else:
            _fill_replay(buffer, rows, num_rows)
            buffer.sample(256)
        return buffer

    small = fill(min(1500, asked["rows"]), "small")
    if isinstance(small, StoreReplayBuffer):
        small.close()
    del small
    before = _private_bytes()
    buffer = fill(asked["rows"], "store")
    grown = _private_bytes() - before
    values = asked["rows"] * int(np.prod(env.observation_space.shape))
    clamped = 0 if arm == "original" else buffer.values_clamped / values
    if isinstance(buffer, StoreReplayBuffer):
        buffer.close()
        buffer = StoreReplayBuffer(asked["rows"], *spaces, "cpu", path=scratch / "store", resume=True)
        info = buffer.store.info()
        taken = info["fields"]["observation"]["bytes_on_disk"], sum(e["bytes_on_disk"] for e in info["fields"].values())
        buffer.close()
    elif isinstance(buffer, RoundClampRolloutBuffer):
        taken = buffer.observation_bytes, buffer.num_bytes
    else:
        arrays = {name: value for name, value in vars(buffer).items() if isinstance(value, np.ndarray)}
        observations = sum(value.nbytes for name, value in arrays.items() if name.endswith("observations"))
        taken = observations, sum(value.nbytes for value in arrays.values())
    return {
        "observation_bytes": taken[0], "num_bytes": taken[1], "grown_bytes": grown, "clamped_share": float(clamped),
    }  # fmt: skip


def main() -> None:
    """Reads what is asked, measures, and writes the answer."""
    asked, scratch, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(measure(json.loads(asked), Path(scratch))))


if __name__ == "__main__":
    main()
