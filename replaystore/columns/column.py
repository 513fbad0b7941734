"""How each field of a store is held: the shape, dtype and bytes of its stored rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numcodecs
import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta import FrameDelta
from replaystore.codecs.round_clamp import RoundClamp
from replaystore.errors import SpecError
from replaystore.spec import FieldSpec, StoreSpec

ROW_CRC_BYTES = 1024  # rows at least this large have a checksum each
RESIDENT_BYTES = 256  # fields with rows at most this large are held in memory in every residency


@dataclass(frozen=True)
class Column:
    """One field as it is stored.

    Attributes:
        shape: of a stored row, as Zarr shows it: a frame, a frame stack in mode `disk`, or a value.
        row_bytes: of a stored row in tail files and fixed-size chunks; a packed row for `round_clamp`.
        packing: the `round_clamp` codec, or None.
        frames: the `frame_delta` codec, or None for rows of a fixed size.
    """

    position: int
    spec: FieldSpec
    shape: tuple[int, ...]
    row_bytes: int
    packing: RoundClamp | None
    frames: FrameDelta | None

    @property
    def name(self) -> str:
        """The field's name."""
        return self.spec.name

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values, as they come back."""
        return np.dtype(self.spec.dtype)

    @property
    def ndim(self) -> int:
        """Axes of the Zarr array."""
        return 1 + len(self.shape)

    @property
    def stacks_on_read(self) -> bool:
        """Whether observations are put together from several stored rows."""
        return self.spec.frame_stack > 1 and self.shape != self.spec.stacked_shape

    @property
    def has_row_crcs(self) -> bool:
        """Whether sealed rows have a checksum each."""
        return self.frames is None and self.row_bytes >= ROW_CRC_BYTES

    @property
    def is_resident(self) -> bool:
        """Whether the rows are small enough to be held in memory always."""
        return self.frames is None and not self.spec.is_image and self.row_bytes <= RESIDENT_BYTES

    def to_rows(self, values: NDArray[Any]) -> tuple[NDArray[np.uint8], int]:
        """Stored rows, uint8 (rows, row_bytes), of values (rows, *shape), and how many values were clamped."""
        if self.packing is not None:
            packed, clamped = self.packing.encode_rows(values.reshape(len(values), -1))
            return packed, clamped
        little = np.ascontiguousarray(values, dtype=self.dtype.newbyteorder("<"))
        return little.reshape(len(values), -1).view(np.uint8).reshape(len(values), self.row_bytes), 0

    def from_rows(self, rows: NDArray[np.uint8], out: NDArray[Any], targets: NDArray[np.int64] | None = None) -> None:
        """out[targets[j]] = the value of stored row j; targets None: one after another.

        rows: uint8 (n, row_bytes). targets: int64 (n,). out: (n, *shape), or with more rows where there are targets.
        """
        if self.packing is not None:
            self.packing.decode_rows(rows, out.reshape(len(out), -1), targets=targets)
            return
        values = rows.reshape(-1).view(self.dtype.newbyteorder("<")).reshape(len(rows), *self.shape)
        out[slice(None) if targets is None else targets] = values


def columns_of(spec: StoreSpec) -> tuple[Column, ...]:
    """The columns of a store, in the order of its fields.

    Raises:
        SpecError: a scheme names no codec of this package or does not fit its field.
    """
    return tuple(_column(position, field, spec) for position, field in enumerate(spec.fields))


def resolved_fields(mode: str, fields: tuple[FieldSpec, ...]) -> tuple[FieldSpec, ...]:
    """The fields with the schemes that `mode` implies: images of mode `full` without one get `FrameDelta`."""
    result = []
    for field in fields:
        if mode == "full" and field.is_image and field.scheme is None:
            codec = FrameDelta(frame_shape=field.shape, channels=field.channels or "first")
            field = FieldSpec.from_json({**field.to_json(), "scheme": codec.get_config()})
        result.append(field)
    return tuple(result)


def _column(position: int, field: FieldSpec, spec: StoreSpec) -> Column:
    shape = field.stacked_shape if spec.mode == "disk" else field.shape
    row_bytes = math.prod(shape) * np.dtype(field.dtype).itemsize
    codec = None
    if field.scheme is not None:
        try:
            codec = numcodecs.get_codec(dict(field.scheme))
        except (ValueError, TypeError) as err:
            raise SpecError(f"field {field.name!r}: scheme {field.scheme['id']!r} does not load: {err}") from err
    if codec is None:
        return Column(position, field, shape, row_bytes, None, None)
    if isinstance(codec, RoundClamp):
        if codec.row_size != math.prod(shape) or codec.dtype != field.dtype:
            raise SpecError(
                f"field {field.name!r}: round_clamp packs rows of {codec.row_size} {codec.dtype}, the field has"
                f" {math.prod(shape)} {field.dtype}; give row_size={math.prod(shape)}, dtype={field.dtype!r}"
            )
        return Column(position, field, shape, codec.row_bytes, codec, None)
    if isinstance(codec, FrameDelta):
        if codec.frame_shape != field.shape or (len(shape) == 3 and codec.channels != field.channels):
            raise SpecError(
                f"field {field.name!r}: frame_delta holds frames {codec.frame_shape} channels {codec.channels},"
                f" the field has {field.shape} channels {field.channels}"
            )
        return Column(position, field, shape, row_bytes, None, codec)
    raise SpecError(f"field {field.name!r}: {field.scheme['id']!r} is not a scheme of this package")  # type: ignore[index]
