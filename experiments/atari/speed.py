"""Training with the buffer of stable-baselines3 and with ours, in turns."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.atari.training import FRAME_STACK, TrainingConfig, make_environment, make_model
from experiments.paired_blocks import PairedBlocks, time_in_turns
from replaystore.adapters.sb3 import DeltaRolloutBuffer, StoreReplayBuffer


def measure_speed(config: TrainingConfig, num_blocks: int, block_steps: int) -> PairedBlocks:
    """Trains two models in turns, after steps that do not count.

    Args:
        config: what is trained.
        num_blocks: blocks of each model.
        block_steps: steps per block of QR-DQN. Those of PPO are a rollout.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="atari-")))
        envs = [make_environment(config) for _ in range(2)]
        for env in envs:
            stack.callback(env.close)
        original = make_model(config, envs[0])
        if config.algorithm == "ppo":
            steps = warm_steps = config.rollout_rows
            ours = make_model(config, envs[1], DeltaRolloutBuffer, frame_stack=FRAME_STACK)
        else:
            steps, warm_steps = block_steps, config.learning_starts
            ours = make_model(
                config, envs[1], StoreReplayBuffer, path=scratch / "store", mode="full", frame_stack=FRAME_STACK
            )
            stack.callback(ours.replay_buffer.close)
        for model in (original, ours):
            model.learn(warm_steps, reset_num_timesteps=False)
        return time_in_turns(
            lambda: original.learn(steps, reset_num_timesteps=False),
            lambda: ours.learn(steps, reset_num_timesteps=False),
            num_blocks=num_blocks,
            steps=steps,
        )
