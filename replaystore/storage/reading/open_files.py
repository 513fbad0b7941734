"""Open chunk files, a bounded number of them, and reading exact ranges."""

from __future__ import annotations

import os
import resource
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ChunkError

_MOST = 1024


class OpenFile:
    """A file open for reading; closed when nobody holds the object any more, so that no reader loses it."""

    __slots__ = ("fd", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.fd).st_size
        # The block layer may read megabytes ahead for each request; a batch uses none of it.
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def read_into(self, out: NDArray[np.uint8], offset: int) -> None:
        """Fills `out`, uint8 (n,), from byte `offset`.

        Raises:
            ChunkError: the file ends before, or the device fails.
        """
        view = out.data.cast("B")
        while view:
            try:
                got = os.preadv(self.fd, [view], offset)
            except OSError as err:
                raise ChunkError(f"{self.path}: reading {len(view)} bytes at {offset}: {err.strerror}") from err
            if not got:
                raise ChunkError(f"{self.path}: truncated: expected {len(view)} more bytes at {offset}, found none")
            view = view[got:]
            offset += got

    def drop_cache(self) -> None:
        """Tells the system that its copy of the file is not needed: the caller holds the bytes now."""
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)


class OpenFiles:
    """The most recently used files of a store. Thread-safe.

    Attributes:
        most: files kept open; a quarter of what the process may have, at most 1,024.
    """

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = _MOST if soft == resource.RLIM_INFINITY else max(4, min(_MOST, soft // 4))
        self._lock = threading.Lock()
        self._files: OrderedDict[Path, OpenFile] = OrderedDict()

    def get(self, path: Path) -> OpenFile:
        """The file, opened if need be. Raises `FileNotFoundError`."""
        with self._lock:
            file = self._files.get(path)
            if file is not None:
                self._files.move_to_end(path)
                return file
        file = OpenFile(path)
        with self._lock:
            self._files[path] = file
            while len(self._files) > self.most:
                self._files.popitem(last=False)
        return file

    def forget(self, path: Path) -> None:
        """Closes a file that is gone or replaced, once nobody reads it any more."""
        with self._lock:
            self._files.pop(path, None)

    def clear(self) -> None:
        """Closes all files, once nobody reads them any more."""
        with self._lock:
            self._files.clear()

    def reset_after_fork(self) -> None:
        """Makes the object usable in a forked child, whatever thread held its lock."""
        self._lock = threading.Lock()
