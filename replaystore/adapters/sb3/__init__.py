"""stable-baselines3 on a replay store, and with encoded rollouts in memory: classes of buffers for its algorithms."""

from replaystore.runtime.extras import needs

with needs("replaystore.adapters.sb3", "sb3"):
    import torch  # noqa: F401
    from gymnasium import spaces  # noqa: F401
    from stable_baselines3.common.buffers import ReplayBuffer  # noqa: F401

from replaystore.adapters.sb3.buffer import StoreReplayBuffer
from replaystore.adapters.sb3.rollout import (
    DeltaDictRolloutBuffer,
    DeltaRolloutBuffer,
    RoundClampDictRolloutBuffer,
    RoundClampRolloutBuffer,
)

__all__ = [
    "DeltaDictRolloutBuffer",
    "DeltaRolloutBuffer",
    "RoundClampDictRolloutBuffer",
    "RoundClampRolloutBuffer",
    "StoreReplayBuffer",
]
