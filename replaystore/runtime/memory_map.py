"""`MemoryMap`: a file mapped read-only, without a descriptor, and whether a file system is one to map files of."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ChunkError
from replaystore.kernels.memory_maps import populate
from replaystore.runtime.mounts import parse_mounts

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value

# Other machines change files of these under a map, and an error of the network is a signal.
_REMOTE = ("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "glusterfs", "gpfs", "lustre", "nfs", "smb")


class MemoryMap:
    """A file in memory, read-only. It is unmapped when the last array over it is gone.

    `np.asarray` makes an array of the whole file, uint8 (size,). It needs no descriptor, which Python's own maps keep.

    Attributes:
        path: the file.
        address: address of its first byte.
        size: its length in bytes.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be mapped.
    """

    __slots__ = ("__weakref__", "address", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path, self.address, self.size = path, 0, 0
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0) if size else 0
        finally:
            os.close(fd)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
        self.address, self.size = address, size
        # Without this the system reads far around each page that is touched, and a batch uses none of it.
        _libc.madvise(address, size, mmap.MADV_RANDOM)

    def __del__(self, unmap: Any = _libc.munmap) -> None:
        if self.address:
            unmap(self.address, self.size)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "typestr": "|u1", "shape": (self.size,), "data": (self.address or 1, True)}

    @property
    def fd(self) -> int:
        """-1: the file is not open."""
        return -1

    def read_into(self, out: NDArray[np.uint8], offset: int) -> None:
        """Copies len(out) bytes.

        Args:
            out: uint8 (n,), takes the bytes.
            offset: position of the first byte in the file.

        Raises:
            ChunkError: the file is too short, or reading it failed.
        """
        length = out.size
        if not length:
            return
        if offset + length > self.size:
            raise ChunkError(f"{self.path}: truncated: expected {length} bytes at {offset}, found {self.size} in all")
        if populate(np.array([self.address + offset]), np.array([length]))[0] >= 0:
            raise self.unreadable(offset, length)
        out[:] = np.asarray(self)[offset : offset + length]

    def unreadable(self, offset: int, length: int) -> ChunkError:
        """Returns the error for bytes that the system could not bring into memory. It says why, if that is known."""
        where = f"{self.path}: reading {length} bytes at {offset}"
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = len(os.pread(fd, length, offset))
            finally:
                os.close(fd)
        except OSError as err:
            return ChunkError(f"{where}: {err.strerror}")
        if found < length:
            return ChunkError(f"{where}: truncated: found {found} of them; restore the file from a copy")
        return ChunkError(f"{where}: they left the memory map; try again, or use residency 'files'")


def is_remote(path: Path) -> bool:
    """Whether a directory lies on a network or FUSE file system. False if the system does not say."""
    try:
        mounts, resolved = Path("/proc/self/mountinfo").read_text().splitlines(), path.resolve()
    except OSError:
        return False
    kind = file_system_of(resolved, mounts)
    return kind.startswith(_REMOTE) and kind != "fuseblk"


def file_system_of(path: Path, mounts: list[str]) -> str:
    """Returns the type of the file system that an absolute path lies on, or nothing.

    Args:
        path: the path, without links.
        mounts: the lines of /proc/self/mountinfo.
    """
    best, kind = -1, ""
    for mount in parse_mounts(mounts):
        if path.is_relative_to(mount.point) and len(mount.point) >= best:  # a later mount hides an earlier one
            best, kind = len(mount.point), mount.kind
    return kind
