"""The agent against plain loops and the paper's numbers."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.drqv2.agent import Agent, AgentConfig
from experiments.drqv2.networks import Actor, Critic, Encoder, noisy_action, random_shift

SMALL = AgentConfig(
    feature_dim=6,
    hidden_dim=8,
    learning_rate=1e-3,
    target_rate=0.25,
    shift_pad=2,
    noise_start=1.0,
    noise_end=0.1,
    noise_steps=100,
    noise_clip=0.3,
    uniform_steps=20,
)
SHAPE = (3, 20, 20)


def batch_of(seed: int, size: int = 5) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    images = [torch.from_numpy(rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8)) for _ in range(2)]
    action = torch.from_numpy(rng.uniform(-1, 1, (size, 2)).astype(np.float32))
    reward, discount = (torch.from_numpy(rng.uniform(0, 1, (size, 1)).astype(np.float32)) for _ in range(2))
    return images[0], action, reward, discount, images[1]


def shifted_by_hand(image: np.ndarray, pad: int, down: float, right: float) -> np.ndarray:
    """Pixel by pixel: the padded image, read at real positions."""
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="edge").astype(np.float64)
    result = np.empty(image.shape)
    last_row, last_column = padded.shape[1] - 1, padded.shape[2] - 1
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            row, column = y + down, x + right
            top, left = int(np.floor(row)), int(np.floor(column))
            a, b = row - top, column - left
            below, beside = min(top + 1, last_row), min(left + 1, last_column)
            result[:, y, x] = (
                padded[:, top, left] * (1 - a) * (1 - b)
                + padded[:, below, left] * a * (1 - b)
                + padded[:, top, beside] * (1 - a) * b
                + padded[:, below, beside] * a * b
            )
    return result


@pytest.mark.parametrize("shape", [(3, 12, 12), (2, 9, 14)])
def test_random_shift_is_a_bilinear_window_of_the_padded_image(shape):
    images = np.random.default_rng(0).uniform(0, 255, (6, *shape)).astype(np.float32)
    found = random_shift(torch.from_numpy(images), 3, torch.Generator().manual_seed(5)).numpy()
    offsets = torch.rand(6, 2, generator=torch.Generator().manual_seed(5)).numpy() * 6
    for image, other, (down, right) in zip(images, found, offsets, strict=True):
        np.testing.assert_allclose(other, shifted_by_hand(image, 3, float(down), float(right)), atol=0.02)
    assert len(np.unique(offsets)) == 12  # each image has its own


def test_networks_have_the_sizes_of_the_paper():
    encoder = Encoder((9, 84, 84))
    assert encoder.num_features == 32 * 35 * 35
    assert encoder(torch.zeros(2, 9, 84, 84)).shape == (2, 39_200)
    strides = [layer.stride for layer in encoder.layers if isinstance(layer, torch.nn.Conv2d)]
    assert strides == [(2, 2), (1, 1), (1, 1), (1, 1)]
    actor, critic = Actor(100, 6, 50, 1024), Critic(100, 6, 50, 1024)
    trunk = 100 * 50 + 50 + 2 * 50
    head = 1024 * 1024 + 1024
    assert sum(each.numel() for each in actor.parameters()) == trunk + 51 * 1024 + head + 1025 * 6
    assert sum(each.numel() for each in critic.parameters()) == trunk + 2 * (57 * 1024 + head + 1025)
    assert actor(torch.full((3, 100), 9.0)).abs().max() <= 1


def test_noise_is_clipped_and_the_gradient_goes_through():
    mean = torch.full((4000, 1), 0.9, requires_grad=True)
    torch.manual_seed(0)
    action = noisy_action(mean, 1.0, 0.3)
    assert action.max() <= 1
    assert action.min() >= 0.6 - 1e-6
    assert 0.2 < float((action < 0.65).float().mean()) < 0.5  # what lay beyond the clip is at its limit
    action.sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))
    far = noisy_action(torch.zeros(4000, 1), 2.0)  # without a clip only the range of actions limits it
    assert far.abs().max() > 0.999


def test_noise_falls_linearly_and_first_actions_are_uniform():
    assert [SMALL.noise(step) for step in (0, 50, 100, 1000)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    torch.manual_seed(0)
    agent = Agent(SMALL, SHAPE, 2)
    observation = np.zeros(SHAPE, np.uint8)
    drawn = np.stack([agent.act(observation, 10, explore=True) for _ in range(300)])
    assert drawn.dtype == np.float32
    assert np.abs(drawn).max() <= 1
    assert drawn.std() == pytest.approx(1 / np.sqrt(3), abs=0.04)
    settled = [agent.act(observation, 10, explore=False) for _ in range(2)]
    assert np.array_equal(*settled)


def test_the_critic_learns_the_clipped_double_value_and_the_target_follows():
    torch.manual_seed(3)
    agent = Agent(SMALL, SHAPE, 2)
    observation, action, reward, discount, following = batch_of(1)
    before = [each.clone() for each in agent.target.parameters()]
    torch.manual_seed(11)
    metrics = agent.update((observation, action, reward, discount, following), step=0)

    torch.manual_seed(3)
    twin = Agent(SMALL, SHAPE, 2)
    torch.manual_seed(11)
    with torch.no_grad():
        features = twin.encoder(random_shift(observation.float(), 2))
        next_features = twin.encoder(random_shift(following.float(), 2))
        chosen = noisy_action(twin.actor(next_features), 1.0, 0.3)
        values = twin.target(next_features, chosen)
        aim = reward + discount * torch.min(torch.cat(values, 1), 1, keepdim=True).values
        expected = sum(((value - aim) ** 2).mean() for value in twin.critic(features, action))
    assert float(metrics["critic_loss"]) == pytest.approx(float(expected), rel=1e-5)
    for old, new, source in zip(before, agent.target.parameters(), agent.critic.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * source)
    assert all(not each.requires_grad for each in agent.target.parameters())


def test_learns_to_tell_rewards_apart():
    """The value of bright images, which are rewarded, rises above that of dark ones."""
    torch.manual_seed(0)
    agent = Agent(SMALL, SHAPE, 2)
    images = torch.zeros(16, *SHAPE, dtype=torch.uint8)
    images[:8] = 200
    reward = torch.zeros(16, 1)
    reward[:8] = 1.0
    batch = images, torch.zeros(16, 2), reward, torch.zeros(16, 1), images
    losses = [float(agent.update(batch, 1000)["critic_loss"]) for _ in range(300)]
    assert losses[-1] < losses[0] / 5
    with torch.no_grad():
        value, _ = agent.critic(agent.encoder(images.float()), torch.zeros(16, 2))
    assert value[:8].mean() > value[8:].mean() + 0.5


def test_state_goes_on_as_if_nothing_had_happened():
    torch.manual_seed(1)
    agent = Agent(SMALL, SHAPE, 2)
    agent.update(batch_of(0), 0)
    state = copy.deepcopy(agent.state_dict())  # as a file would: no shared memory
    torch.manual_seed(2)
    first = agent.update(batch_of(1), 0)
    torch.manual_seed(9)
    other = Agent(SMALL, SHAPE, 2)
    other.load_state_dict(state)
    torch.manual_seed(2)
    second = other.update(batch_of(1), 0)
    assert {name: float(value) for name, value in first.items()} == {
        name: float(value) for name, value in second.items()
    }
    for one, two in zip(agent.actor.parameters(), other.actor.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_agent_learns_what_it_sees():
    """The best action is where the square is: found from pixels, rewards and random actions, with bootstrapping."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    agent = Agent(replace(SMALL, feature_dim=20, hidden_dim=64, learning_rate=1e-3, target_rate=0.01), (1, 24, 24), 2)

    def images_of(places: np.ndarray) -> np.ndarray:
        images = np.full((len(places), 1, 24, 24), 60, np.uint8)
        for image, (x, y) in zip(images, np.round((places + 1) * 8).astype(int) + 4, strict=True):
            image[0, y - 3 : y + 4, x - 3 : x + 4] = 200
        return images

    for step in range(200):
        places, following = rng.uniform(-0.8, 0.8, (2, 32, 2))
        actions = rng.uniform(-1, 1, (32, 2))
        rewards = 1 - np.abs(actions - places).mean(axis=1, keepdims=True)
        values = images_of(places), actions, rewards, np.full((32, 1), 0.5), images_of(following)
        agent.update([torch.as_tensor(v if v.dtype == np.uint8 else v.astype(np.float32)) for v in values], step)
    places = rng.uniform(-0.8, 0.8, (100, 2))
    found = np.stack([agent.act(image, 300, explore=False) for image in images_of(places)])
    assert np.abs(found - places).mean() < 0.2  # 0.4 for a constant
    assert min(np.corrcoef(found[:, k], places[:, k])[0, 1] for k in range(2)) > 0.9
