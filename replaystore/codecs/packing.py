"""`PackingCodec`: what a codec of fixed-size rows has to be, so that a field can name it as its scheme."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numcodecs.abc import Codec
from numcodecs.registry import codec_registry, entries
from numpy.typing import NDArray


class PackingCodec(Codec):  # type: ignore[misc]
    """Turns each row of a field into the same number of bytes, on its own.

    A subclass that is registered with numcodecs, by an entry point or by `numcodecs.register_codec`, is a scheme that
    any field may name. `encode` and `decode` are for Zarr, and the methods here are for the store.

    Attributes:
        dtype: name of the values' dtype, for input and output.
        row_size: values per row.
    """

    dtype: str
    row_size: int | None

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Bytes per packed row, at least one."""

    @abstractmethod
    def encode_rows(self, values: NDArray[Any]) -> tuple[NDArray[np.uint8], int]:
        """Packs rows.

        Args:
            values: `dtype` (rows, row_size).

        Returns:
            (packed, num_clamped): uint8 (rows, row_bytes), and how many values were stored as another one.

        Raises:
            EpisodeError: a value cannot be stored.
        """

    @abstractmethod
    def decode_rows(
        self, packed: NDArray[np.uint8], out: NDArray[Any], *, targets: NDArray[np.int64] | None = None
    ) -> Any:
        """Unpacks rows: `out[targets[j]]` becomes row j.

        Args:
            packed: uint8 (n, row_bytes).
            out: `dtype` (n, row_size), or more rows if there are targets.
            targets: int64 (n,). None fills `out` from its first row on.

        Raises:
            ChunkError: the bytes are no packed row.
        """

    def decode_buffers(
        self, addresses: NDArray[np.int64], sizes: NDArray[np.int64], which: NDArray[np.int64],
        row_in_buffer: NDArray[np.int64], out: NDArray[Any], targets: NDArray[np.int64],
    ) -> bool:  # fmt: skip
        """Unpacks rows of several buffers where they lie, if the codec can. See `RoundClamp.decode_buffers`.

        Returns:
            Whether it did. The default does nothing, and the rows are copied and given to `decode_rows`.
        """
        return False


def packing_codec(codec_id: str | None) -> type[PackingCodec] | None:
    """The registered class of an id; None if there is none, or if it does not pack rows."""
    found: Any = codec_registry.get(codec_id)
    if found is None and codec_id in entries:
        found = entries[codec_id].load()
    return found if isinstance(found, type) and issubclass(found, PackingCodec) else None
