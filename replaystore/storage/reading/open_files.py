"""`OpenFiles`: keeps a bounded number of chunk files open, and reads exact ranges of them."""

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
    """A file open for reading. It is closed when the last reference to the object is gone."""

    __slots__ = ("fd", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.fd).st_size
        # Without this the system reads megabytes ahead for each request, and a batch uses none of them.
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def read_into(self, out: NDArray[np.uint8], offset: int) -> None:
        """Reads len(out) bytes.

        Args:
            out: uint8 (n,), C-contiguous, takes the bytes.
            offset: position of the first byte in the file.

        Raises:
            ChunkError: the file is too short, or reading it failed.
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
        """Advises the system to drop the file from its page cache. For a caller that has a copy of the bytes."""
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)


class OpenFiles:
    """Keeps the most recently used files of a store open. Thread-safe.

    Attributes:
        most: most files kept open. A quarter of the process's limit, at most 1,024.
    """

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = _MOST if soft == resource.RLIM_INFINITY else max(4, min(_MOST, soft // 4))
        self._lock = threading.Lock()
        self._files: OrderedDict[Path, OpenFile] = OrderedDict()

    def get(self, path: Path) -> OpenFile:
        """Returns the file, and opens it if it is not open.

        Raises:
            FileNotFoundError: there is no such file.
        """
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
        """Closes a file once no reader uses it. For a file that was removed or replaced."""
        with self._lock:
            self._files.pop(path, None)

    def clear(self) -> None:
        """Closes every file once no reader uses it."""
        with self._lock:
            self._files.clear()

    def reset_after_fork(self) -> None:
        """Makes the object usable in a forked child, where its lock may be held by a thread of the parent."""
        self._lock = threading.Lock()
