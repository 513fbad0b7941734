"""Values of fields: what is cast, what is refused, and what row 0 may hold."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from replaystore.episodes.values import episode_values, row_value
from replaystore.errors import EpisodeError, SpecError
from replaystore.spec import FieldSpec

ROWS = 5
SHAPES = [(), (1,), (1, 1)]
GIVEN: dict[str, list[float]] = {
    "bool": [0, 1, 1, 0, 1],
    "uint8": [0, 1, 255, 7, 9],
    "int32": [0, -1, 2**24, -(2**24), 5],
    "int64": [0, -1, 3, 2**24, 1],
    "float16": [0.0, 0.1, -2.5, 60000.0, 1.0],
    "float32": [0.0, 0.1, -2.5, 1e30, 1.0],
    "float64": [0.0, 0.1, -1 / 3, 1e30, 1e-30],
    ">f8": [0.0, 0.1, -1 / 3, 1e30, 1e-30],
}


def scalar_field(role: Any, shape: tuple[int, ...] = (1,), **changes: Any) -> FieldSpec:
    return FieldSpec(name=role, shape=shape, dtype="float32", role=role, **changes)


@pytest.mark.parametrize("dtype", GIVEN)
@pytest.mark.parametrize("given", SHAPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("role", ["reward", "discount"])
def test_scalars_are_cast(role: str, shape: tuple[int, ...], given: tuple[int, ...], dtype: str) -> None:
    field, values = scalar_field(role, shape), GIVEN[dtype]
    expected = np.array([np.float32(np.array(value, dtype)) for value in values], np.float32)
    array = np.array(values, dtype)
    found = episode_values(field, array.reshape(ROWS, *given), "episode 1")
    assert found.dtype == np.float32
    assert found.shape == (ROWS, *shape)
    assert found.tobytes() == expected.tobytes()
    for row in range(ROWS):
        one = row_value(field, array[row].reshape(given), row, env=0)
        assert one.dtype == np.float32
        assert one.shape == shape
        assert one.tobytes() == expected[row].tobytes()


@pytest.mark.parametrize("value", [1.5, 2, True, np.float64(0.1), np.int64(3), torch.tensor(0.25), [1.0], [[0.5]]])
def test_python_numbers_and_tensors_are_scalars(value: Any) -> None:
    found = row_value(scalar_field("reward"), value, 3, env=0)
    assert found.tobytes() == np.float32(np.asarray(value).item()).tobytes()


@pytest.mark.parametrize("dtype", ["int64", "float64", "bool"])
@pytest.mark.parametrize("role", ["action", "observation", "extra"])
def test_other_fields_are_not_cast(role: Any, dtype: str) -> None:
    field = FieldSpec(name="value", shape=(1,), dtype="float32", role=role)
    with pytest.raises(EpisodeError, match=rf"field 'value', episode 1: expected float32 .*, got {dtype} \(5, 1\)"):
        episode_values(field, np.ones((ROWS, 1), dtype), "episode 1")
    with pytest.raises(EpisodeError, match=rf"field 'value', env 4, row 2: expected float32 .*, got {dtype} \(1,\)"):
        row_value(field, np.ones(1, dtype), 2, env=4)


@pytest.mark.parametrize("value", [2**24 + 1, -(2**24) - 1, 2**63 - 1, 1e39, -1e300])
def test_what_does_not_survive_a_cast_is_refused(value: Any) -> None:
    message = re.escape(f"{value} does not survive the cast")
    with pytest.raises(EpisodeError, match=f"field 'reward', episode 1: {message}"):
        episode_values(scalar_field("reward"), np.array([0, value, 0]), "episode 1")
    with pytest.raises(EpisodeError, match=f"field 'reward', env a, row 0: {message}"):
        row_value(scalar_field("reward"), np.array(value), 0, env="a")


@pytest.mark.parametrize("value", ["1", 1j, None, {}, object()])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(EpisodeError, match=r"field 'reward', env 0, row 1: expected float32 \(1\), got"):
        row_value(scalar_field("reward"), value, 1, env=0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("role", ["observation", "action", "reward", "discount", "extra"])
def test_numbers_that_are_not_finite(role: Any, value: float, dtype: str) -> None:
    shape = (1,) if role in ("reward", "discount") else (2, 3)
    field = FieldSpec(name="value", shape=shape, dtype=dtype, role=role)
    allowing = FieldSpec(name="value", shape=shape, dtype=dtype, role=role, allow_nonfinite=True)
    for row in range(ROWS):
        array = np.zeros((ROWS, *shape), dtype)
        array.reshape(ROWS, -1)[row, -1] = value
        for spec in (field, allowing):
            if spec.allow_nonfinite or (row == 0 and role in ("reward", "action")):
                assert episode_values(spec, array, "episode 1").tobytes() == array.tobytes()
                assert row_value(spec, array[row], row, env=0).tobytes() == array[row].tobytes()
                continue
            message = f"row {row}: expected finite numbers, got {value}; .*allow_nonfinite=True"
            with pytest.raises(EpisodeError, match=f"field 'value', episode 1, {message}"):
                episode_values(spec, array, "episode 1")
            with pytest.raises(EpisodeError, match=f"field 'value', env 0, {message}"):
                row_value(spec, array[row], row, env=0)


def test_none_at_the_reset_is_what_dm_env_means() -> None:
    assert row_value(scalar_field("reward"), None, 0, env=0).tolist() == [0.0]
    assert row_value(scalar_field("discount"), None, 0, env=0).tolist() == [1.0]
    action = FieldSpec(name="action", shape=(2,), dtype="int64", role="action")
    assert row_value(action, None, 0, env=0).tolist() == [0, 0]
    observation = FieldSpec(name="observation", shape=(2,), dtype="int64", role="observation")
    for field, row in ((observation, 0), (action, 1), (scalar_field("discount"), 1)):
        with pytest.raises(EpisodeError, match=f"env 0, row {row}: expected"):
            row_value(field, None, row, env=0)


def test_the_flag_is_for_floats_and_stays_out_of_plain_configurations() -> None:
    for dtype, value in (("int32", True), ("bool", True), ("float32", 1)):
        with pytest.raises(SpecError, match="allow_nonfinite is a bool, True only for floats"):
            FieldSpec(name="state", shape=(2,), dtype=dtype, allow_nonfinite=value)  # type: ignore[arg-type]
    plain, allowing = scalar_field("reward"), scalar_field("reward", allow_nonfinite=True)
    assert "allow_nonfinite" not in plain.to_json()
    assert FieldSpec.from_json(plain.to_json()) == plain
    assert FieldSpec.from_json(allowing.to_json()) == allowing
