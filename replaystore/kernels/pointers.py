"""Reads and writes memory by address, for kernels with many input buffers. Callers keep the buffers alive.

An address keeps nothing alive. Numba frees an array that a function made as soon as the function does not name it any
more, so a function takes addresses only of its parameters, or of parts of them. A test reads all kernels for that.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

Int = Any  # of Python or NumPy; kernels treat them alike

_BYTE_POINTER = ir.IntType(8).as_pointer()


def _bytes_at(typing_context: Any, address: Any, length: Any) -> Any:
    kind = types.Array(types.uint8, 1, "C")

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, count = arguments
        integer = ir.IntType(64)
        one = ir.ArrayType(integer, 1)
        array = context.make_array(kind)(context, builder)
        array.data = builder.inttoptr(start, _BYTE_POINTER)
        array.nitems = count
        array.itemsize = ir.Constant(integer, 1)
        array.shape = builder.insert_value(ir.Constant(one, ir.Undefined), count, 0)
        array.strides = ir.Constant(one, [1])
        array.meminfo = ir.Constant(array.meminfo.type, None)
        array.parent = ir.Constant(array.parent.type, None)
        return array._getvalue()

    return kind(types.int64, types.int64), build


# (address, length): uint8 (length,) at an address. It equals numba's `carray` and compiles much faster.
bytes_at: Any = intrinsic(_bytes_at)


def _load(kind: Any) -> Any:
    def of(typing_context: Any, address: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], context.get_value_type(kind).as_pointer())
            return builder.load(pointer, align=1)

        return kind(address), build

    return intrinsic(of)


def _store(kind: Any) -> Any:
    def of(typing_context: Any, address: Any, value: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], context.get_value_type(kind).as_pointer())
            builder.store(arguments[1], pointer, align=1)
            return context.get_dummy_value()

        return types.void(address, kind), build

    return intrinsic(of)


# Little-endian numbers at any address, aligned or not.
load_u8: Any = _load(types.uint8)
load_u16: Any = _load(types.uint16)
load_u32: Any = _load(types.uint32)
load_u64: Any = _load(types.uint64)
load_f32: Any = _load(types.float32)
store_u8: Any = _store(types.uint8)
store_u32: Any = _store(types.uint32)
store_u64: Any = _store(types.uint64)


def declared(module: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Returns the function of this name in an LLVM module. Declares it if the module does not have it yet."""
    known = module.globals.get(name)
    return ir.Function(module, ir.FunctionType(result, arguments), name) if known is None else known


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
        alignment = ir.IntType(32)
        load = declared(module, f"llvm.masked.load.{suffix}", vector, [pointer, alignment, lanes, vector])
        store = declared(module, f"llvm.masked.store.{suffix}", ir.VoidType(), [vector, pointer, alignment, lanes])
        one = ir.Constant(alignment, 1)  # aligned to a byte
        value = builder.call(load, [builder.inttoptr(origin, pointer), one, chosen, zeros])
        builder.call(store, [value, builder.inttoptr(to, pointer), one, chosen])
        return context.get_dummy_value()

    return types.void(target, source, types.uint32), build


# (target, source, mask): copies the bytes of 32 whose bit is set, and touches no others. Fast only with HAS_MASKS.
copy_masked: Any = intrinsic(_copy_few)
