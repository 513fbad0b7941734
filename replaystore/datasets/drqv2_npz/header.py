"""Reads the header of an `.npy` member with NumPy's parser and stricter limits.

NumPy parses the text as a Python literal and calls nothing in it. This module limits the text's length first. It
refuses what NumPy accepts beyond plain arrays: repeated keys, headers of Python 2, negative or huge axes, and dtypes
that are not plain.
"""

from __future__ import annotations

import io
import math
import re
import tokenize
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from replaystore.errors import EpisodeFileError

_LIMIT_BYTES = 1024
_MAX_AXES = 32
_MAX_AXIS = 1 << 40
_KEYS = (b"'descr'", b"'fortran_order'", b"'shape'")
_READERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}

# Text that NumPy never writes: escapes, comments, and numbers that only Python 2 reads or that Python warns about.
_UNUSUAL = re.compile(rb"\A[^{]|[^ -~\n]|\n(?!\Z)|[\\\"#]|[0-9][A-Za-z_]")
_DESCR = re.compile(rb"'descr': *(\[|'[^']{1,32}')")
_PLAIN_DESCR = re.compile(r"'[<>|=]?(?:\?|b1|[iu][1248]|f[248])'")

# NumPy's parser passes on the errors of Python's parsers.
_PARSER_ERRORS = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError)


@dataclass(frozen=True)
class ArrayHeader:
    """Content of an `.npy` header.

    Attributes:
        shape: shape of the array.
        dtype: dtype of the array.
        fortran_order: whether the data are in Fortran order.
        header_bytes: size of the header itself.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    header_bytes: int


def refusal(where: str, expected: str, found: object, remedy: str | None = None) -> EpisodeFileError:
    """Returns the error for a file that is not as expected.

    Args:
        where: file, and field if known.
        expected: what was expected.
        found: what was found.
        remedy: what to do. None says that the file is damaged.
    """
    remedy = remedy or "the file is damaged or no episode: record it again or leave it out"
    return EpisodeFileError(f"{where}: expected {expected}, found {found}; {remedy}")


def read_header(where: str, member: IO[bytes], declared_bytes: int) -> ArrayHeader:
    """Reads the header at the start of a member. The stream is then at the data.

    Args:
        where: file and field, for errors.
        member: the uncompressed stream.
        declared_bytes: size of the member according to the archive. Header and data must add up to it.

    Raises:
        EpisodeFileError: the member is no array of a plain native dtype, or the sizes disagree.
    """
    lead = _read_up_to(member, npy_format.MAGIC_LEN)
    try:
        version = npy_format.read_magic(io.BytesIO(lead))
    except ValueError as err:
        raise refusal(where, "an .npy member", f"the first bytes {lead!r}") from err
    if version not in _READERS:
        raise refusal(where, ".npy version 1.0 or 2.0", f"{lead[6]}.{lead[7]}", "write plain arrays with NumPy")
    prefix = _read_up_to(member, 2 if version == (1, 0) else 4)
    length = int.from_bytes(prefix, "little")
    if length > _LIMIT_BYTES:
        raise refusal(where, f"a header of at most {_LIMIT_BYTES} bytes", f"one of {length}")
    text = _read_up_to(member, length)
    if _UNUSUAL.search(text) or any(text.count(key) != 1 for key in _KEYS):
        raise refusal(where, "a header as NumPy writes it", repr(text[:100]))
    _check_descr(where, text)
    try:
        shape, fortran_order, dtype = _READERS[version](io.BytesIO(prefix + text), max_header_size=_LIMIT_BYTES)
    except _PARSER_ERRORS as err:
        raise refusal(where, "a header as NumPy writes it", repr(text[:100])) from err
    if not dtype.isnative:
        remedy = f"convert it first: array.astype({dtype.newbyteorder('=').str!r})"
        raise refusal(where, "this machine's byte order", f"{dtype.str!r}, the other one", remedy)
    if len(shape) > _MAX_AXES or not all(type(axis) is int and 0 <= axis <= _MAX_AXIS for axis in shape):
        raise refusal(where, f"a shape of at most {_MAX_AXES} axes up to {_MAX_AXIS}", repr(shape)[:100])
    header_bytes = len(lead) + len(prefix) + length
    data_bytes = math.prod(shape) * dtype.itemsize
    if header_bytes + data_bytes != declared_bytes:
        raise refusal(where, f"{data_bytes} bytes for {dtype} {shape}", f"{declared_bytes - header_bytes} declared")
    return ArrayHeader(shape, dtype, fortran_order, header_bytes)


def _read_up_to(member: IO[bytes], length: int) -> bytes:
    data = b""
    while len(data) < length and (piece := member.read(length - len(data))):
        data += piece
    return data


def _check_descr(where: str, text: bytes) -> None:
    """Refuses all but plain dtypes before NumPy parses them. NumPy warns about some names."""
    found = _DESCR.search(text)
    if found is None:
        raise refusal(where, "a header as NumPy writes it", repr(text[:100]))
    descr = found[1].decode("ascii")
    if descr == "[":
        raise refusal(
            where, "a bool, integer or float array", "a structured one", "save one plain array per field, or skip it"
        )
    if not _PLAIN_DESCR.fullmatch(descr):
        expected = "a bool, integer or float dtype of at most 64 bits"
        raise refusal(where, expected, descr, "convert the array or skip it; objects are never loaded")
