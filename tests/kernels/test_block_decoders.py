"""What stands in for the decoders of numcodecs where a build of it hides them."""

from __future__ import annotations

import lz4.block
import numcodecs.zstd
import numpy as np
import pytest

from replaystore.kernels import block_decoders

DATA = np.arange(1000, dtype=np.uint16).view(np.uint8) // 8


def decode(entropy, block, capacity):
    """The number that the decoder returns, and what it wrote; what is beyond the capacity is left alone."""
    source, target = np.frombuffer(block, np.uint8), np.full(capacity + 8, 77, np.uint8)
    if entropy == "lz4":
        size = block_decoders.decode_lz4(source.ctypes.data, target.ctypes.data, source.size, capacity, capacity)
    else:
        size = block_decoders.decode_zstd(1, target.ctypes.data, capacity, source.ctypes.data, source.size)
    assert (target[capacity:] == 77).all()
    return size, target[:capacity]


BLOCKS = {"lz4": lz4.block.compress(DATA, store_size=False), "zstd": numcodecs.zstd.compress(DATA, 3)}


@pytest.mark.parametrize("entropy", BLOCKS)
def test_a_block_decodes(entropy):
    size, found = decode(entropy, BLOCKS[entropy], DATA.size)
    assert size == DATA.size
    assert np.array_equal(found, DATA)


@pytest.mark.parametrize("entropy", BLOCKS)
def test_a_block_of_less_says_how_much(entropy):
    size, found = decode(entropy, BLOCKS[entropy], DATA.size + 100)
    assert size == DATA.size
    assert np.array_equal(found[: DATA.size], DATA)


@pytest.mark.parametrize("entropy", BLOCKS)
def test_damage_and_blocks_of_more_are_no_success(entropy):
    capacity = DATA.size
    for block in (BLOCKS[entropy][:-5], b"junk that is no block" * 3):
        assert decode(entropy, block, capacity)[0] != capacity
    assert decode(entropy, BLOCKS[entropy], capacity - 1)[0] != capacity - 1
