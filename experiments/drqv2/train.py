"""Trains DrQ-v2 on a task of the DeepMind Control Suite: `python -m experiments.drqv2.train task=walker_walk`."""

from __future__ import annotations

from replaystore.extras import needs

with needs("experiments.drqv2.train", "bench", "dmc", "drqv2", in_command=__name__ == "__main__"):
    from experiments.drqv2.commands import run
    from experiments.drqv2.train_config import TrainConfig
    from experiments.drqv2.trainer import train


def main(config: TrainConfig) -> None:
    """Runs to the end."""
    train(config)


if __name__ == "__main__":
    run("train", TrainConfig, main)
