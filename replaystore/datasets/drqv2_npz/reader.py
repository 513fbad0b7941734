"""Reads episode files that may be damaged or made to harm.

Sizes are checked against limits, and against each other, before memory is taken for them; every byte of an array is
covered by the archive's CRC and by the size that its header declares.
"""

from __future__ import annotations

import copy
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from replaystore.datasets.drqv2_npz.header import ArrayHeader, read_header, refusal
from replaystore.datasets.drqv2_npz.names import refusal_of
from replaystore.errors import EpisodeFileError

MAX_MEMBERS = 64
DEFAULT_MAX_BYTES = 4 << 30
DEFAULT_MAX_RATIO = 250

_RATIO_FLOOR_BYTES = 128 << 20  # the compression ratio is of no interest below this much data
_DIRECTORY_BUDGET_BYTES = 512 << 10  # what zipfile may read to find the members
_END_RECORD_BYTES = 22
_CHUNK_BYTES = 1 << 20
_UNREADABLE_FLAGS = 0x61  # encrypted, patch data, strongly encrypted
_MEMBER_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63})\.npy")

# What zipfile raises on damaged archives, and NumPy where there is no memory for an array.
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
    LookupError,
    MemoryError,
)


def read_episode(
    path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES, max_ratio: int = DEFAULT_MAX_RATIO
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an episode file, C-contiguous, in the file's order of fields.

    Nothing is executed, and no memory is taken for data before its declared size was found to be within the limits
    and to agree with shape and dtype in its header. Fortran order is converted; the other byte order is refused.

    Args:
        path: a regular file; a link is refused.
        max_bytes: most bytes that all arrays together may declare.
        max_ratio: most bytes declared for each byte of the file, where more than 128 MiB are declared.

    Returns:
        Arrays of bool, integer or float items of at most 64 bits, by field name. That their rows agree in number
        is not checked here.

    Raises:
        EpisodeFileError: the file is anything else, with what was expected and found.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    with _open_archive(path) as (archive, file_bytes):
        members = _members(path, archive)
        _check_sizes(path, members, file_bytes, max_bytes, max_ratio)
        for field, info in members.items():
            # zipfile cuts data off at the declared size; with room for one byte more, a longer stream shows.
            roomier = copy.copy(info)
            roomier.file_size += 1
            with _open_member(path, field, archive, roomier) as (where, member):
                header = read_header(where, member, info.file_size)
                arrays[field] = _read_data(where, member, header, info.file_size - header.header_bytes)
    return arrays


def peek_episode(path: str | os.PathLike[str]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of each field of an episode file, from the headers alone: cheap, and checked as in reading.

    Raises:
        EpisodeFileError: as in `read_episode`, for what can be told without the data.
    """
    described = {}
    with _open_archive(path) as (archive, _):
        for field, info in _members(path, archive).items():
            with _open_member(path, field, archive, info) as (where, member):
                header = read_header(where, member, info.file_size)
            described[field] = (header.shape, header.dtype)
    return described


class _LimitedFile:
    """Gives out at most `budget_bytes` until `release`: zipfile reads the archive's directory whole, at any size."""

    def __init__(self, raw: IO[bytes], budget_bytes: int) -> None:
        self._raw = raw
        self._left: int | None = budget_bytes

    def release(self) -> None:
        self._left = None

    def read(self, size: int = -1, /) -> bytes:
        if self._left is None:
            return self._raw.read(size)
        data = self._raw.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise zipfile.BadZipFile(f"the archive's directory takes over {_DIRECTORY_BUDGET_BYTES} bytes")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def seekable(self) -> bool:
        return True


@contextmanager
def _open_archive(path: str | os.PathLike[str]) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """The archive and the bytes of its file. Follows no link and does not wait on a FIFO."""
    where = os.fspath(path)
    try:
        kind = refusal_of(os.lstat(path))
        if kind is None:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as err:
        raise EpisodeFileError(f"{where}: expected a readable episode file: {err}; check the path") from err
    if kind is not None:
        raise refusal(where, "a regular file", kind, "pass the file itself")
    with os.fdopen(handle, "rb") as raw:
        info = os.fstat(handle)
        kind = refusal_of(info)
        if kind is not None:
            raise refusal(where, "a regular file", kind, "pass the file itself")
        limited = _LimitedFile(raw, _DIRECTORY_BUDGET_BYTES)
        try:
            archive = zipfile.ZipFile(limited)
        except _ARCHIVE_ERRORS as err:
            raise refusal(where, "a zip archive of .npy members", f"{info.st_size} bytes, {err!r}") from err
        limited.release()
        with archive:
            _check_count(where, archive, raw, info.st_size)
            yield archive, info.st_size


def _check_count(where: str, archive: zipfile.ZipFile, raw: IO[bytes], file_bytes: int) -> None:
    """Compares the number of members with the one in the archive's end record, which zipfile does not look at."""
    try:
        raw.seek(file_bytes - _END_RECORD_BYTES - len(archive.comment))
        record = raw.read(_END_RECORD_BYTES)
    except (OSError, ValueError) as err:
        raise refusal(where, "a zip archive's end record", repr(err)) from err
    count = int.from_bytes(record[10:12], "little")
    found = len(archive.infolist())
    if record[:4] != b"PK\x05\x06" or count != found:
        raise refusal(where, f"{count} members as the archive's end record says", f"{found} in its directory")


def _members(path: str | os.PathLike[str], archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by field name, none of them opened yet."""
    where = os.fspath(path)
    infos = archive.infolist()
    if not 1 <= len(infos) <= MAX_MEMBERS:
        raise refusal(where, f"1 to {MAX_MEMBERS} members", len(infos))
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        match = _MEMBER_NAME.fullmatch(info.orig_filename)
        if match is None:
            raise refusal(where, "members called FIELD.npy", ascii(info.orig_filename[:80]), "rename the field")
        if match[1] in members:
            raise refusal(where, "every field once", f"{match[1]!r} twice")
        if info.flag_bits & _UNREADABLE_FLAGS or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            found = f"method {info.compress_type}, flags {info.flag_bits:#x}"
            raise refusal(f"{where}, {match[1]}", "a stored or deflated member", found, "write it with NumPy")
        members[match[1]] = info
    return members


def _check_sizes(
    path: str | os.PathLike[str], members: Mapping[str, zipfile.ZipInfo], file_bytes: int, max_bytes: int, ratio: int
) -> None:
    where = os.fspath(path)
    total = sum(info.file_size for info in members.values())
    if total > max_bytes:
        remedy = "pass max_bytes=... if the episode is that large"
        raise refusal(where, f"at most {max_bytes} bytes uncompressed", f"{total} declared", remedy)
    if total > max(_RATIO_FLOOR_BYTES, ratio * file_bytes):
        found = f"{total} bytes declared in a file of {file_bytes}"
        raise refusal(where, f"a compression ratio of at most {ratio}", found, "pass max_ratio=... if that is right")


@contextmanager
def _open_member(
    path: str | os.PathLike[str], field: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> Iterator[tuple[str, IO[bytes]]]:
    """The member's stream and what to call it in errors; errors of the archive become ours."""
    where = f"{os.fspath(path)}, {field}"
    try:
        with archive.open(info) as member:
            yield where, member
    except EpisodeFileError:
        raise
    except _ARCHIVE_ERRORS as err:
        raise refusal(where, "a readable member", repr(err)) from err


def _read_data(where: str, member: IO[bytes], header: ArrayHeader, data_bytes: int) -> npt.NDArray[Any]:
    flat = np.empty(data_bytes, np.uint8)
    received = 0
    # One byte more than expected is asked for, so that the stream's end is reached and its CRC compared.
    while piece := member.read(min(_CHUNK_BYTES, data_bytes - received + 1)):
        if received + len(piece) > data_bytes:
            raise refusal(where, f"{data_bytes} bytes of data", "more in the compressed stream")
        flat[received : received + len(piece)] = np.frombuffer(piece, np.uint8)
        received += len(piece)
    if received != data_bytes:
        raise refusal(where, f"{data_bytes} bytes of data", f"{received} in the compressed stream")
    if header.dtype == np.bool_ and flat.size and int(flat.max()) > 1:
        raise refusal(where, "bool values 0 and 1", int(flat.max()))
    array = flat.view(header.dtype)
    if header.fortran_order:
        return np.ascontiguousarray(array.reshape(header.shape[::-1]).T)
    return array.reshape(header.shape)
