"""Trains DrQ-v2 on a task of the DeepMind Control Suite: `python -m experiments.drqv2.train task=walker_walk`."""

from __future__ import annotations

import sys

from drqv2_patch.device import check_device_argument
from replaystore.errors import SpecError
from replaystore.runtime.extras import needs

with needs("experiments.drqv2.train", "bench", "dmc", "drqv2", in_command=__name__ == "__main__"):
    from experiments.drqv2.commands import fail, run
    from experiments.drqv2.train_config import TrainConfig
    from experiments.drqv2.trainer import train


def main(config: TrainConfig) -> None:
    """Trains to the end of the run."""
    train(config)


if __name__ == "__main__":
    try:
        check_device_argument(sys.argv[1:])  # before Hydra creates the directory of the run
    except SpecError as err:
        fail(err)
    run("train", TrainConfig, main)
