"""Records episodes of DeepMind Control Suite tasks as DrQ-v2 episode files. Needs `pip install 'replaystore[dmc]'`.

`config` describes what to record. `rendering` finds a way to render. `environment` is the environment of one episode,
with the semantics of DrQ-v2's. `recorder` writes the files. dm_control is imported when an environment is made, not
before.
"""

from __future__ import annotations

from replaystore.collect.config import CollectConfig
from replaystore.collect.recorder import collect, record_episode
from replaystore.collect.rendering import RenderingUnavailable, ensure_rendering

__all__ = ["CollectConfig", "RenderingUnavailable", "collect", "ensure_rendering", "record_episode"]
