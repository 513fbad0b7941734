"""A program of our own in the shape of a DrQ-v2 checkout: the same files, names and calls, all else made up and tiny.

Its world shows noise that a generator draws, episodes are 12 steps long, its agent is a linear layer. It cannot run
before it is patched: it imports torchvision, and asks for a launcher that is not there.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

FILES = {
    "train.py": """
        # A made-up trainer.
        import os

        os.environ["MUJOCO_GL"] = "glfw"
        os.environ["MADE_UP"] = "1"

        from pathlib import Path

        import hydra
        import numpy as np
        import torch

        import dmc
        import utils
        from logger import Logger
        from replay_buffer import make_replay_loader, ReplayBufferStorage  # the buffer


        class Workspace:
            def __init__(self, cfg):
                self.work_dir = Path.cwd()
                self.cfg = cfg
                np.random.seed(cfg.seed)
                torch.manual_seed(cfg.seed)
                self.setup()
                self.agent = hydra.utils.instantiate(cfg.agent)
                self.timer = utils.Timer()
                self._global_step = self._global_episode = 0

            def setup(self):
                self.logger = Logger(self.work_dir)
                self.train_env = dmc.make(self.cfg.size, self.cfg.frame_stack, self.cfg.seed)
                self.eval_env = dmc.make(self.cfg.size, self.cfg.frame_stack, self.cfg.seed)
                where = self.work_dir / "buffer"
                self.replay_storage = ReplayBufferStorage(self.train_env.data_specs(), where)
                self.replay_loader = make_replay_loader(where, self.cfg.replay_buffer_size, self.cfg.batch_size,
                                                        self.cfg.replay_buffer_num_workers, self.cfg.save_snapshot,
                                                        self.cfg.nstep, discount=self.cfg.discount)

            @property
            def global_frame(self):
                return self._global_step * self.cfg.action_repeat

            def train(self):
                now = self.train_env.reset()
                self.replay_storage.add(now)
                while self.global_frame < self.cfg.num_train_frames:
                    if now.last():
                        self._global_episode += 1
                        self.logger.write(self._global_episode, len(self.replay_storage))
                        now = self.train_env.reset()
                        self.replay_storage.add(now)
                        if self.cfg.save_snapshot:
                            # keep it
                            self.save_snapshot()
                    if self.global_frame >= self.cfg.num_seed_frames:
                        self.agent.update(self.replay_loader)
                    now = self.train_env.step(self.agent.act(now.observation))
                    self.replay_storage.add(now)
                    self._global_step += 1  # one more

            def save_snapshot(self):
                \"\"\"Writes all of it.\"\"\"
                torch.save(vars(self), "somewhere")

            def load_snapshot(self):
                vars(self).update(torch.load("somewhere"))


        @hydra.main(config_path="cfgs", config_name="config")
        def main(cfg):
            made = Workspace(cfg)
            if Path("snapshot.pt").exists():
                made.load_snapshot()
            made.train()
            print("MUJOCO_GL is", os.environ["MUJOCO_GL"])


        if __name__ == "__main__":
            main()
    """,
    "dmc.py": """
        import os
        import signal
        from typing import Any, NamedTuple

        import action_scale
        import numpy as np


        class Spec(NamedTuple):
            shape: Any
            dtype: Any
            name: str


        class Now(NamedTuple):
            kind: int
            reward: Any
            discount: Any
            observation: Any
            action: Any

            def first(self):
                return self.kind == 0

            def last(self):
                return self.kind == 2

            def __getitem__(self, key):
                return getattr(self, key) if isinstance(key, str) else tuple.__getitem__(self, key)


        class World:
            def __init__(self, size, stack, seed):
                self.random_state = np.random.RandomState(seed)
                self.size, self.stack, self.steps = size, stack, 0
                self.kill_at = int(os.environ.get("KILL_AT", "-1"))

            def see(self):
                frame = self.random_state.randint(0, 256, (3, self.size, self.size)).astype(np.uint8)
                self.frames = [*getattr(self, "frames", [])[1:], frame] if self.at else [frame] * self.stack
                return np.concatenate(self.frames)

            def reset(self):
                self.at = 0
                return Now(0, None, None, self.see(), np.zeros(2, self.action_spec().dtype))

            def step(self, action):
                self.at += 1
                self.steps += 1
                if self.steps == self.kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                observation = self.see()
                return Now(2 if self.at == 12 else 1, float(self.at), float(self.at < 12), observation, action)

            def action_spec(self):
                return Spec((2,), np.float64, "action")


        class Wrapping:
            def __init__(self, env):
                self._env = env

            def __getattr__(self, name):
                return getattr(self._env, name)


        class ActionDTypeWrapper(Wrapping):
            def __init__(self, env, dtype):
                super().__init__(env)
                self._dtype = dtype

            def action_spec(self):
                return self._env.action_spec()._replace(dtype=self._dtype)

            def step(self, action):
                found = self._env.step(action.astype(np.float64))
                return found._replace(action=found.action.astype(self._dtype))


        class Completed(Wrapping):
            def reset(self):
                return self._complete(self._env.reset())

            def step(self, action):
                return self._complete(self._env.step(action))

            def _complete(self, now):
                action = now.action.astype(self.action_spec().dtype)
                return now._replace(action=action, reward=now.reward or 0.0,
                                    discount=(now.discount or 1.0))

            def data_specs(self):
                side = self._env.size
                return (Spec((3 * self._env.stack, side, side), np.uint8, "observation"), self.action_spec(),
                        Spec((1,), np.float32, "reward"), Spec((1,), np.float32, "discount"))


        def make(size, stack, seed):
            env = World(size, stack, seed)
            env = action_scale.Wrapper(env, low=-1.0)  # scales
            return Completed(env)
    """,
    "action_scale.py": """
        class Wrapper:
            def __init__(self, env, low):
                self._env = env

            def __getattr__(self, name):
                return getattr(self._env, name)
    """,
    "agent.py": """
        import torch


        class Agent:
            def __init__(self, inputs, rate, device):
                self.net = torch.nn.Linear(inputs, 2)
                self.opt = torch.optim.Adam(self.net.parameters(), lr=rate)
                self.count = torch.zeros((), dtype=torch.int64)
                self.device = device

            def act(self, observation):
                with torch.no_grad():
                    flat = torch.as_tensor(observation).float().flatten()[: self.net.in_features] / 255
                    return (torch.tanh(self.net(flat)) + 0.1 * torch.randn(2)).clamp(-1, 1).numpy()

            def update(self, batches):
                observation, action, reward, discount, after = next(batches)
                flat = observation.float().flatten(1)[:, : self.net.in_features] / 255
                loss = ((self.net(flat) - action) ** 2 * reward + discount).mean() + after.float().mean()
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
                self.count += 1
    """,
    "logger.py": """
        import torchvision


        class Logger:
            def __init__(self, directory):
                self._path = directory / "lines.txt"

            def write(self, *values):
                with self._path.open("a") as file:
                    print(*values, file=file)
    """,
    "video.py": "SIZE = 1\n",
    "utils.py": """
        import time


        class Timer:
            def __init__(self):
                self._start_time = time.time()

            def total_time(self):
                return time.time() - self._start_time
    """,
    "replay_buffer.py": "raise ImportError('the buffer in files')\n",
    "cfgs/config.yaml": """
        # made up
        defaults:
          - _self_
          - task@_global_: walking
          - override hydra/launcher: nowhere_to_be_found

        action_repeat: 2
        frame_stack: 3
        discount: 0.5
        num_seed_frames: 50
        save_snapshot: false  # a comment
        replay_buffer_size: 1000
        replay_buffer_num_workers: 2
        nstep: 3
        batch_size: 4
        seed: 7
        device: cuda
        experiment: some
        agent:
          _target_: agent.Agent
          inputs: 64
          rate: 0.01
          device: ${device}
        hydra:
          run:
            dir: ./runs/${now:%Y.%m.%d}/${now:%H%M%S}_${hydra.job.override_dirname}
          sweep:
            dir: ./sweeps/${agent_cfg.experiment}
          launcher:
            minutes: 3
            folder: ./sweeps/${agent_cfg.experiment}
    """,
    "cfgs/task/walking.yaml": "size: 8\nnum_train_frames: 240\n",
}


def write_checkout(path: Path, newline: str = "\n") -> dict[str, bytes]:
    """Writes the checkout; returns the bytes of its files."""
    for name, text in FILES.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = textwrap.dedent(text).lstrip("\n")
        target.write_bytes((lines.rstrip("\n") if name == "train.py" else lines).replace("\n", newline).encode())
    (path / "train.py").chmod(0o755)
    return contents(path)


def contents(path: Path) -> dict[str, bytes]:
    """Every file below a directory, but for what Python compiles and runs leave."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and not {"__pycache__", "runs"} & set(file.parts)
    }
