"""Seeds random generators, and saves and restores their states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from replaystore.errors import SpecError

_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def seeded_generator(seed: int | None) -> np.random.Generator:
    """Returns a generator from a seed.

    Args:
        seed: the seed. None: numbers from NumPy's global generator, which frameworks seed.
    """
    drawn = np.random.randint(0, 1 << 32, 4, np.uint64) if seed is None else seed  # noqa: NPY002
    return np.random.default_rng(drawn)


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """Returns the state of a generator as JSON-able data, for `restore_generator`.

    Raises:
        SpecError: the generator is none of NumPy's own.
    """
    state = _plain(rng.bit_generator.state)
    if not isinstance(state, dict) or state.get("bit_generator") not in _BIT_GENERATORS:
        raise SpecError(f"expected a generator over one of {_BIT_GENERATORS}, got {rng!r}; use np.random.default_rng")
    return state


def restore_generator(state: Mapping[str, Any]) -> np.random.Generator:
    """Returns a generator that continues from a state of `generator_state`.

    Raises:
        SpecError: `state` is not the state of a generator.
    """
    name = state.get("bit_generator") if isinstance(state, Mapping) else None
    if name not in _BIT_GENERATORS:
        raise SpecError(f"expected the state of one of {_BIT_GENERATORS}, got {state!r}")
    bit_generator: Any = getattr(np.random, name)(0)
    try:
        bit_generator.state = _like(bit_generator.state, state)
    except (TypeError, ValueError, KeyError, OverflowError) as err:
        raise SpecError(f"not a state of {name}: {state!r}") from err
    return np.random.Generator(bit_generator)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def _like(model: Any, value: Any) -> Any:
    """Returns `value` with arrays where `model` has arrays. It raises if keys or shapes differ."""
    if isinstance(model, Mapping):
        if set(model) != set(value):
            raise KeyError(f"expected {sorted(model)}, got {sorted(value)}")
        return {key: _like(entry, value[key]) for key, entry in model.items()}
    if isinstance(model, np.ndarray):
        array = np.array(value, dtype=model.dtype)
        if array.shape != model.shape:
            raise ValueError(f"expected {model.shape} numbers, got {array.shape}")
        return array
    return value
