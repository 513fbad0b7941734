"""The DrQ-v2 agent, from the paper (Yarats et al., 2021, section 3.1)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.drqv2.networks import Actor, Critic, Encoder, noisy_action, random_shift

Batch = Sequence[Tensor]  # observation, action, reward, discount, next observation


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Networks, optimisers and exploration. config/agent/drqv2.yaml has the values of the paper.

    Attributes:
        feature_dim: width of the trunks.
        hidden_dim: width of the layers behind the trunks.
        learning_rate: learning rate of Adam, for all networks.
        target_rate: rate of the moving average of the critic.
        shift_pad: most pixels of a random shift.
        noise_start: standard deviation of the exploration noise at the first step.
        noise_end: standard deviation of the noise after `noise_steps`.
        noise_steps: steps of the agent over which the noise changes linearly. Each step is `action_repeat` frames.
        noise_clip: limit of the noise in updates.
        uniform_steps: first steps, in which actions are drawn uniformly.
    """

    feature_dim: int
    hidden_dim: int
    learning_rate: float
    target_rate: float
    shift_pad: int
    noise_start: float
    noise_end: float
    noise_steps: int
    noise_clip: float
    uniform_steps: int

    def noise(self, step: int) -> float:
        """Returns the standard deviation of the noise at a step of the agent."""
        done = min(max(step / max(self.noise_steps, 1), 0.0), 1.0)
        return self.noise_start + (self.noise_end - self.noise_start) * done


class Agent:
    """Acts, and learns from batches. All randomness comes from torch's global generators.

    Args:
        image_shape: shape of an observation, (channel, height, width).
    """

    def __init__(
        self, config: AgentConfig, image_shape: Sequence[int], num_actions: int, device: torch.device | str = "cpu"
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self._num_actions = num_actions
        self.encoder = Encoder(image_shape).to(self.device)
        sizes = self.encoder.num_features, num_actions, config.feature_dim, config.hidden_dim
        self.actor = Actor(*sizes).to(self.device)
        self.critic = Critic(*sizes).to(self.device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self._parts: dict[str, nn.Module] = {
            "encoder": self.encoder, "actor": self.actor, "critic": self.critic, "target": self.target,
        }  # fmt: skip
        self._optimisers = {
            name: torch.optim.Adam(self._parts[name].parameters(), lr=config.learning_rate)
            for name in ("encoder", "actor", "critic")
        }

    @torch.no_grad()
    def act(self, observation: npt.NDArray[np.uint8], step: int, *, explore: bool) -> npt.NDArray[np.float32]:
        """Returns an action for one observation, float32 (action,) in [-1, 1].

        Args:
            observation: (channel, height, width).
            step: steps of the agent so far. It decides the noise.
            explore: whether to add noise to the mean action.
        """
        if explore and step < self.config.uniform_steps:
            return np.asarray(torch.rand(self._num_actions) * 2 - 1, np.float32)
        images = torch.as_tensor(observation, device=self.device)[None].float()
        mean: Tensor = self.actor(self.encoder(images))
        action = noisy_action(mean, self.config.noise(step)) if explore else mean
        return np.asarray(action[0].cpu(), np.float32)

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Makes one step of the critic with the encoder, one step of the actor, and one of the target.

        Args:
            batch: uint8 observations (batch, channel, height, width), actions (batch, action), and the float32 reward
                and discount (batch, 1) of n-step returns.
            step: steps of the agent so far. It decides the noise.

        Returns:
            Scalars on the device: `critic_loss`, `actor_loss`, `batch_reward`, `value`.
        """
        observation, action, reward, discount, following = (part.to(self.device, non_blocking=True) for part in batch)
        spread = self.config.noise(step)
        features: Tensor = self.encoder(random_shift(observation.float(), self.config.shift_pad))
        with torch.no_grad():
            next_features: Tensor = self.encoder(random_shift(following.float(), self.config.shift_pad))
        critic_loss, value = self._update_critic(features, action.float(), reward, discount, next_features, spread)
        actor_loss = self._update_actor(features.detach(), spread)
        self._update_target()
        return {
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "batch_reward": reward.mean(),
            "value": value.detach().mean(),
        }

    def _update_critic(
        self, features: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_features: Tensor, spread: float
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            next_action = noisy_action(self.actor(next_features), spread, self.config.noise_clip)
            aim = reward + discount * torch.minimum(*self.target(next_features, next_action))
        first, second = self.critic(features, action)
        loss = functional.mse_loss(first, aim) + functional.mse_loss(second, aim)
        for name in ("encoder", "critic"):
            self._optimisers[name].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for name in ("critic", "encoder"):
            self._optimisers[name].step()
        return loss, first

    def _update_actor(self, features: Tensor, spread: float) -> Tensor:
        action = noisy_action(self.actor(features), spread, self.config.noise_clip)
        self.critic.requires_grad_(False)
        loss = -torch.minimum(*self.critic(features, action)).mean()
        self._optimisers["actor"].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.critic.requires_grad_(True)
        self._optimisers["actor"].step()
        return loss

    @torch.no_grad()
    def _update_target(self) -> None:
        for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            old.lerp_(new, self.config.target_rate)

    def state_dict(self) -> dict[str, Any]:
        """Returns the parameters and the state of the optimisers, for `load_state_dict`."""
        networks = {name: part.state_dict() for name, part in self._parts.items()}
        return {
            "networks": networks,
            "optimisers": {name: each.state_dict() for name, each in self._optimisers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        for name, part in self._parts.items():
            part.load_state_dict(state["networks"][name])
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
