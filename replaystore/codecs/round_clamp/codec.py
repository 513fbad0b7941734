"""A lossy codec for floats: it clamps, rounds to decimals, and packs into as few bits as the levels need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numcodecs.compat import ensure_contiguous_ndarray
from numpy.typing import ArrayLike, NDArray

from replaystore.codecs.packing import PackingCodec
from replaystore.codecs.round_clamp.levels import MAX_DECIMALS, build_levels, parse_bound, parse_constant, parse_whole
from replaystore.errors import ChunkError, EpisodeError, SpecError
from replaystore.kernels import packed_bits as kernels
from replaystore.kernels import packed_bits_simd
from replaystore.kernels.status import LEVEL_TOO_LARGE, MESSAGES, OK

_DTYPES = ("float16", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class RoundClamp(PackingCodec):
    """Stores round(clamp(s, low, high), decimals), exactly and in ceil(log2(number of levels)) bits per value.

    As a numcodecs `Codec` it packs an array and works with any Zarr array. In a store the `RowCodec` `PackedRows` (in
    `columns/`) uses it to pack and unpack the rows of a field.

    Three rows of two values, 12 bits per value and 3 bytes per row:

    >>> codec = RoundClamp(decimals=1, low=-127.0, high=127.0, row_size=2)
    >>> packed = codec.encode(np.array([[0.25, 500.0], [0.26, -1.0], [-127.04, 3.14159]], np.float32))
    >>> codec.decode(packed)
    array([[   0.2,  127. ],
           [   0.3,   -1. ],
           [-127. ,    3.1]], dtype=float32)
    >>> codec.bits, codec.row_bytes, packed.nbytes
    ((12, 12), 3, 9)

    The codec rounds the exact product s * 10**decimals, half to even. `np.round` in float64 differs only if its own
    product is rounded to a tie. Inside the bounds the error is at most 0.5 * 10**-decimals plus half a unit in the last
    place of `dtype`. Negative zero decodes to zero. Encoding a decoded value changes nothing.

    The values of a row are packed one after another, lowest bit first, each with its own number of bits. A row is
    padded with zero bits to whole bytes, at least one. Rows follow each other without a header.

    Args:
        decimals: -22 to 22. -1 rounds to tens.
        low: lower bound, one number for all values or one per value of a row. It is rounded to `dtype`.
        high: upper bound, in the same form.
        dtype: `"float16"`, `"float32"` or `"float64"`, for input and output.
        row_size: values per row. None takes the number of bounds, or 1 if both bounds are numbers.
        nan: finite number to store for NaN, clamped and rounded. None refuses NaN.
        posinf: finite number to store for infinity. None refuses it.
        neginf: finite number to store for minus infinity. None refuses it.

    Raises:
        SpecError: the configuration cannot work.
    """

    codec_id = "replaystore.round_clamp"

    decimals: int = 2
    low: float | Sequence[float] = -127.0
    high: float | Sequence[float] = 127.0
    dtype: str = "float32"
    row_size: int | None = None
    nan: float | None = None
    posinf: float | None = None
    neginf: float | None = None

    def __post_init__(self) -> None:
        decimals = parse_whole("decimals", self.decimals)
        if abs(decimals) > MAX_DECIMALS:
            raise SpecError(f"round_clamp: decimals is -{MAX_DECIMALS} to {MAX_DECIMALS}, got {decimals}")
        try:
            dtype = np.dtype(self.dtype)
        except TypeError as err:
            raise SpecError(f"round_clamp: {self.dtype!r} is not a NumPy dtype; it is one of {_DTYPES}") from err
        if not dtype.isnative or dtype.name not in _DTYPES:
            raise SpecError(f"round_clamp: dtype is one of {_DTYPES} in native byte order, got {self.dtype!r}")
        low, high = parse_bound("low", self.low), parse_bound("high", self.high)
        counts = {len(bound) for bound in (low, high) if isinstance(bound, tuple)}
        row_size = max(counts, default=1) if self.row_size is None else parse_whole("row_size", self.row_size)
        if row_size < 1 or counts - {row_size}:
            raise SpecError(
                f"round_clamp: row_size={self.row_size} and bounds of {sorted(counts)} entries do not fit; give one"
                " number for all values of a row or one for each"
            )
        settings: dict[str, Any] = {
            "decimals": decimals,
            "low": low,
            "high": high,
            "dtype": dtype.name,
            "row_size": row_size,
        }
        settings |= {name: parse_constant(name, getattr(self, name)) for name in ("nan", "posinf", "neginf")}
        for name, setting in settings.items():
            object.__setattr__(self, name, setting)
        _ = self._table

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of levels of each value of a row."""
        table = self._table
        return tuple(int(last) - int(first) + 1 for first, last in zip(table.first, table.last, strict=True))

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of each value of a row."""
        return tuple(int(width) for width in self._table.widths)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes per packed row."""
        return max(1, -(-sum(self.bits) // 8))

    def encode_rows(self, values: NDArray[Any]) -> tuple[NDArray[np.uint8], int]:
        """Packs rows.

        Args:
            values: `dtype` (rows, ...), with `row_size` values per row.

        Returns:
            (packed, num_clamped). `packed` is uint8 (rows, row_bytes). `num_clamped` counts the values outside their
            bounds.

        Raises:
            EpisodeError: the dtype or shape is wrong, or a NaN or infinity has no number to store for it.
        """
        dtype = np.dtype(self.dtype)
        if values.dtype != dtype or values.ndim < 1 or math.prod(values.shape[1:]) != self.row_size:
            raise EpisodeError(
                f"round_clamp: expected {dtype} (rows, {self.row_size}), got {values.dtype} {values.shape};"
                " convert it first"
            )
        rows = np.ascontiguousarray(values, np.float32 if dtype == np.float16 else dtype)
        rows = rows.reshape(len(values), self._size)
        packed = np.empty((len(rows), self.row_bytes), np.uint8)
        num_clamped, refused = kernels.quantize_rows(rows, self._table, self._substitutes, packed)
        if refused >= 0:
            row, value = divmod(refused, self._size)
            found = rows[row, value]
            name = "nan" if np.isnan(found) else "posinf" if found > 0 else "neginf"
            raise EpisodeError(
                f"round_clamp: row {row}, value {value}: expected a finite number, found {found}; remove it, or give"
                f" the number to store for it: RoundClamp({name}=...)"
            )
        return packed, int(num_clamped)

    def decode_rows(
        self,
        packed: NDArray[np.uint8],
        out: NDArray[Any] | None = None,
        rows: ArrayLike | None = None,
        targets: ArrayLike | None = None,
    ) -> NDArray[Any]:
        """Unpacks rows.

        Args:
            packed: uint8 (num_rows, row_bytes).
            out: `dtype` (n, row_size) to fill, or more rows if `targets` is given. None makes an array.
            rows: int64 (n,), the rows to unpack, in any order. None unpacks all.
            targets: int64 (n,), the row of `out` for each unpacked row. None fills `out` from its first row on.

        Returns:
            `out`, or the new array.

        Raises:
            ChunkError: the bytes are no whole rows, a level is too large, or padding bits are set.
            IndexError: a row or a target does not exist.
            ValueError: `out` or `targets` does not fit.
        """
        if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != self.row_bytes:
            raise ChunkError(
                f"round_clamp: expected packed rows, uint8 (rows, {self.row_bytes}), got {packed.dtype} {packed.shape}"
            )
        chosen = np.arange(len(packed)) if rows is None else np.ascontiguousarray(rows, np.int64)
        places = np.arange(len(chosen)) if targets is None else np.ascontiguousarray(targets, np.int64)
        dtype = np.dtype(self.dtype)
        result = np.empty((len(chosen), self._size), dtype) if out is None else out
        shape = (len(chosen) if targets is None else len(result), self._size)
        if result.dtype != dtype or result.shape != shape or len(places) != len(chosen):
            raise ValueError(
                f"round_clamp: expected out to be {dtype} {shape} and {len(chosen)} targets, got {result.dtype}"
                f" {result.shape} and {len(places)}"
            )
        if dtype == np.float16 or not result.flags.c_contiguous:
            target = np.empty((len(chosen), self._size), np.float64 if dtype == np.float16 else dtype)
            self._decode(np.ascontiguousarray(packed), chosen, np.arange(len(chosen)), target)
            result[places] = target
        else:
            self._decode(np.ascontiguousarray(packed), chosen, places, result)
        return result

    def _decode(
        self, packed: NDArray[np.uint8], rows: NDArray[np.int64], targets: NDArray[np.int64], out: NDArray[Any]
    ) -> None:
        """Unpacks rows into a C-contiguous float32 or float64 array; see `decode_rows`."""
        if self._octets is not None:
            address, size = np.array([packed.ctypes.data]), np.array([packed.size])
            damaged = packed_bits_simd.decode_octets(
                address, size, np.zeros_like(rows), rows, targets, self.row_bytes, self._octets, out
            )
            if damaged < 0:
                return
        status, i, value = kernels.dequantize_rows(packed, rows, targets, self._table, out)
        if status == OK:
            return
        place = f"row {rows[i]}, value {value}" if status == LEVEL_TOO_LARGE else f"row {rows[i]}"
        raise ChunkError(f"round_clamp: {place}: {MESSAGES[status].format(levels=self.levels[value])}")

    def decode_buffers(
        self, addresses: NDArray[np.int64], sizes: NDArray[np.int64], which: NDArray[np.int64],
        row_in_buffer: NDArray[np.int64], out: NDArray[Any], targets: NDArray[np.int64],
    ) -> bool:  # fmt: skip
        """Unpacks rows of several buffers in place, without copying their bytes first.

        Args:
            addresses: int64 (buffers,), addresses of the buffers. They hold only packed rows, and the caller keeps
                them alive.
            sizes: int64 (buffers,), bytes of each buffer.
            which: int64 (n,), the buffer of each row.
            row_in_buffer: int64 (n,), the position of each row in its buffer.
            out: `dtype` (rows, row_size), C-contiguous.
            targets: int64 (n,), the row of `out` for each unpacked row.

        Returns:
            Whether the rows were unpacked. If not, these rows cannot be read in this way, or one is damaged.
            `decode_rows` then unpacks them or raises the error.

        Raises:
            IndexError: a row or target does not exist.
            ValueError: the arrays do not fit each other.
        """
        if self._octets is None or out.dtype != self.dtype or not out.flags.c_contiguous or out.dtype == np.float16:
            return False
        damaged = packed_bits_simd.decode_octets(
            addresses, sizes, which, row_in_buffer, targets, self.row_bytes, self._octets, out
        )
        return bool(damaged < 0)

    def encode(self, buf: Any) -> NDArray[np.uint8]:
        """Packs whole rows.

        Args:
            buf: an array of `dtype` and any shape that holds whole rows in C order, or the bytes of such an array.
                Fortran order is refused, because it mixes the values of different rows.

        Returns:
            uint8 (rows * row_bytes,).

        Raises:
            EpisodeError: the dtype, size or order is wrong, or a NaN or infinity has no number to store for it.
        """
        dtype = np.dtype(self.dtype)
        array = buf if isinstance(buf, np.ndarray) else ensure_contiguous_ndarray(buf).view(np.uint8)
        if array is not buf and array.size % dtype.itemsize == 0:
            array = array.view(dtype)
        if array.dtype != dtype or array.size % self._size:
            raise EpisodeError(
                f"round_clamp: expected {dtype} in whole rows of {self.row_size}, got {array.dtype} {array.shape};"
                " convert it first"
            )
        if array.flags.f_contiguous and not array.flags.c_contiguous:
            raise EpisodeError("round_clamp: expected C order, got a Fortran-ordered array; give the array order='C'")
        return self.encode_rows(array.reshape(-1, self._size))[0].reshape(-1)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Unpacks the bytes of whole rows.

        Args:
            buf: the packed bytes.
            out: a buffer with room for exactly these rows. None makes an array.

        Returns:
            `out`, or a new array, `dtype` (rows, row_size).

        Raises:
            ChunkError: the bytes are damaged, are no whole rows, or do not fill `out` exactly.
        """
        packed = ensure_contiguous_ndarray(buf).view(np.uint8)
        num_rows, rest = divmod(packed.size, self.row_bytes)
        if rest:
            raise ChunkError(f"round_clamp: expected rows of {self.row_bytes} bytes, found {packed.size} bytes")
        packed = packed.reshape(num_rows, self.row_bytes)
        if out is None:
            return self.decode_rows(packed)
        room = ensure_contiguous_ndarray(out).view(np.uint8)
        dtype = np.dtype(self.dtype)
        if room.size != num_rows * self._size * dtype.itemsize:
            raise ChunkError(
                f"round_clamp: expected {room.size} bytes of {dtype} for out, found {num_rows} rows of {self.row_size}"
            )
        self.decode_rows(packed, room.view(dtype).reshape(num_rows, self._size))
        return out

    def get_config(self) -> dict[str, Any]:
        """Returns plain data from which `from_config` makes an equal codec."""
        config = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        return {"id": self.codec_id, **config}

    @property
    def _size(self) -> int:
        assert self.row_size is not None
        return self.row_size

    @cached_property
    def _substitutes(self) -> NDArray[np.float64]:
        constants = (self.nan, self.posinf, self.neginf)
        return np.array([np.nan if c is None else c for c in constants])

    @cached_property
    def _octets(self) -> packed_bits_simd.OctetPlan | None:
        return packed_bits_simd.plan_octets(self._table, self.row_bytes)

    @cached_property
    def _table(self) -> kernels.Levels:
        low, high = (parse_bound(name, getattr(self, name)) for name in ("low", "high"))
        return build_levels(decimals=self.decimals, low=low, high=high, dtype=self.dtype, row_size=self._size)
