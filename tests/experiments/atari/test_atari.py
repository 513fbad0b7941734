"""The experiments on Atari, at a tiny size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ale_py")
pytest.importorskip("sb3_contrib")

from experiments.atari import table
from experiments.atari.sizes import Sizes, measure_sizes
from experiments.atari.speed import measure_speed
from experiments.atari.training import TrainingConfig
from experiments.paired_blocks import PairedBlocks
from replaystore.errors import SpecError

PPO = TrainingConfig(game="Pong", algorithm="ppo", num_envs=2, rollout_steps=16)
QRDQN = TrainingConfig(game="Pong", algorithm="qrdqn", learning_starts=30, buffer_size=200)


@pytest.mark.parametrize(("config", "amount", "rows"), [(PPO, 2, 32), (QRDQN, 60, 60)])
@pytest.mark.parametrize("version", ["v4", "v5"])
def test_sizes_of_training(config: TrainingConfig, amount: int, rows: int, version: str) -> None:
    found = measure_sizes(replace(config, version=version), amount)
    assert found.rows == rows
    assert found.raw_bytes == 4 * 84 * 84 * (rows if config.algorithm == "ppo" else 1)
    assert found.our_bytes < found.published_bytes < found.raw_bytes / 2
    assert found.episodes == 0


def test_the_speed_of_both_buffers() -> None:
    found = measure_speed(replace(PPO, rollout_steps=8), 2, 10)
    assert found.steps == 16
    assert min(*found.original_seconds, *found.our_seconds) > 0


def test_no_such_game() -> None:
    with pytest.raises(SpecError, match="game: expected one of ALE"):
        measure_sizes(replace(PPO, game="Chess"), 1)


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def sizes(config: TrainingConfig, amount: int) -> Sizes:
        asked.append((config.name, amount))
        ours = 10.0 if config.game == "Pong" else 30.0
        return Sizes(
            game=config.game, algorithm=config.algorithm, rows=4, raw_bytes=1000.0, published_bytes=100.0,
            our_bytes=ours, episodes=1, mean_return=2.0,
        )  # fmt: skip

    def speed(config: TrainingConfig, blocks: int, steps: int) -> PairedBlocks:
        return PairedBlocks(steps=steps, original_seconds=(1.0,) * blocks, our_seconds=(1.25,) * blocks)

    monkeypatch.setattr(table, "measure_sizes", sizes)
    monkeypatch.setattr(table, "measure_speed", speed)
    options = {"rollouts": 5, "rows": 60, "blocks": 2, "block_steps": 10, "tell": lambda line: None}
    found = table.run(PPO, ("Pong", "Qbert"), ("Pong",), tmp_path, **options)
    assert asked == [
        (f"{algorithm}_{game}_v4", amount) for algorithm, amount in (("ppo", 5), ("qrdqn", 60))
        for game in ("Pong", "Qbert")
    ]  # fmt: skip
    assert table.run(PPO, ("Pong", "Qbert"), ("Pong",), tmp_path, **options) == found
    assert len(asked) == 4
    assert table.factors(found[0], "ppo") == (10.0, 50.0)
    text = "\n".join(table.lines_of(*found, {"seed": 0}))
    assert "50.0 times fewer bytes than raw stacks, with the published scheme 10.0 times. Published: 8.9" in text
    assert "| mean, ratio of means | 100.0 | 10.00 | 10.0 | 2.00 | 50.0 | 2 | - |" in text
    assert "1.250 to 1.250" in text
    assert len(table.plot(found[0]).axes) == 1
