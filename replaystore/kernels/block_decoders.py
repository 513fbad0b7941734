"""LZ4 and zstd for kernels: the C functions inside numcodecs, called without the interpreter.

A call from Python takes longer than decoding many of the blocks, and threads would queue for the interpreter. The
extension modules of numcodecs export the libraries that they are built with, or are linked to them. If a build hides
them, the same symbols are bound to Python functions that decode one block each. These are slower and otherwise equal.

`bind` must run before a kernel that calls these functions is compiled or loaded. Importing this module runs it.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import lz4.block
import numcodecs.lz4
import numcodecs.zstd
from numba import types

_logger = logging.getLogger(__name__)

_INT, _SIZE, _POINTER = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
_FAILED = ctypes.c_size_t(-1).value

_keep_alive: list[Any] = []


def decode_lz4(source: int, target: int, source_size: int, wanted: int, capacity: int) -> int:
    """Decodes an LZ4 block as `lz4_prefix` does, through Python.

    Args:
        source: address of the block.
        target: address of the memory to fill.
        source_size: bytes of the block.
        wanted: bytes that the caller needs. The whole block is decoded all the same.
        capacity: bytes of the memory.

    Returns:
        Bytes decoded, or -1.
    """
    block = ctypes.string_at(source, source_size)
    try:
        frames = lz4.block.decompress(block, uncompressed_size=capacity)
    except lz4.block.LZ4BlockError:
        return -1
    ctypes.memmove(target, frames, len(frames))
    return len(frames)


def decode_zstd(context: int, target: int, capacity: int, source: int, source_size: int) -> int:
    """Decodes a zstd frame as `zstd_frame` does, through Python.

    Args:
        context: not used.
        target: address of the memory to fill.
        capacity: bytes of the memory.
        source: address of the frame.
        source_size: bytes of the frame.

    Returns:
        Bytes decoded, or the largest size, which is no size.
    """
    block = ctypes.string_at(source, source_size)
    room = (ctypes.c_char * capacity).from_address(target)
    try:
        numcodecs.zstd.decompress(block, memoryview(room).cast("B"))  # raises if the block decodes to more
        return len(numcodecs.zstd.decompress(block))
    except (RuntimeError, ValueError):
        return _FAILED


def bind_symbol(symbol: str, module: Any, name: str, prototype: Any, substitute: Callable[..., int]) -> None:
    """Gives the compiler the address of one function, or of its substitute if the module does not export it.

    Args:
        symbol: name that kernels call it by.
        module: extension module of numcodecs.
        name: name of the function in the module's library.
        prototype: ctypes prototype of the function.
        substitute: Python function that does the same.
    """
    address: int | None = None
    try:
        address = ctypes.cast(getattr(ctypes.CDLL(module.__file__), name), _POINTER).value
    except (OSError, AttributeError):
        pass
    if address is None:
        _logger.warning("%s has no symbol %s: blocks are decoded through Python, slower", module.__file__, name)
        callback = prototype(substitute)
        _keep_alive.append(callback)
        address = ctypes.cast(callback, _POINTER).value
    llvmlite.binding.add_symbol(symbol, address)


def bind() -> None:
    """Gives the compiler the addresses of the decoders."""
    of_lz4, of_zstd = numcodecs.lz4, numcodecs.zstd
    block = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _INT, _INT, _INT)
    bind_symbol("replaystore_lz4_prefix", of_lz4, "LZ4_decompress_safe_partial", block, decode_lz4)
    create = ctypes.CFUNCTYPE(_SIZE)
    bind_symbol("replaystore_zstd_create", of_zstd, "ZSTD_createDCtx", create, lambda: 1)
    free = ctypes.CFUNCTYPE(_SIZE, _SIZE)
    bind_symbol("replaystore_zstd_free", of_zstd, "ZSTD_freeDCtx", free, lambda context: 0)
    frame = ctypes.CFUNCTYPE(_SIZE, _SIZE, _POINTER, _SIZE, _POINTER, _SIZE)
    bind_symbol("replaystore_zstd_frame", of_zstd, "ZSTD_decompressDCtx", frame, decode_zstd)


bind()

# int32 (source, target, source size, bytes wanted, capacity of target): bytes decoded, or a negative number. At least
# the bytes wanted are decoded, unless the block ends before.
lz4_prefix: Any = types.ExternalFunction(
    "replaystore_lz4_prefix", types.int32(types.int64, types.int64, types.int32, types.int32, types.int32)
)
# int64 (): a decoder, or 0.
zstd_create: Any = types.ExternalFunction("replaystore_zstd_create", types.int64())
# int64 (decoder)
zstd_free: Any = types.ExternalFunction("replaystore_zstd_free", types.int64(types.int64))
# int64 (decoder, target, capacity, source, source size): bytes decoded, or a negative number.
zstd_frame: Any = types.ExternalFunction(
    "replaystore_zstd_frame", types.int64(types.int64, types.int64, types.int64, types.int64, types.int64)
)
