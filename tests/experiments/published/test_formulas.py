"""The published figures, from the published formulas."""

import math

import pytest

from experiments.published import formulas
from replaystore.codecs.round_clamp import RoundClamp
from replaystore.errors import SpecError

# Eight grayscale episodes of 501 rows: pixels that differ from the first frame of their stack of three, over all
# frames; frames in which more than 1,764 (a quarter) differ are stored raw and count as 1,764.
NUM_ROWS, STORED_PIXELS = 8 * 501, 2_577_466


@pytest.mark.parametrize(("decimals", "expected"), [(0, 8), (1, 12), (2, 15), (3, 18), (4, 22)])
def test_published_bits(decimals, expected):
    assert formulas.published_bits(decimals, 127.0) == expected


@pytest.mark.parametrize(("decimals", "bound"), [(0, 127.0), (1, 127.0), (2, 127.0), (3, 64.0), (2, 5.0), (4, 1000.0)])
def test_packing_needs_at_most_the_published_bits(decimals, bound):
    packed = formulas.packed_bits(decimals, -bound, bound)
    assert packed == math.ceil(math.log2(2 * bound * 10**decimals + 1))
    assert packed <= formulas.published_bits(decimals, bound)


@pytest.mark.parametrize("bound", [1.0, 2.0, 64.0, 128.0])
def test_published_bits_are_one_short_for_powers_of_two(bound):
    assert formulas.packed_bits(0, -bound, bound) == formulas.published_bits(0, bound) + 1


@pytest.mark.parametrize(("decimals", "expected"), [(1, 5.3), (2, 4.3)])
def test_factor_against_64_bit_floats(decimals, expected):
    assert 64 / formulas.packed_bits(decimals, -127.0, 127.0) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("decimals", "low", "high"), [(2, -127.0, 127.0), (0, 0.0, 1.0), (3, -0.5, 9.25), (-1, -400.0, 9.0), (5, 2.0, 2.0)]
)
def test_the_codec_packs_into_the_bits_calculated(decimals, low, high):
    assert RoundClamp(decimals=decimals, low=low, high=high).bits == (formulas.packed_bits(decimals, low, high),)


def test_bits_of_impossible_bounds():
    with pytest.raises(SpecError, match="low <= high"):
        formulas.packed_bits(2, 1.0, -1.0)
    for decimals, bound in ((-1, 127.0), (2, 0.5), (2, math.inf), (2, math.nan)):
        with pytest.raises(SpecError, match="published_bits"):
            formulas.published_bits(decimals, bound)


def test_observation_bytes_a_row():
    size = formulas.published_observation_bytes(num_rows=NUM_ROWS, frame_stack=3, stored_pixels=STORED_PIXELS)
    assert size / NUM_ROWS == pytest.approx(4941.65, abs=0.01)


def test_observation_bytes_term_by_term():
    size = formulas.published_observation_bytes(
        num_rows=12, frame_stack=4, stored_pixels=100, frame_side=10, num_keyframes=5
    )
    assert size == 100 * 5 + 8 * 5 * 3 + 4 * 100 + 4 * 12 * 4


def test_observation_factor():
    arguments = {"num_rows": NUM_ROWS, "frame_stack": 3, "stored_pixels": STORED_PIXELS}
    factor = formulas.published_observation_factor(**arguments)
    assert factor == pytest.approx(3 * 84 * 84 / 4941.65, rel=1e-5)
    # Without a changed pixel.
    assert formulas.published_observation_factor(num_rows=4, frame_stack=4, stored_pixels=0) == pytest.approx(
        84 * 84 * 16 / (84 * 84 + 24 + 64)
    )


@pytest.mark.parametrize("frame_stack", [1, 3, 4])
@pytest.mark.parametrize("changed_pixels", [0, 100, 1500])
@pytest.mark.parametrize("frame_side", [64, 84])
def test_corrected_simplified_factor_is_the_factor(frame_stack, changed_pixels, frame_side):
    num_rows = 60
    stored = changed_pixels * num_rows * (frame_stack - 1) / frame_stack
    full = formulas.published_observation_factor(
        num_rows=num_rows, frame_stack=frame_stack, stored_pixels=stored, frame_side=frame_side
    )
    simplified = formulas.simplified_observation_factor(changed_pixels, frame_stack, frame_side=frame_side)
    assert simplified == pytest.approx(full, rel=1e-12)


def test_simplified_factor_in_print():
    n, f = 30, 4
    printed = formulas.simplified_observation_factor(n, f, as_printed=True)
    assert printed == pytest.approx(1764 * f / ((1762 - n) / f + 2 + n))
    corrected = formulas.simplified_observation_factor(n, f)
    assert corrected == pytest.approx(1764 * f / ((1762 - n) / f + 2 + n + f))
    assert printed > corrected


def test_training_of_391_dimensions():
    buffer = formulas.buffer_bytes(num_rows=8300, observation_dims=391, action_dims=16)
    observations = formulas.buffer_bytes(num_rows=8300, observation_dims=391, action_dims=0, reward_bits=0)
    policy = formulas.network_bytes([391, 256, 256, 16])
    value = formulas.network_bytes([391, 256, 256, 1])
    total = formulas.training_bytes("ppo", policy_bytes=policy, value_bytes=value, buffer_bytes=buffer)
    assert buffer > 27e6
    assert round((policy + value) / 1e6, 1) == 1.3
    assert round(buffer / total, 2) == 0.95
    assert round(observations / buffer, 2) == 0.96


def test_training_of_112_dimensions():
    printed = formulas.buffer_bytes(num_rows=10**5, observation_dims=112, action_dims=8)
    assert printed == 96.8e6
    assert formulas.buffer_bytes(num_rows=10**6, observation_dims=112, action_dims=8) == 968e6


def test_sac_has_two_value_networks():
    sizes = {"policy_bytes": 5, "value_bytes": 7, "buffer_bytes": 100}
    assert formulas.training_bytes("ppo", **sizes) == 112
    assert formulas.training_bytes("sac", **sizes) == 119
    with pytest.raises(SpecError, match="ppo"):
        formulas.training_bytes("dqn", **sizes)


def test_networks_count_weights_and_biases():
    assert formulas.network_bytes([3, 5, 2]) == 4 * (3 * 5 + 5 + 5 * 2 + 2)
    assert formulas.network_bytes([3, 5], bytes_per_weight=8) == 8 * 20


def test_packed_buffer():
    size = formulas.buffer_bytes(
        num_rows=10, observation_dims=4, action_dims=2, observation_bits=12, action_bits=32, reward_bits=32
    )
    assert size == 10 * (4 * 12 + 2 * 32 + 32) / 8


def test_average_factor_is_the_ratio_of_mean_bytes():
    raw, stored = [100.0, 100.0], [50.0, 10.0]  # factors 2 and 10, whose mean is 6
    assert formulas.average_factor(raw, stored) == pytest.approx(200 / 60)
    for bad in (([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0])):
        with pytest.raises(SpecError, match="average_factor"):
            formulas.average_factor(*bad)
