"""A replay store for reinforcement learning from pixels and proprioception.

Importing this package loads no heavy module. The names below are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replaystore.batches.protocol import BatchView
    from replaystore.batches.transitions import TransitionView
    from replaystore.codecs.frame_delta import FrameDelta
    from replaystore.codecs.round_clamp import RoundClamp
    from replaystore.loading.dataset import ReplayDataset
    from replaystore.loading.loader import ReplayLoader
    from replaystore.sampling.protocol import Draw, RowSampler
    from replaystore.sampling.sampler import Sampler
    from replaystore.spec import FieldSpec, StoreSpec
    from replaystore.store import ReplayStore

__version__ = "0.1.0"

_HOMES = {
    "BatchView": "replaystore.batches.protocol",
    "Draw": "replaystore.sampling.protocol",
    "FieldSpec": "replaystore.spec",
    "FrameDelta": "replaystore.codecs.frame_delta",
    "ReplayDataset": "replaystore.loading.dataset",
    "ReplayLoader": "replaystore.loading.loader",
    "ReplayStore": "replaystore.store",
    "RoundClamp": "replaystore.codecs.round_clamp",
    "RowSampler": "replaystore.sampling.protocol",
    "Sampler": "replaystore.sampling.sampler",
    "StoreSpec": "replaystore.spec",
    "TransitionView": "replaystore.batches.transitions",
}

__all__ = [
    "BatchView",
    "Draw",
    "FieldSpec",
    "FrameDelta",
    "ReplayDataset",
    "ReplayLoader",
    "ReplayStore",
    "RoundClamp",
    "RowSampler",
    "Sampler",
    "StoreSpec",
    "TransitionView",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'replaystore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
