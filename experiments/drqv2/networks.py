"""Networks and augmentation of DrQ-v2, from the paper (Yarats et al., 2021, section 3 and appendix B)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_CHANNELS = 32
_EDGE = 1e-6  # actions stay this far inside [-1, 1]


def initialise(module: nn.Module) -> None:
    """Sets orthogonal weights and zero biases. Pass it to `Module.apply`."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        gain = nn.init.calculate_gain("relu") if isinstance(module, nn.Conv2d) else 1.0
        nn.init.orthogonal_(module.weight, gain)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def random_shift(images: Tensor, pad: int = 4, generator: torch.Generator | None = None) -> Tensor:
    """Moves each image by a random offset of up to `pad` pixels in each direction. Edges are repeated.

    Offsets are real numbers. A pixel is interpolated between its four neighbours (bilinear), as in the paper.

    Args:
        images: (batch, channel, height, width) float.

    Returns:
        The same shape.
    """
    batch, _, height, width = images.shape
    padded = functional.pad(images, (pad, pad, pad, pad), mode="replicate")
    # Centres of the pixels of the window, in the padded image's coordinates from -1 to 1.
    full_height, full_width = height + 2 * pad, width + 2 * pad
    y = (2 * torch.arange(height, device=images.device, dtype=images.dtype) + 1) / full_height - 1
    x = (2 * torch.arange(width, device=images.device, dtype=images.dtype) + 1) / full_width - 1
    offset = torch.rand(batch, 2, device=images.device, dtype=images.dtype, generator=generator) * (4 * pad)
    rows = (y[None] + offset[:, :1] / full_height)[:, :, None].expand(batch, height, width)
    columns = (x[None] + offset[:, 1:] / full_width)[:, None, :].expand(batch, height, width)
    grid = torch.stack([columns, rows], dim=3)
    return functional.grid_sample(padded, grid, mode="bilinear", padding_mode="border", align_corners=False)


def noisy_action(mean: Tensor, spread: float, clip: float | None = None) -> Tensor:
    """Adds normal noise of standard deviation `spread`, clipped to +-`clip`, to `mean`. Keeps the sum inside (-1, 1).

    The gradient with respect to `mean` is the identity, also where the sum was kept inside.
    """
    noise = torch.randn_like(mean) * spread
    if clip is not None:
        noise = noise.clamp(-clip, clip)
    action = mean + noise
    inside = action.clamp(-1 + _EDGE, 1 - _EDGE)
    return action + (inside - action).detach()


class Encoder(nn.Module):
    """Turns uint8 images into flat float features by four 3 x 3 convolutions of 32 channels. The first has stride 2.

    Args:
        image_shape: (channel, height, width). Height and width are at least 15.
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = image_shape[0]
        for stride in (2, 1, 1, 1):
            layers += [nn.Conv2d(channels, _CHANNELS, 3, stride=stride), nn.ReLU()]
            channels = _CHANNELS
        self.layers = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            self.num_features = int(self.layers(torch.zeros(1, *image_shape)).shape[1])
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (batch, channel, height, width), values 0 to 255, to (batch, num_features)."""
        features: Tensor = self.layers(images / 255.0 - 0.5)
        return features


def _trunk(num_features: int, feature_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_features, feature_dim), nn.LayerNorm(feature_dim), nn.Tanh())


def _head(inputs: int, hidden_dim: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, outputs),
    )


class Actor(nn.Module):
    """Maps features to the mean action, (batch, action) in [-1, 1]."""

    def __init__(self, num_features: int, num_actions: int, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.trunk = _trunk(num_features, feature_dim)
        self.policy = _head(feature_dim, hidden_dim, num_actions)
        self.apply(initialise)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (batch, num_features) to (batch, action)."""
        mean: Tensor = torch.tanh(self.policy(self.trunk(features)))
        return mean


class Critic(nn.Module):
    """Maps features and actions to two independent values, each (batch, 1)."""

    def __init__(self, num_features: int, num_actions: int, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.trunk = _trunk(num_features, feature_dim)
        self.first = _head(feature_dim + num_actions, hidden_dim, 1)
        self.second = _head(feature_dim + num_actions, hidden_dim, 1)
        self.apply(initialise)

    def forward(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (batch, num_features) and (batch, action) to two values, each (batch, 1)."""
        joined = torch.cat([self.trunk(features), actions], dim=1)
        return self.first(joined), self.second(joined)
