"""Drop-in replacements for DrQ-v2's replay buffer: import from here instead of from its `replay_buffer`.

docs/drqv2.md has the arguments and every difference.
"""

from __future__ import annotations

from drqv2_patch.loading import TupleLoader, make_replay_loader
from drqv2_patch.replay import ReplayBufferStorage

__all__ = ["ReplayBufferStorage", "TupleLoader", "make_replay_loader"]
