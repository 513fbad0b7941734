"""Bits of 64-bit words, for kernels. Processors with a fast `pdep` take one instruction where others take several."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from replaystore.kernels.compiled import inlined, kernel
from replaystore.kernels.pointers import Int, declared
from replaystore.kernels.processor import HAS_PDEP

_WORD = ir.IntType(64)
_OCTET = ir.VectorType(ir.IntType(8), 8)


def _counted(name: str) -> Any:
    def of(typing_context: Any, word: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if name == "ctpop":
                return builder.ctpop(arguments[0])
            return getattr(builder, name)(arguments[0], ir.Constant(ir.IntType(1), 0))

        return types.int64(types.uint64), build

    return intrinsic(of)


def _by_mask(name: str) -> Any:
    def of(typing_context: Any, word: Any, mask: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            function = declared(builder.module, f"llvm.x86.bmi.{name}.64", _WORD, [_WORD, _WORD])
            return builder.call(function, arguments)

        return types.uint64(types.uint64, types.uint64), build

    return intrinsic(of)


def _on_bytes(operation: str) -> Any:
    def of(typing_context: Any, word: Any, other: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            octets = (builder.bitcast(argument, _OCTET) for argument in arguments)
            return builder.bitcast(getattr(builder, operation)(*octets), _WORD)

        return types.uint64(types.uint64, types.uint64), build

    return intrinsic(of)


# (uint64): int64, how many bits are set, how many zeros are below the lowest, and above the highest set bit.
count_ones: Any = _counted("ctpop")
trailing_zeros: Any = _counted("cttz")
leading_zeros: Any = _counted("ctlz")
# (uint64, uint64): uint64, sums and differences of eight bytes, modulo 256.
add_bytes: Any = _on_bytes("add")
subtract_bytes: Any = _on_bytes("sub")
# (uint64, uint64): uint64, x86's `pdep` and `pext`. Only with HAS_PDEP.
deposit_bits: Any = _by_mask("pdep")
extract_bits: Any = _by_mask("pext")


@kernel
def scatter_bytes_plain(word: Int, flags: Int) -> Any:
    """Returns what `scatter_bytes` returns, on any processor."""
    result = np.uint64(0)
    while flags != np.uint64(0):
        shift = np.uint64(trailing_zeros(flags) << 3)
        result |= (word & np.uint64(0xFF)) << shift
        word >>= np.uint64(8)
        flags &= flags - np.uint64(1)
    return result


@inlined
def scatter_bytes(word: Int, flags: Int) -> Any:
    """Returns a word in which the bytes whose flag is set are the first bytes of `word`, in order. Others are 0.

    Args:
        word: uint64.
        flags: uint64 below 256. Bit k is the flag of byte k.
    """
    if HAS_PDEP:
        return deposit_bits(word, deposit_bits(flags, np.uint64(0x0101010101010101)) * np.uint64(0xFF))
    return scatter_bytes_plain(word, flags)
