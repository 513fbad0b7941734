"""A field of a store, and the kind of column that it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from replaystore.columns.registry import codec_of
from replaystore.columns.row_codec import RowCodec
from replaystore.spec import FieldSpec, StoreSpec

SMALL_ROW_BYTES = 256  # fields with rows at most this large are in memory in every residency


@dataclass(frozen=True)
class Column:
    """One field as it is stored.

    Attributes:
        position: of the field among those of the store.
        spec: the field.
        codec: how its rows are stored.
    """

    position: int
    spec: FieldSpec
    codec: RowCodec

    @property
    def name(self) -> str:
        """The field's name."""
        return self.spec.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a stored row, as Zarr shows it: a frame, a frame stack in mode `disk`, or a value."""
        return self.codec.shape

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row in tail files, and in chunk files that are not encoded."""
        return self.codec.row_bytes

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values, as they come back."""
        return self.codec.dtype

    @property
    def ndim(self) -> int:
        """Axes of the Zarr array."""
        return 1 + len(self.shape)

    @cached_property
    def value_shape(self) -> tuple[int, ...]:
        """The shape of a value in a batch: a whole frame stack, or what the field holds."""
        return self.spec.stacked_shape

    @cached_property
    def stacks_on_read(self) -> bool:
        """Whether observations are put together from several stored rows."""
        return self.spec.frame_stack > 1 and self.shape != self.value_shape

    @cached_property
    def window_depth(self) -> int:
        """Stored rows that one value is put together from: those of a frame stack, else 1."""
        return self.spec.frame_stack if self.stacks_on_read else 1

    @property
    def is_small(self) -> bool:
        """Whether all rows are in memory in every residency."""
        return not self.codec.is_encoded and not self.spec.is_image and self.row_bytes <= SMALL_ROW_BYTES


def columns_of(spec: StoreSpec) -> tuple[Column, ...]:
    """The columns of a store, in the order of its fields.

    Raises:
        SpecError: a scheme is none of this package, does not load, or does not fit its field or the mode.
    """
    return tuple(Column(position, field, codec_of(field, spec.mode)) for position, field in enumerate(spec.fields))
