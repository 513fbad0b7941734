"""The first bytes of an LZ4 block, without decoding the rest.

A batch needs the first frames of a group more often than all of them. The C library inside the `lz4` package can stop
early and exports how; where a build of the package does not, the whole block is decoded with `cramjam` instead.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import cramjam
import lz4.block._block
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
_Partial = Callable[[int, int, int, int, int], int]


@cache
def _partial_decoder() -> _Partial | None:
    try:
        function = ctypes.CDLL(lz4.block._block.__file__).LZ4_decompress_safe_partial
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int)
    function.restype = ctypes.c_int
    decoder: _Partial = function
    return decoder


def decode_prefix(block: U8, out: U8, wanted: int) -> int:
    """Decodes at least the first `wanted` bytes of a block into `out`.

    Args:
        block: uint8 (n,), an LZ4 block that decodes to at most `out.size` bytes.
        out: uint8 (m,), C-contiguous; what lies behind the bytes decoded is undefined.

    Returns:
        Bytes decoded.

    Raises:
        ValueError: not a valid block, or one that decodes to fewer bytes than wanted.
    """
    partial = _partial_decoder() if wanted < out.size else None
    if partial is None:
        try:
            written = int(cramjam.lz4.decompress_block_into(block.data, out.data))
        except cramjam.DecompressionError as err:
            raise ValueError(str(err)) from err
    else:
        written = partial(block.ctypes.data, out.ctypes.data, block.size, wanted, wanted)
    if written < wanted:
        raise ValueError(f"expected {wanted} bytes after decompression, found {max(written, 0)}")
    return written
