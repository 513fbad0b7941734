"""Reads episode files that may be damaged or malicious.

Sizes are checked against limits and against each other before memory is allocated for them. The archive's CRC and the
size in the array's header cover every byte of an array.
"""

from __future__ import annotations

import copy
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from replaystore.datasets.drqv2_npz.header import ArrayHeader, read_header, refusal
from replaystore.datasets.drqv2_npz.names import refusal_of
from replaystore.errors import EpisodeFileError

MAX_MEMBERS = 64
DEFAULT_MAX_BYTES = 4 << 30
DEFAULT_MAX_RATIO = 250

_RATIO_FLOOR_BYTES = 128 << 20  # below this much data the compression ratio does not matter
_DIRECTORY_BUDGET_BYTES = 512 << 10  # most bytes that zipfile may read to find the members
_END_RECORD_BYTES = 22
_CHUNK_BYTES = 1 << 20
_UNREADABLE_FLAGS = 0x61  # encrypted, patch data, strongly encrypted
_MEMBER_NAME = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.:/ -]{0,127})\.npy")

# zipfile raises these for damaged archives, and NumPy raises the last one if memory is short.
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
    path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES, max_ratio: int = DEFAULT_MAX_RATIO,
    skip: Collection[str] = (), follow_links: bool = False,
) -> dict[str, npt.NDArray[Any]]:  # fmt: skip
    """Returns the arrays of an episode file, C-contiguous, in the file's order of fields.

    Nothing is executed. Memory for data is allocated only if its declared size is within the limits and agrees with the
    shape and dtype in its header. Fortran order is converted. Foreign byte order is refused.

    Args:
        path: a regular file.
        max_bytes: most bytes that all arrays together may declare.
        max_ratio: most declared bytes per byte of the file. Applies if more than 128 MiB are declared.
        skip: fields that are not read, whatever they hold.
        follow_links: whether `path` may be a symbolic link.

    Returns:
        Arrays of bool, integer or float items of at most 64 bits, by field name. Their numbers of rows are not
        compared.

    Raises:
        EpisodeFileError: the file is anything else.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    with _open_archive(path, follow_links) as (archive, file_bytes):
        members = {field: info for field, info in _members(path, archive).items() if field not in skip}
        _check_sizes(path, members, file_bytes, max_bytes, max_ratio)
        for field, info in members.items():
            # zipfile cuts data off at the declared size. Room for one more byte reveals a longer stream.
            roomier = copy.copy(info)
            roomier.file_size += 1
            with _open_member(path, field, archive, roomier) as (where, member):
                header = read_header(where, member, info.file_size)
                arrays[field] = _read_data(where, member, header, info.file_size - header.header_bytes)
    return arrays


def peek_episode(path: str | os.PathLike[str]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Returns the shape and dtype of each field of an episode file. Only the headers are read.

    Raises:
        EpisodeFileError: the headers or the archive are invalid; see `read_episode`.
    """
    described = {}
    with _open_archive(path, follow_links=False) as (archive, _):
        for field, info in _members(path, archive).items():
            with _open_member(path, field, archive, info) as (where, member):
                header = read_header(where, member, info.file_size)
            described[field] = (header.shape, header.dtype)
    return described


class _LimitedFile:
    """Reads at most `budget_bytes` until `release`. zipfile reads an archive's directory whole, whatever its size."""

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
def _open_archive(path: str | os.PathLike[str], follow_links: bool) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """Opens an archive and yields it with the size of its file. It does not wait on a FIFO."""
    where = os.fspath(path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        kind = refusal_of(Path(path).stat(follow_symlinks=follow_links))
        if kind is None:
            handle = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW)
    except (OSError, ValueError) as err:
        raise EpisodeFileError(f"{where}: expected a readable episode file: {err}; check the path") from err
    if kind is not None:
        remedy = "pass the file itself" + (", or follow links" if kind == "a symbolic link" else "")
        raise refusal(where, "a regular file", kind, remedy)
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
    """Compares the number of members with that in the archive's end record, which zipfile ignores."""
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
    """Returns the members by field name. None of them is opened yet."""
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
    """Yields the member's name for errors and its stream. Errors of the archive become `EpisodeFileError`."""
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
    # Asking for one byte more than expected makes zipfile reach the end and compare the CRC.
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
