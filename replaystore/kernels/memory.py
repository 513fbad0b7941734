"""Memory by address, for kernels whose input lies in many buffers. Callers keep the buffers alive."""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from replaystore.kernels.compiled import inlined

Int = Any  # Python's or NumPy's: kernels do not tell them apart


def _as_pointer(typing_context: Any, address: Any) -> Any:
    """The pointer with this integer value."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), build


_pointer: Any = intrinsic(_as_pointer)


@inlined
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


def _copy_few(typing_context: Any, target: Any, source: Any, mask: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, origin, bits = arguments
        module = builder.module
        vector = ir.VectorType(ir.IntType(8), 32)
        lanes = ir.VectorType(ir.IntType(1), 32)
        chosen = builder.bitcast(bits, lanes)
        zeros = ir.Constant(vector, [0] * 32)
        pointer = vector.as_pointer()
        suffix = "v32i8.p0"
        insert: Any = cgutils.get_or_insert_function
        load = insert(
            module, ir.FunctionType(vector, [pointer, ir.IntType(32), lanes, vector]), f"llvm.masked.load.{suffix}"
        )
        store = insert(
            module, ir.FunctionType(ir.VoidType(), [vector, pointer, ir.IntType(32), lanes]),
            f"llvm.masked.store.{suffix}",
        )  # fmt: skip
        one = ir.Constant(ir.IntType(32), 1)  # aligned to a byte
        value = builder.call(load, [builder.inttoptr(origin, pointer), one, chosen, zeros])
        builder.call(store, [value, builder.inttoptr(to, pointer), one, chosen])
        return context.get_dummy_value()

    return types.void(target, source, types.uint32), build


# (target, source, mask): copies those of 32 bytes whose bit is set, touching no others. Fast only where HAS_MASKS.
copy_masked: Any = intrinsic(_copy_few)

_features = llvmlite.binding.get_host_cpu_features()
HAS_MASKS = bool(_features.get("avx512bw") and _features.get("avx512vl"))
