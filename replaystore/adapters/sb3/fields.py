"""The fields of a store for the spaces of an environment, and observations by the names of those fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import get_obs_shape, is_image_space, is_image_space_channels_first

from replaystore.errors import SpecError
from replaystore.spec import FieldSpec

Observations = dict[str, NDArray[Any]]

OBSERVATION = "observation"  # the field, where observations are no dict
REPEATED = "repeated"  # the field of stores with frame stacks that marks rows which are not drawn


def fields_of_spaces(
    observation_space: spaces.Space[Any], action_dim: int, action_dtype: np.dtype[Any], frame_stack: int
) -> list[FieldSpec]:
    """One field per observation, then action, reward, discount and, with frame stacks, `repeated`.

    Args:
        observation_space: of the environment; a dict space has a field for each of its parts.
        action_dim: values of an action.
        action_dtype: of these values.
        frame_stack: frames that are stacked in an image, along its channels.

    Raises:
        SpecError: `frame_stack` does not divide the channels of an image.
    """
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {OBSERVATION: observation_space}
    fields = [
        *(observation_field(name, part, frame_stack) for name, part in parts.items()),
        FieldSpec(name="action", shape=(action_dim,), dtype=action_dtype.name, role="action"),
        FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
        FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
    ]
    return fields if frame_stack == 1 else [*fields, FieldSpec(name=REPEATED, shape=(), dtype="bool", role="extra")]


def observation_field(name: str, space: spaces.Space[Any], frame_stack: int) -> FieldSpec:
    """Returns the field of one observation.

    Args:
        name: of the field.
        space: of the observation.
        frame_stack: frames that are stacked in an image, along its channels. Other observations have none.

    Raises:
        SpecError: `frame_stack` does not divide the channels of an image.
    """
    shape = get_obs_shape(space)
    assert isinstance(shape, tuple)  # no dict inside a dict
    if not (isinstance(space, spaces.Box) and is_image_space(space)):
        return FieldSpec(name=name, shape=shape, dtype=np.dtype(space.dtype).name, role="observation")
    first = is_image_space_channels_first(space)
    channels = shape[0] if first else shape[2]
    if frame_stack < 1 or channels % frame_stack:
        raise SpecError(
            f"field {name!r}: expected channels that frame_stack={frame_stack} divides, got {shape}; pass the n_stack"
            " of VecFrameStack"
        )
    frame = (channels // frame_stack, *shape[1:]) if first else (*shape[:2], channels // frame_stack)
    return FieldSpec.image(name, frame, frame_stack=frame_stack, channels="first" if first else "last")


def by_name(observations: Any, shapes: Any, dtypes: Mapping[str, np.dtype[Any]]) -> Observations:
    """Observations of all environments by field name, environments first, as the fields have them.

    Args:
        observations: an array, or a mapping of arrays.
        shapes: the shape of one observation, or a mapping of shapes.
        dtypes: of the fields, by name.
    """
    if not isinstance(observations, Mapping):
        observations, shapes = {OBSERVATION: observations}, {OBSERVATION: shapes}
    arrays = {name: np.asarray(observations[name], dtypes[name]) for name in shapes}
    for name, array in arrays.items():
        if array.ndim == 1:  # of a discrete space: one number per environment
            arrays[name] = array.reshape(len(array), *shapes[name])
    return arrays
