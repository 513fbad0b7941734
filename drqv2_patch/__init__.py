"""DrQ-v2 on a replay store: its two replay buffer names, and a patch for a checkout of it.

`python -m drqv2_patch apply CHECKOUT` makes the edits. An edited `train.py` calls `drqv2_patch.training`.
docs/drqv2.md has the commands, the arguments and every difference. Importing this package imports no other package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drqv2_patch.loader import TupleLoader, make_replay_loader
    from drqv2_patch.storage import ReplayBufferStorage

__all__ = ["ReplayBufferStorage", "TupleLoader", "make_replay_loader"]

_HOMES = {
    "ReplayBufferStorage": "drqv2_patch.storage",
    "TupleLoader": "drqv2_patch.loader",
    "make_replay_loader": "drqv2_patch.loader",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'drqv2_patch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
