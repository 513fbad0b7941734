"""Packs and unpacks one octet: eight signed values of a code's width, one after another.

There are 16 codes. Code c has values of c % 8 + 1 bits. Codes from 8 on refer to the octet above. A table has an entry
of `ENTRY_BYTES` bytes for each code:

| offset | bytes | what |
| --- | --- | --- |
| 0 | 8 | width of a value in bits, the bytes that an octet takes |
| 8 | 8 | how far back the reference is, in a frame packed with another frame as reference |
| 16 | 8 | the same in a frame packed without |
| 24 | 8 | the lowest `width` bits of each byte |
| 32 | 16 | 2 ** (width - 1) in each of eight bytes, and zeros |
| 48 | 16 | for each value, the two bytes of the packed octet that it lies in |
| 64 | 16 | for each value, the factor that moves it to the top of these two bytes |
| 80 | 16 | the shift that moves it from there to the bottom, and zeros |

An octet is unpacked with `pdep`, or else with shuffles and products, or else with shifts. The results are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from replaystore.kernels.bits import add_bytes, extract_bits, subtract_bytes
from replaystore.kernels.compiled import inlined, kernel
from replaystore.kernels.pointers import Int, declared, load_u64
from replaystore.kernels.processor import HAS_PDEP, HAS_SHUFFLE

NUM_CODES = 16
ENTRY_BYTES = 128
WIDTH, DISTANCE, DISTANCE_ALONE, MASK, BIAS, SHUFFLE, FACTORS, SHIFT = 0, 8, 16, 24, 32, 48, 64, 80

_WORD, _INT = ir.IntType(64), ir.IntType(32)
_HALVES = ir.VectorType(_WORD, 2)
_BYTES = ir.VectorType(ir.IntType(8), 16)
_PAIRS = ir.VectorType(ir.IntType(16), 8)


@kernel
def code_table(left_bytes: Int, above_bytes: Int) -> Any:
    """Returns the table of codes, uint64 (16, ENTRY_BYTES / 8).

    Args:
        left_bytes: how far back codes below 8 refer in a frame packed without a reference.
        above_bytes: how far back the octet above is.
    """
    table = np.zeros((NUM_CODES, ENTRY_BYTES // 8), np.uint64)
    every = np.uint64(0x0101010101010101)
    for code in range(NUM_CODES):
        entry = table[code]
        width = code % 8 + 1
        entry[WIDTH // 8] = width
        entry[DISTANCE // 8] = 0 if code < 8 else above_bytes
        entry[DISTANCE_ALONE // 8] = left_bytes if code < 8 else above_bytes
        entry[MASK // 8] = np.uint64((1 << width) - 1) * every
        entry[BIAS // 8] = np.uint64(1 << (width - 1)) * every
        shuffle, factors = entry.view(np.uint8)[SHUFFLE:], entry.view(np.uint16)[FACTORS // 2 :]
        for k in range(8):
            first = min(width * k // 8, 6)
            shuffle[2 * k] = first
            shuffle[2 * k + 1] = first + 1
            factors[k] = 1 << (16 - width - (width * k - 8 * first))
        entry[SHIFT // 8] = 16 - width
    return table


def _vector_at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _low_word(builder: Any, word: Any) -> Any:
    """Returns a vector of bytes that starts with those of a word. The others are 0."""
    halves = builder.insert_element(ir.Constant(_HALVES, [0, 0]), word, ir.Constant(_INT, 0))
    return builder.bitcast(halves, _BYTES)


def _deposited(builder: Any, word: Any, entry: Any) -> Any:
    mask = builder.load(builder.inttoptr(builder.add(entry, _WORD(MASK)), _WORD.as_pointer()), align=1)
    function = declared(builder.module, "llvm.x86.bmi.pdep.64", _WORD, [_WORD, _WORD])
    return _low_word(builder, builder.call(function, [word, mask]))


def _shuffled(builder: Any, word: Any, entry: Any) -> Any:
    def part(offset: int, kind: Any) -> Any:
        return _vector_at(builder, builder.add(entry, _WORD(offset)), kind)

    module = builder.module
    shuffle = declared(module, "llvm.x86.ssse3.pshuf.b.128", _BYTES, [_BYTES, _BYTES])
    shift = declared(module, "llvm.x86.sse2.psrl.w", _PAIRS, [_PAIRS, _PAIRS])
    pack = declared(module, "llvm.x86.sse2.packuswb.128", _BYTES, [_PAIRS, _PAIRS])
    pairs = builder.bitcast(builder.call(shuffle, [_low_word(builder, word), part(SHUFFLE, _BYTES)]), _PAIRS)
    values = builder.call(shift, [builder.mul(pairs, part(FACTORS, _PAIRS)), part(SHIFT, _PAIRS)])
    return builder.call(pack, [values, ir.Constant(_PAIRS, [0] * 8)])


def _unpack_with(spread: Any) -> Any:
    def of(typing_context: Any, packed: Any, reference: Any, entry: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            packed, reference, entry = arguments
            word, there = (
                builder.load(builder.inttoptr(address, _WORD.as_pointer()), align=1) for address in (packed, reference)
            )
            values = spread(builder, word, entry)
            # All 16 bytes of the bias, because the instruction that subtracts them from memory reads as many.
            bias = _vector_at(builder, builder.add(entry, _WORD(BIAS)), _BYTES)
            octet = builder.sub(builder.add(values, _low_word(builder, there)), bias)
            return builder.extract_element(builder.bitcast(octet, _HALVES), ir.Constant(_INT, 0))

        return types.uint64(types.int64, types.int64, types.int64), build

    return intrinsic(of)


@kernel
def unpack_plain(packed: Int, reference: Int, entry: Int) -> Any:
    """Returns what `unpack_octet` returns, on any processor."""
    # Halves of the octet move apart, then quarters, then single values.
    narrow = np.uint64(8) - load_u64(entry + WIDTH)
    mask = load_u64(entry + MASK)
    word = load_u64(packed)
    four_width = np.uint64(4) * (np.uint64(8) - narrow)
    low = (np.uint64(1) << four_width) - np.uint64(1)
    word = (word & low) | (((word >> four_width) & low) << np.uint64(32))
    quarter = ((np.uint64(1) << (four_width >> np.uint64(1))) - np.uint64(1)) * np.uint64(0x0000000100000001)
    word = (word & quarter) | ((word << (narrow + narrow)) & (quarter << np.uint64(16)))
    even = mask & np.uint64(0x00FF00FF00FF00FF)
    word = (word & even) | ((word << narrow) & (even << np.uint64(8)))
    return subtract_bytes(add_bytes(word, load_u64(reference)), load_u64(entry + BIAS))


unpack_deposited: Any = _unpack_with(_deposited)
unpack_shuffled: Any = _unpack_with(_shuffled)

# (address of a packed octet, address of its reference, address of its code's entry): uint64, the octet. Eight bytes of
# the packed octet are read, whatever its width.
unpack_octet: Any = unpack_deposited if HAS_PDEP else unpack_shuffled if HAS_SHUFFLE else unpack_plain


@kernel
def gather_plain(octet: Int, width: Int) -> Any:
    """Returns the lowest `width` bits of each byte of a word, one after another. The others are 0."""
    narrow = np.uint64(8 - width)
    odd = np.uint64(0xFF00FF00FF00FF00)
    octet = (octet & ~odd) | ((octet & odd) >> narrow)
    odd = np.uint64(0xFFFF0000FFFF0000)
    octet = (octet & ~odd) | ((octet & odd) >> (narrow + narrow))
    return (octet & np.uint64(0xFFFFFFFF)) | ((octet >> np.uint64(32)) << np.uint64(4 * width))


@inlined
def pack_octet(difference: Int, width: Int, entry: Int) -> Any:
    """Returns the packed octet, in the lowest `width` bytes.

    Args:
        difference: uint64, the octet minus its reference, byte by byte. Each is a signed number of `width` bits.
        width: bits of a value.
        entry: address of the entry of the octet's code.
    """
    # In `width` bits, adding the bias and subtracting it are the same.
    biased = subtract_bytes(difference, load_u64(entry + BIAS))
    mask = load_u64(entry + MASK)
    return extract_bits(biased, mask) if HAS_PDEP else gather_plain(biased & mask, width)
