"""Makes the directory of a store, and opens a store for writing or reading."""

from __future__ import annotations

import errno
import logging
import shutil
import uuid
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from replaystore.columns.column import columns_of
from replaystore.columns.registry import resolved_fields
from replaystore.errors import StoreExists, StoreLocked, WriteError
from replaystore.runtime.durable_files import sync_directory
from replaystore.runtime.locks import ExclusiveLock, LockHeld
from replaystore.spec import Durability, FieldSpec, Mode, StoreSpec, default_chunk_rows, field_list
from replaystore.storage.catalog import recovery
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.catalog.log import LogReader, LogWriter
from replaystore.storage.format import layout
from replaystore.storage.format.layout import Paths
from replaystore.storage.format.records import pack_config, pack_create, pack_evict
from replaystore.storage.format.zarr_metadata import publish

_logger = logging.getLogger(__name__)


@dataclass
class OpenedStore:
    """The files of an open store.

    Attributes:
        paths: their paths.
        catalog: the state of the log.
        reader: reads the log.
        log: appends to the log. None for a reader.
        lock: the writer's lock. None for a reader.
    """

    paths: Paths
    catalog: Catalog
    reader: LogReader
    log: LogWriter | None = None
    lock: ExclusiveLock | None = None

    def close(self) -> None:
        """Closes `reader` and releases the lock, so that another writer can open the store.

        The `StoreWriter` closes `log`.
        """
        self.reader.close()
        if self.lock is not None:
            self.lock.release()

    def abandon(self) -> None:
        """Closes everything, `log` too, because the store could not be opened."""
        if self.log is not None:
            self.log.close()
        self.close()


def new_spec(fields: Iterable[FieldSpec], mode: Mode, chunk_rows: int | None, durability: Durability) -> StoreSpec:
    """Returns the specification of a new store, with an id and with the schemes that its mode gives to images.

    Raises:
        SpecError: the configuration cannot work.
    """
    given = field_list(fields)
    spec = StoreSpec(
        mode=mode, fields=resolved_fields(mode, given),
        chunk_rows=default_chunk_rows(given) if chunk_rows is None else chunk_rows, durability=durability,
        store_id=uuid.uuid4().hex,
    )  # fmt: skip
    columns_of(spec)
    return spec


def create_store(root: Path, spec: StoreSpec, capacity: int | None, disk_budget_bytes: int | None) -> OpenedStore:
    """Makes an empty store and opens it for writing.

    The store is made whole or not at all. Its files are written under another name beside `root`, and then renamed.

    Args:
        root: directory of the store.
        spec: the specification of the store.
        capacity: largest number of transitions. None: no limit.
        disk_budget_bytes: largest number of bytes on disk. None: no limit.

    Raises:
        StoreExists: `root` exists and is not an empty directory.
        WriteError: the store cannot be made there.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise _in_use(root)
    target = root.absolute()
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _make_files(Paths(temporary), spec, capacity, disk_budget_bytes)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_directory(target.parent)  # so that files that are synced later are found
    except OSError as err:
        if err.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise _in_use(root) from err
        raise WriteError(err.errno, f"{root}: making a store there: {err.strerror}; choose another path") from err
    return open_to_write(root)


def _make_tail_directory(paths: Paths) -> None:
    """Makes the directory of the tails if it is missing. Tools that copy a closed store may omit empty directories."""
    try:
        paths.tails.mkdir(exist_ok=True)
    except OSError as err:
        raise WriteError(err.errno, f"{paths.root}: {err.strerror}; open the store with read_only=True") from err


def _in_use(root: Path) -> StoreExists:
    return StoreExists(f"{root}: exists and is not empty; open it with ReplayStore.open, or choose another path")


def _make_files(paths: Paths, spec: StoreSpec, capacity: int | None, disk_budget_bytes: int | None) -> None:
    paths.tails.mkdir(parents=True)
    for field in spec.fields:
        paths.array(field.name).mkdir()
    power = spec.durability == "power"
    log = LogWriter.create(paths, layout.pack_record(layout.CREATE, 0, pack_create(spec)), power=power)
    reader = LogReader(paths)
    try:
        catalog = recovery.replay(paths, reader, beyond_head=True)
        log.append([(layout.CONFIG, pack_config(capacity, disk_budget_bytes))], catalog)
        publish(paths, catalog, power=power)
        log.append([(layout.PUBLISH, b"")], catalog)
        for directory in (paths.tails, paths.episodes, paths.root):
            sync_directory(directory)
    finally:
        reader.close()
        log.close()


def open_to_read(root: Path) -> OpenedStore:
    """Opens a store for reading. It writes nothing.

    Raises:
        StoreNotFound: there is no store.
        LogError: the log is damaged.
        FormatVersionError: another release wrote the store.
    """
    paths = Paths(root)
    reader = LogReader(paths)
    try:
        catalog = recovery.replay(paths, reader, beyond_head=False)
        if reader.restarted:
            lost = recovery.episodes_without_chunks(paths, catalog)
            catalog.leave_out(lost)
            _note_lost_evictions(root, lost)
    except BaseException:
        reader.close()
        raise
    return OpenedStore(paths, catalog, reader)


def open_to_write(root: Path) -> OpenedStore:
    """Opens a store for writing. It takes the writer's lock and prepares the log for appending.

    Raises:
        StoreNotFound: there is no store.
        StoreLocked: another process writes, or another store object of this process. The message names the process.
        LogError: the log is damaged.
        FormatVersionError: another release wrote the store.
        WriteError: the directory cannot be written.
    """
    paths = Paths(root)
    LogReader(paths).close()  # raises before a lock file is made if there is no store
    _make_tail_directory(paths)
    lock = _writer_lock(paths)
    with ExitStack() as undo:
        undo.callback(lock.release)
        reader = LogReader(paths)
        undo.callback(reader.close)
        catalog = recovery.replay(paths, reader, beyond_head=True)
        if catalog.end > reader.head.committed:
            _logger.info(
                "%s: found %d bytes of whole commits behind those that the head names; they count",
                root, catalog.end - reader.head.committed,
            )  # fmt: skip
        lost = recovery.episodes_without_chunks(paths, catalog) if reader.restarted else []
        more = b"".join(
            layout.pack_record(layout.SEAL, catalog.sequence + number, payload)
            for number, payload in enumerate(catalog.adopted.values())
        )
        power = catalog.spec.durability == "power"
        log = LogWriter(paths, reader.head, catalog.end, power=power, more=more)
        undo.callback(log.close)
        for record in layout.read_records(more, catalog.end, catalog.sequence, log.end, str(root)):
            catalog.apply(record)
        if lost:
            log.append([(layout.EVICT, pack_evict(lost))], catalog)
            _note_lost_evictions(root, lost)
        undo.pop_all()
    return OpenedStore(paths, catalog, reader, log, lock)


def _writer_lock(paths: Paths) -> ExclusiveLock:
    try:
        return ExclusiveLock(paths.lock)
    except LockHeld as err:
        raise StoreLocked(
            f"{paths.root}: already open for writing by {err}; close it, or open with read_only=True"
        ) from err
    except OSError as err:
        raise WriteError(
            err.errno, f"{paths.lock}: opening for writing: {err.strerror}; open the store with read_only=True"
        ) from err


def _note_lost_evictions(root: Path, episodes: list[int]) -> None:
    if episodes:
        _logger.info(
            "%s: left out %d episodes whose chunks are gone: their eviction was not in the log yet", root, len(episodes)
        )
