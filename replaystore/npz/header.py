"""The header of an `.npy` member, matched against the one form that NumPy writes; nothing is evaluated."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from replaystore.errors import EpisodeFileError

_LIMIT_BYTES = 1024
_MAX_AXES = 32
_MAX_AXIS = 1 << 40

# {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }: the keys once each, in any order. Every alternative
# starts with another character, so that no text makes the match slow.
_DESCR = re.compile(rb"'descr': *'([^'\\]{1,32})'")
_ORDER = re.compile(rb"'fortran_order': *(True|False)")
_SHAPE = re.compile(rb"'shape': *\(([0-9, ]*)\)")
_ENTRY = rb"(?:" + rb"|".join(pattern.pattern for pattern in (_DESCR, _ORDER, _SHAPE)) + rb")"
_HEADER = re.compile(rb"\{ *" + _ENTRY + rb"(?:, *" + _ENTRY + rb"){2}(?:, *)?\} *\n?")
_PLAIN_DTYPE = re.compile(r"[<>|=]?(?:\?|b1|[iuf][1248])")


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
    lead = _read_up_to(member, 8)
    if len(lead) < 8 or lead[:6] != b"\x93NUMPY":
        raise refusal(where, "an .npy member", f"the first bytes {lead!r}")
    if lead[6:] not in (b"\x01\x00", b"\x02\x00"):
        raise refusal(where, ".npy version 1.0 or 2.0", f"{lead[6]}.{lead[7]}", "write plain arrays with NumPy")
    width = 2 if lead[6] == 1 else 4
    length = int.from_bytes(_read_up_to(member, width), "little")
    if length > _LIMIT_BYTES:
        raise refusal(where, f"a header of at most {_LIMIT_BYTES} bytes", f"one of {length}")
    text = _read_up_to(member, length)
    if b"'descr': [" in text:
        raise refusal(where, "a bool, integer or float array", "a structured one", "save one plain array a field")
    descr, order, axes = _DESCR.findall(text), _ORDER.findall(text), _SHAPE.findall(text)
    if len(text) != length or not _HEADER.fullmatch(text) or not len(descr) == len(order) == len(axes) == 1:
        raise refusal(where, "a header as NumPy writes it", repr(text[:100]))
    dtype = _plain_dtype(where, descr[0].decode("latin-1"))
    shape = _shape(where, axes[0])
    header_bytes = 8 + width + length
    data_bytes = math.prod(shape) * dtype.itemsize
    if header_bytes + data_bytes != declared_bytes:
        raise refusal(where, f"{data_bytes} bytes for {dtype} {shape}", f"{declared_bytes - header_bytes} declared")
    return ArrayHeader(shape, dtype, order[0] == b"True", header_bytes)


def _read_up_to(member: IO[bytes], length: int) -> bytes:
    data = b""
    while len(data) < length and (piece := member.read(length - len(data))):
        data += piece
    return data


def _shape(where: str, text: bytes) -> tuple[int, ...]:
    axes = [axis.strip() for axis in text.split(b",")]
    if axes[-1] == b"":
        axes.pop()
    if len(axes) > _MAX_AXES or not all(axis.isdigit() and len(axis) <= 13 and int(axis) <= _MAX_AXIS for axis in axes):
        raise refusal(where, f"a shape of at most {_MAX_AXES} axes up to {_MAX_AXIS}", repr(text[:100]))
    return tuple(int(axis) for axis in axes)


def _plain_dtype(where: str, descr: str) -> np.dtype[Any]:
    if not _PLAIN_DTYPE.fullmatch(descr) or descr.endswith("f1"):
        expected = "a bool, integer or float dtype of at most 64 bits"
        raise refusal(where, expected, repr(descr), "convert the array; objects are never loaded")
    dtype = np.dtype(descr)
    if not dtype.isnative:
        remedy = f"convert it first: array.astype({dtype.newbyteorder('=').str!r})"
        raise refusal(where, "this machine's byte order", f"{descr!r}, the other one", remedy)
    return dtype
