"""The codecs of this package for Zarr format 3, as array-to-bytes codecs (`serializer=`).

Zarr finds them by the entry points of the installed package. A chunk's metadata names them as `{"name":
"replaystore.round_clamp", "configuration": {...}}`, with the configuration of the numcodecs codec without its "id". If
Zarr pads a chunk, the padding is encoded too. It holds the array's fill value.

This module imports only public modules of Zarr. The private ones change between minor versions.
"""

from __future__ import annotations

import asyncio
import json
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from zarr.abc.buffer import Buffer, BufferPrototype, NDBuffer
from zarr.abc.codec import ArrayBytesCodec
from zarr.dtype import ZDType

from replaystore.codecs.frame_delta import FrameDelta
from replaystore.codecs.packing import PackingCodec
from replaystore.codecs.round_clamp import RoundClamp
from replaystore.errors import ChunkError, SpecError


class ChunkSpec(Protocol):
    """What the codecs read from the specification that Zarr passes with a chunk. Zarr's own class is private."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the chunk, including padding."""
        ...

    @property
    def dtype(self) -> ZDType[Any, Any]:
        """Zarr's data type of the array."""
        ...

    @property
    def fill_value(self) -> Any:
        """Fill value of the array."""
        ...

    @property
    def prototype(self) -> BufferPrototype:
        """Classes of the buffers that Zarr expects back."""
        ...


@dataclass(frozen=True, eq=False)
class SerializerV3(ArrayBytesCodec):
    """Wraps a numcodecs codec of rows as an array-to-bytes codec. Axis 0 of the array is the row.

    Attributes:
        codec: the codec.
        name: the codec's id, which zarr.json names.
        codec_class: class of the codec.
    """

    codec: Any

    name: ClassVar[str]
    codec_class: ClassVar[type[Any]]
    is_fixed_size = False

    def __post_init__(self) -> None:
        if not isinstance(self.codec, self.codec_class):
            raise SpecError(f"{self.name}: expected a {self.codec_class.__name__} codec, got {self.codec!r}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Returns the codec that zarr.json describes; see `to_dict`.

        Raises:
            SpecError: the data describe another codec, or a configuration that cannot work or has unknown entries.
        """
        configuration = data.get("configuration") if isinstance(data, Mapping) else None
        if not isinstance(configuration, Mapping) or data.get("name") != cls.name:
            raise SpecError(
                f"{cls.name}: expected {{'name': {cls.name!r}, 'configuration': {{...}}}}, got {data!r}; write what"
                " to_dict() returns"
            )
        try:
            return cls(cls.codec_class(**configuration))
        except TypeError as err:
            raise SpecError(f"{cls.name}: not a configuration of this codec: {configuration!r}") from err

    def to_dict(self) -> dict[str, Any]:
        """Returns the name and configuration for zarr.json."""
        config = self.codec.get_config()
        return {"name": self.name, "configuration": {key: config[key] for key in config if key != "id"}}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SerializerV3) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    @abstractmethod
    def check_rows(self, chunk_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Checks that chunks of this shape and dtype hold rows of the codec.

        Raises:
            SpecError: they do not.
        """

    def validate(self, *, shape: tuple[int, ...], dtype: ZDType[Any, Any], chunk_grid: object) -> None:
        """Checks that the dtype and chunk shape of an array suit the codec.

        Args:
            shape: shape of the array.
            dtype: Zarr's data type of the array.
            chunk_grid: Zarr's description of the chunks. Its class depends on the version of Zarr. Only regular chunks
                have a `chunk_shape`.

        Raises:
            SpecError: the array does not suit the codec.
        """
        chunk_shape = getattr(chunk_grid, "chunk_shape", None)
        if chunk_shape is None or not shape:
            raise SpecError(
                f"{self.name}: expected an array of rows in regular chunks, got shape {shape} in {chunk_grid}; give the"
                " array a row axis and one chunk shape"
            )
        self.check_rows(tuple(chunk_shape), dtype.to_native_dtype())

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ChunkSpec) -> Buffer:
        dtype = chunk_spec.dtype.to_native_dtype()
        self.check_rows(chunk_spec.shape, dtype)
        # Zarr keeps a chunk in the array's memory order and byte order. The codec takes C order and native byte order.
        values = np.ascontiguousarray(chunk_data.as_numpy_array(), dtype.newbyteorder("="))
        return chunk_spec.prototype.buffer.from_bytes(bytes(self.codec.encode(values)))

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ChunkSpec) -> NDBuffer:
        rows = self.codec.decode(chunk_data.as_numpy_array())
        if rows.size != math.prod(chunk_spec.shape):
            raise ChunkError(
                f"{self.name}: expected a chunk of shape {chunk_spec.shape}, found {len(rows)} rows; truncated, or"
                " written with another shape"
            )
        values = rows.reshape(chunk_spec.shape).astype(chunk_spec.dtype.to_native_dtype(), copy=False)
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(values)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ChunkSpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ChunkSpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ChunkSpec) -> int:
        """Raises `NotImplementedError`, because the chunks of this codec differ in size."""
        raise NotImplementedError(f"{self.name}: chunks differ in size")


class PackingV3(SerializerV3):
    """Wraps a `PackingCodec`. A row of the array has the codec's `row_size` values.

    A subclass sets `name` and `codec_class`.
    """

    is_fixed_size = True

    def check_rows(self, chunk_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Checks dtype and row size; see `SerializerV3`."""
        codec: PackingCodec = self.codec
        if dtype.newbyteorder("=") != codec.dtype or math.prod(chunk_shape[1:]) != codec.row_size:
            raise SpecError(
                f"{self.name}: expected {codec.dtype} in chunks of whole rows of {codec.row_size} values, got {dtype}"
                f" in chunks {chunk_shape}; change the codec's dtype and row_size, or the array"
            )

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ChunkSpec) -> int:
        """Returns the bytes of an encoded chunk, which are those of its packed rows.

        Args:
            input_byte_length: bytes of the chunk before encoding.
            chunk_spec: not used. All rows have the same size.
        """
        codec: PackingCodec = self.codec
        return input_byte_length // (np.dtype(codec.dtype).itemsize * int(codec.row_size or 1)) * codec.row_bytes


class RoundClampV3(PackingV3):
    """`RoundClamp` as a serializer of Zarr. A row of the array has the codec's `row_size` values.

    Three rows of two values, packed into three bytes per row:

    >>> import zarr
    >>> serializer = RoundClampV3(RoundClamp(decimals=1, low=-127.0, high=127.0, row_size=2))
    >>> options = {"dtype": "float32", "fill_value": 0.0, "compressors": None}
    >>> array = zarr.create_array({}, shape=(3, 2), chunks=(3, 2), serializer=serializer, **options)
    >>> array[:] = np.array([[0.25, 500.0], [0.26, -1.0], [-127.04, 3.14159]], np.float32)
    >>> array[:]
    array([[   0.2,  127. ],
           [   0.3,   -1. ],
           [-127. ,    3.1]], dtype=float32)

    If the codec stores nothing for NaN, the array's fill value must not be NaN.
    """

    name = "replaystore.round_clamp"
    codec_class = RoundClamp

    def evolve_from_array_spec(self, array_spec: ChunkSpec) -> Self:
        """Returns this codec.

        Raises:
            SpecError: the codec cannot encode the array's fill value.
        """
        codec: RoundClamp = self.codec
        fill = np.asarray(array_spec.fill_value)
        if fill.dtype.kind == "f" and not np.isfinite(fill):
            constant = codec.nan if np.isnan(fill) else codec.posinf if fill > 0 else codec.neginf
            if constant is None:
                raise SpecError(f"{self.name}: expected a finite fill_value, got {fill}; use fill_value=0.0")
        return self


class FrameDeltaV3(SerializerV3):
    """`FrameDelta` as a serializer of Zarr. A row of the array is a frame of the codec's `frame_shape`.

    Three frames of 1 x 4 pixels, in one chunk:

    >>> import zarr
    >>> serializer = FrameDeltaV3(FrameDelta(frame_shape=(1, 4)))
    >>> options = {"dtype": "uint8", "compressors": None}
    >>> array = zarr.create_array({}, shape=(3, 1, 4), chunks=(3, 1, 4), serializer=serializer, **options)
    >>> array[:] = np.array([[[10, 10, 10, 10]], [[10, 99, 10, 10]], [[10, 99, 10, 12]]], np.uint8)
    >>> array[2].tolist()
    [[10, 99, 10, 12]]
    """

    name = "replaystore.frame_delta"
    codec_class = FrameDelta

    def check_rows(self, chunk_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Checks dtype and frame shape; see `SerializerV3`."""
        codec: FrameDelta = self.codec
        if dtype != np.uint8 or tuple(chunk_shape[1:]) != tuple(codec.frame_shape):
            raise SpecError(
                f"{self.name}: expected uint8 in chunks (rows, {', '.join(map(str, codec.frame_shape))}), got {dtype}"
                f" in chunks {chunk_shape}; change the codec's frame_shape, or the array"
            )
