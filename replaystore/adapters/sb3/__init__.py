"""stable-baselines3 on a replay store: a `replay_buffer_class` for its off-policy algorithms."""

from replaystore.runtime.extras import needs

with needs("replaystore.adapters.sb3", "sb3"):
    import torch  # noqa: F401
    from gymnasium import spaces  # noqa: F401
    from stable_baselines3.common.buffers import ReplayBuffer  # noqa: F401

from replaystore.adapters.sb3.buffer import StoreReplayBuffer

__all__ = ["StoreReplayBuffer"]
