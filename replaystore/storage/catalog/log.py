"""The commit log. Readers follow it, and the writer appends to it."""

from __future__ import annotations

import logging
import os

from replaystore.errors import LogError, StoreNotFound, WriteError
from replaystore.runtime.durable_files import SyncError, sync_file, write_fully
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.format import layout
from replaystore.storage.format.layout import Head, Paths, Record

_logger = logging.getLogger(__name__)


class LogReader:
    """Reads a store's log into a `Catalog`, and later the records that were appended since.

    Args:
        paths: the files of the store.

    Attributes:
        head: the head as last read.

    Raises:
        StoreNotFound: there is no head file.
        LogError: the head is damaged, or the log is missing.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        try:
            self._head_fd = os.open(paths.head, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as err:
            raise StoreNotFound(f"{paths.root}: not a replay store: it has no log; check the path") from err
        try:
            self.head = layout.read_head(self._head_fd, paths.head)
            self._log_fd = os.open(paths.log(self.head.generation), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as err:
            os.close(self._head_fd)
            raise LogError(f"{paths.log(self.head.generation)}: missing; restore the file from a copy") from err
        except BaseException:
            os.close(self._head_fd)
            raise

    @property
    def restarted(self) -> bool:
        """Whether the machine has restarted since the head was written."""
        return self.head.boot_id != layout.boot_id()

    def replay(self, catalog: Catalog, *, beyond_head: bool, stop: int | None = None) -> list[Record]:
        """Applies all records to an empty catalog.

        Args:
            catalog: an empty catalog.
            beyond_head: whether to apply whole records behind those that the head counts, too.
            stop: bytes of the log to read at most. None: all.

        Returns:
            The records whose data must be checked. They are the records behind `head.synced` if the machine has
            restarted since they were written, and none otherwise.

        Raises:
            LogError: the log is damaged.
            FormatVersionError: the store has another format version.
        """
        size = os.fstat(self._log_fd).st_size
        restarted = self.restarted
        guaranteed = self.head.synced if restarted else self.head.committed
        end = min(size if beyond_head else min(size, self.head.committed), size if stop is None else stop)
        doubtful = []
        where = str(self._paths.log(self.head.generation))
        if stop is not None:
            guaranteed = min(guaranteed, stop)
        for record in layout.read_records(_read(self._log_fd, 0, end), 0, 0, guaranteed, where):
            catalog.apply(record)
            if restarted and record.end > self.head.synced:
                doubtful.append(record)
        if catalog.sequence == 0:
            raise LogError(f"{where}: empty; restore the file from a copy")
        catalog.dead_seals.clear()  # no batch is in flight yet
        return doubtful

    def follow(self, catalog: Catalog) -> tuple[bool, list[int]]:
        """Applies the records that were committed since the last call.

        Returns:
            Whether there were any, and the chunks that lost their last live row.

        Raises:
            LogError: the log is damaged.
        """
        head = layout.read_head(self._head_fd, self._paths.head)
        # An unchanged head may count records that were left out because a restart lost their data.
        if head.sequence <= self.head.sequence or head.committed <= catalog.end:
            return False, []
        self.head = head
        dead: list[int] = []
        data = _read(self._log_fd, catalog.end, head.committed)
        where = str(self._paths.log(head.generation))
        for record in layout.read_records(data, catalog.end, catalog.sequence, head.committed, where):
            dead += catalog.apply(record)
        return True, dead

    def close(self) -> None:
        """Closes the files."""
        for name in ("_head_fd", "_log_fd"):
            descriptor = self.__dict__.pop(name, None)
            if descriptor is not None:
                os.close(descriptor)


def _read(descriptor: int, start: int, stop: int) -> bytes:
    out = bytearray()
    while start + len(out) < stop:
        piece = os.pread(descriptor, min(stop - start - len(out), 1 << 26), start + len(out))
        if not piece:
            break
        out += piece
    return bytes(out)


class LogWriter:
    """Appends records to the log and moves the head.

    After a failure that leaves the state of the files unknown, it refuses to write until the store is opened again.

    Args:
        paths: the files of the store.
        head: the head as last read.
        end: bytes of the log that count. The writer cuts the rest.
        power: whether `append` fsyncs, so that a commit survives a power cut.
        more: whole records to write at `end`.

    Attributes:
        head: the head as last written.

    Raises:
        WriteError: the head cannot be written.
        OSError: the log cannot be opened or written.
    """

    def __init__(self, paths: Paths, head: Head, end: int, *, power: bool, more: bytes = b"") -> None:
        self._paths = paths
        self._power = power
        self.head = head
        self._failed: BaseException | None = None
        self._boot_id = layout.boot_id()
        self._log_fd = os.open(paths.log(head.generation), os.O_RDWR | os.O_CLOEXEC)
        self._head_fd = os.open(paths.head, os.O_RDWR | os.O_CLOEXEC)
        self._end = end + len(more)
        try:
            write_fully(self._log_fd, more, end)
            behind = os.fstat(self._log_fd).st_size - self._end
            if behind > 0:
                os.ftruncate(self._log_fd, self._end)
                _logger.info(
                    "%s: cut %d bytes behind byte %d: a commit that was not finished, or what a restart has lost",
                    paths.log(head.generation), behind, self._end,
                )  # fmt: skip
            if self._end != head.committed or head.boot_id != self._boot_id:
                self._move_head(synced=min(head.synced, end))
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, paths: Paths, first: bytes, *, power: bool) -> LogWriter:
        """Makes the files of a new log, whose first record is `first`, and opens it."""
        for path, content in ((paths.log(0), first), (paths.head, bytes(2 * layout.HEAD_SLOT_BYTES))):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                write_fully(descriptor, content, 0)
                if power:
                    sync_file(descriptor)
            finally:
                os.close(descriptor)
        head = Head(sequence=0, generation=0, committed=0, synced=0, boot_id=layout.boot_id())
        log = cls(paths, head, len(first), power=power)
        if power:
            log.sync()
        return log

    def refuse_if_failed(self) -> None:
        """Checks that no earlier failure left the state of the files unknown.

        Raises:
            WriteError: one did.
        """
        if self._failed is not None:
            raise WriteError(
                f"{self._paths.root}: refusing to write after an earlier failure ({self._failed}); reopen the store"
            ) from self._failed

    def poison(self, err: BaseException) -> None:
        """Makes every later call raise `WriteError`, with `err` as the cause."""
        self._failed = err

    def append(self, records: list[tuple[int, bytes]], catalog: Catalog) -> list[int]:
        """Commits records together and applies them to the catalog.

        Args:
            records: (kind, payload) of each record.
            catalog: the writer's catalog.

        Returns:
            The chunks that lost their last live row.

        Raises:
            WriteError: the records were not committed.
        """
        self.refuse_if_failed()
        packed, end = [], catalog.end
        for number, (kind, payload) in enumerate(records):
            data = layout.pack_record(kind, catalog.sequence + number, payload)
            end += len(data)
            packed.append((data, Record(kind, catalog.sequence + number, payload, end)))
        try:
            write_fully(self._log_fd, b"".join(data for data, _ in packed), catalog.end)
            if self._power:
                self._fsync(self._log_fd)
        except OSError as err:
            try:
                os.ftruncate(self._log_fd, catalog.end)
            except OSError:
                self.poison(err)
            raise WriteError(
                err.errno, f"{self._paths.log(self.head.generation)}: {err.strerror}; nothing was committed"
            ) from err
        self._end = end
        self._move_head(synced=end if self._power else self.head.synced)
        dead: list[int] = []
        for _, record in packed:
            dead += catalog.apply(record)
        return dead

    @property
    def end(self) -> int:
        """Bytes of the log that are committed."""
        return self._end

    def sync(self, end: int | None = None) -> None:
        """Fsyncs the log, and then records in the head how much of it is synced.

        Args:
            end: bytes of the log that are now synced together with their data. None: all of it.

        Raises:
            WriteError: an fsync failed, or the head was not written.
        """
        self.refuse_if_failed()
        try:
            self._fsync(self._log_fd)
            self._move_head(synced=self._end if end is None else end)
            self._fsync(self._head_fd)
        except SyncError as err:
            raise WriteError(err.errno, f"{self._paths.root}: {err.strerror}; reopen the store") from err

    def _move_head(self, *, synced: int) -> None:
        head = Head(
            sequence=self.head.sequence + 1,
            generation=self.head.generation,
            committed=self._end,
            synced=synced,
            boot_id=self._boot_id,
        )
        try:
            write_fully(self._head_fd, head.pack(), (head.sequence % 2) * layout.HEAD_SLOT_BYTES)
            if self._power:
                self._fsync(self._head_fd)
        except OSError as err:
            self.poison(err)
            raise WriteError(err.errno, f"{self._paths.head}: {err.strerror}; reopen the store") from err
        self.head = head

    def _fsync(self, descriptor: int) -> None:
        try:
            sync_file(descriptor)
        except SyncError as err:
            self.poison(err)
            raise

    def close(self) -> None:
        """Closes the files."""
        os.close(self._log_fd)
        os.close(self._head_fd)
