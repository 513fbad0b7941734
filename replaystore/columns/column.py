"""`Column`: a field of a store together with its kind of column."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from replaystore.columns.registry import codec_of
from replaystore.columns.row_codec import RowCodec
from replaystore.spec import FieldSpec, StoreSpec

SMALL_ROW_BYTES = 256  # fields with rows up to this size are in memory in every residency


@dataclass(frozen=True)
class Column:
    """One field as it is stored.

    Attributes:
        position: position of the field in the store.
        spec: the field.
        codec: stores and reads its rows.
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
        """Shape of a stored row, as Zarr shows it. A row is a frame, a value, or in mode `disk` a frame stack."""
        return self.codec.shape

    @property
    def row_bytes(self) -> int:
        """Bytes per stored row in tail files, and in chunk files that are not encoded."""
        return self.codec.row_bytes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values that reading returns."""
        return self.codec.dtype

    @property
    def ndim(self) -> int:
        """Axes of the Zarr array."""
        return 1 + len(self.shape)

    @cached_property
    def stacks_on_read(self) -> bool:
        """Whether reading builds each observation from several stored rows."""
        return self.spec.frame_stack > 1 and self.shape != self.spec.stacked_shape

    @cached_property
    def window_depth(self) -> int:
        """Stored rows per value: the frames of a stack, or 1."""
        return self.spec.frame_stack if self.stacks_on_read else 1

    @property
    def is_small(self) -> bool:
        """Whether all rows are kept in memory in every residency."""
        return not self.codec.is_encoded and not self.spec.is_image and self.row_bytes <= SMALL_ROW_BYTES


def columns_of(spec: StoreSpec) -> tuple[Column, ...]:
    """Returns the columns of a store, in the order of its fields.

    Raises:
        SpecError: a scheme is unknown or does not load, or it does not fit its field or the mode.
    """
    return tuple(Column(position, field, codec_of(field, spec.mode)) for position, field in enumerate(spec.fields))
