"""Memory by address, for kernels whose input lies in many buffers. Callers keep the buffers alive."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

Int = Any  # Python's or NumPy's: kernels do not tell them apart


def _as_pointer(typing_context: Any, address: Any) -> Any:
    """The pointer with this integer value."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), build


_pointer: Any = intrinsic(_as_pointer)


@njit(cache=True, nogil=True, inline="always")
def bytes_at(address: Int, length: Int) -> Any:
    """uint8 (length,) at an address."""
    return carray(_pointer(np.int64(address)), (length,), np.uint8)


def _load(kind: Any) -> Any:
    def of(typing_context: Any, address: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], ir.IntType(kind.bitwidth).as_pointer())
            return builder.load(pointer, align=1)

        return kind(address), build

    return intrinsic(of)


def _store_u64(typing_context: Any, address: Any, value: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store(arguments[1], pointer, align=1)
        return context.get_dummy_value()

    return types.void(address, types.uint64), build


# Little-endian integers at any address, aligned or not.
load_u16: Any = _load(types.uint16)
load_u32: Any = _load(types.uint32)
load_u64: Any = _load(types.uint64)
store_u64: Any = intrinsic(_store_u64)
