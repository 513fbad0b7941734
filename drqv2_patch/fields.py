"""The fields of a store that holds time steps of DrQ-v2."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from replaystore import FieldSpec, ReplayStore
from replaystore.errors import SpecError
from replaystore.spec import Mode

ROLES: Mapping[str, Any] = {name: name for name in ("observation", "action", "reward", "discount")}


def row_bytes(fields: Iterable[FieldSpec], mode: Mode) -> int:
    """Returns the bytes of a row without compression. An image is its whole stack in mode `disk`, else one frame."""
    return sum(
        math.prod(field.stacked_shape if mode == "disk" else field.shape) * np.dtype(field.dtype).itemsize
        for field in fields
    )


def field_of(spec: Any, frame_stack: int) -> FieldSpec:
    """Returns the field for the arrays of a spec. A uint8 observation with three axes becomes an image.

    Args:
        spec: has `name`, `shape` and `dtype`.
        frame_stack: frames in an image observation.

    Raises:
        SpecError: `frame_stack` does not divide the channels of an image.
    """
    name, shape, dtype = str(spec.name), tuple(int(size) for size in spec.shape), np.dtype(spec.dtype)
    role = ROLES.get(name, "extra")
    if role != "observation" or dtype != np.uint8 or len(shape) != 3:
        return FieldSpec(name=name, shape=shape, dtype=dtype.name, role=role)
    if frame_stack < 1 or shape[0] % frame_stack:
        raise SpecError(
            f"field {name!r}: expected channels that frame_stack={frame_stack} divides, got shape {shape}; pass the"
            " frame_stack of the environment"
        )
    return FieldSpec.image(name, (shape[0] // frame_stack, *shape[1:]), frame_stack=frame_stack, channels="first")


def check_fields(store: ReplayStore, fields: Mapping[str, FieldSpec]) -> None:
    """Checks that a store has these fields. The width of a float may differ.

    Raises:
        SpecError: a field is missing, is not expected, or differs.
    """
    stored = {field.name: field for field in store.spec.fields}
    for name in sorted({*stored, *fields}):
        found, expected = stored.get(name), fields.get(name)
        if found is None or expected is None or not _agree(found, expected):
            raise SpecError(
                f"{store.path}: field {name!r}: expected {_text(expected)}, found {_text(found)} in the store; use the"
                " environment and frame_stack that it was written with, or another replay_dir"
            )


def _agree(found: FieldSpec, expected: FieldSpec) -> bool:
    """Returns whether the fields differ at most in the width of a float."""
    kinds = np.dtype(found.dtype).kind, np.dtype(expected.dtype).kind
    return (found.dtype == expected.dtype or kinds == ("f", "f")) and all(
        getattr(found, part) == getattr(expected, part) for part in ("shape", "role", "frame_stack", "channels")
    )


def _text(field: FieldSpec | None) -> str:
    if field is None:
        return "no such field"
    return f"{field.dtype} {field.shape} with frame_stack {field.frame_stack}"
