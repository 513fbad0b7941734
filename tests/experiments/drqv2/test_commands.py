"""The configurations of all commands fit their dataclasses, frozen ones inside others too."""

from __future__ import annotations

import importlib

import pytest

from experiments.drqv2 import commands
from experiments.drqv2.agent import AgentConfig

COMMANDS = {
    "train": "train_config.TrainConfig",
    "latency": "latency.LatencyConfig",
    "learning_curves": "learning_curves.LearningCurvesConfig",
    "learning_curves_small": "learning_curves.LearningCurvesConfig",
    "published_table": "published_table.PublishedTableConfig",
    "same_learning": "same_learning.SameLearningConfig",
    "theoretical_factor": "theoretical_factor.TheoreticalFactorConfig",
}


def composed(name: str, *overrides: str) -> object:
    hydra = pytest.importorskip("hydra")
    module, _, schema = COMMANDS[name].partition(".")
    found = getattr(importlib.import_module(f"experiments.drqv2.{module}"), schema)
    with hydra.initialize_config_dir(str(commands.CONFIG), version_base="1.3"):
        return commands.typed(hydra.compose(name, overrides=list(overrides)), found)


def test_every_configuration_is_listed():
    assert {path.stem for path in commands.CONFIG.glob("*.yaml")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_configuration_fits_its_dataclass(name):
    assert type(composed(name)).__name__ == COMMANDS[name].partition(".")[2]


def test_values_inside_a_frozen_dataclass_are_read_and_checked():
    config = composed("train", "agent.hidden_dim=64", "max_episode_steps=25")
    assert isinstance(config.agent, AgentConfig)
    assert (config.agent.hidden_dim, config.max_episode_steps, config.device) == (64, 25, "auto")
    omegaconf = pytest.importorskip("omegaconf")
    with pytest.raises(omegaconf.errors.ValidationError, match="many"):
        composed("train", "agent.hidden_dim=many")
