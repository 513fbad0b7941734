"""The header of an `.npy` member: NumPy's parser, between limits of this project.

NumPy reads the text as a Python literal and calls nothing in it. Its length is limited before that. What NumPy lets
pass is refused here: a key that is there twice, what Python 2 wrote, negative or huge axes, dtypes that are not plain.
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

# Text that NumPy never writes there: escapes, comments, and numbers that Python 2 alone reads or that Python warns of.
_UNUSUAL = re.compile(rb"\A[^{]|[^ -~\n]|\n(?!\Z)|[\\\"#]|[0-9][A-Za-z_]")
_DESCR = re.compile(rb"'descr': *(\[|'[^']{1,32}')")
_PLAIN_DESCR = re.compile(r"'[<>|=]?(?:\?|b1|[iu][1248]|f[248])'")

# What NumPy's parser raises beside ValueError: it passes on what Python's raise.
_PARSER_ERRORS = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError)


@dataclass(frozen=True)
class ArrayHeader:
    """What an `.npy` header says, and how many bytes it takes itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    header_bytes: int


def refusal(where: str, expected: str, found: object, remedy: str | None = None) -> EpisodeFileError:
    """The error for a file that is not as expected."""
    remedy = remedy or "the file is damaged or no episode: record it again or leave it out"
    return EpisodeFileError(f"{where}: expected {expected}, found {found}; {remedy}")


def read_header(where: str, member: IO[bytes], declared_bytes: int) -> ArrayHeader:
    """Reads the header from the start of a member and leaves it at the data.

    Args:
        where: file and field, for errors.
        member: the uncompressed stream.
        declared_bytes: its size, as the archive says; header and data must make up exactly that.

    Raises:
        EpisodeFileError: not an array of a plain native dtype, or the sizes disagree.
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
    """Refuses other than plain dtypes before NumPy makes them: it has names that it warns of."""
    found = _DESCR.search(text)
    if found is None:
        raise refusal(where, "a header as NumPy writes it", repr(text[:100]))
    descr = found[1].decode("ascii")
    if descr == "[":
        raise refusal(where, "a bool, integer or float array", "a structured one", "save one plain array a field")
    if not _PLAIN_DESCR.fullmatch(descr):
        expected = "a bool, integer or float dtype of at most 64 bits"
        raise refusal(where, expected, descr, "convert the array; objects are never loaded")
