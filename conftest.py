"""Runs the Python of the pages that say how to use the package, each page in a directory of its own."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import types
from typing import Any

import numpy as np
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser


class _Environment:
    """Like a Gymnasium environment whose episodes are cut after ten steps: images (84, 84, 3), six actions."""

    def reset(self) -> tuple[Any, dict[str, Any]]:
        self._steps = 0
        return self._image(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.shape == (6,)
        self._steps += 1
        return self._image(), 1.0, False, self._steps == 10, {}

    def _image(self) -> Any:
        return np.full((84, 84, 3), self._steps, np.uint8)


def _setup(names: dict[str, Any]) -> None:
    import torch  # here, so that tests that need no torch run where it is not installed

    from replaystore.columns import registry

    stack = names["stack"] = contextlib.ExitStack()
    stack.callback(setattr, registry, "KINDS", registry.KINDS)  # a page adds a kind
    stack.enter_context(contextlib.chdir(stack.enter_context(tempfile.TemporaryDirectory())))
    episode = {
        "observation": np.zeros((5, 9, 84, 84), np.uint8),
        "action": np.zeros((5, 6), np.float32),
        "reward": np.zeros((5, 1), np.float32),
        "discount": np.ones((5, 1), np.float32),
    }
    time_step = {name: rows[0] for name, rows in episode.items()}
    agent, policy = torch.nn.Linear(1, 1), lambda observation: np.zeros(6)
    names.update(env=_Environment(), policy=policy, agent=agent, episode=episode, time_step=time_step)
    page: Any = types.ModuleType("page")
    page.__getattr__ = names.__getitem__  # so that a class of the page can be pickled
    sys.modules["page"] = page
    names["__name__"] = "page"


def _teardown(names: dict[str, Any]) -> None:
    for name in ("loader", "store"):  # closing twice is fine
        names[name].close()
    names["stack"].close()
    del sys.modules["page"]
    logging.getLogger("replaystore").setLevel(logging.NOTSET)  # a page says how to set it


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "howto.md", "extending.md"],
    setup=_setup,
    teardown=_teardown,
).pytest()
