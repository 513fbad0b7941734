"""Everything the package raises on purpose. An error says where, what was expected, what was found and the remedy."""

from __future__ import annotations


class ReplayStoreError(Exception):
    """Base of all errors of this package."""


class SpecError(ReplayStoreError, ValueError):
    """A configuration that cannot work: a field, a codec, a mode, a capacity."""


class EpisodeError(ReplayStoreError, ValueError):
    """Data that does not fit the fields it is given for: shape, dtype, byte order, NaN, length, stacking."""


class EpisodeFileError(EpisodeError):
    """An episode file that is damaged, hostile or not an episode file."""


class StoreError(ReplayStoreError):
    """Base of errors about a store on disk."""


class StoreNotFound(StoreError, FileNotFoundError):
    """There is no store at that path."""


class StoreExists(StoreError, FileExistsError):
    """`create` was given a path that is in use."""


class StoreLocked(StoreError):
    """Another writer holds the store."""


class StoreClosed(StoreError, ValueError):
    """The store, or the loader over it, has been closed."""


class FormatVersionError(StoreError):
    """The files are of a format version that this release does not read."""


class DamageError(StoreError):
    """Bytes on disk are not what was written."""


class LogError(DamageError):
    """The commit log or its head is damaged."""


class ChunkError(DamageError):
    """A chunk or tail file is missing, truncated or altered."""


class WriteError(StoreError, OSError):
    """Writing failed: no space, an I/O error, or an earlier failure that makes the writer refuse until reopened."""


class CapacityError(StoreError, ValueError):
    """An episode does not fit the capacity at all; nothing was evicted for it."""


class BudgetError(StoreError, MemoryError):
    """What was asked to live in RAM does not fit `budget_bytes`."""


class Evicted(StoreError, LookupError):
    """A row is no longer live; draw again."""


class NotEnoughData(StoreError, LookupError):
    """No valid transition to draw yet."""


class MissingDependency(ReplayStoreError, ImportError):
    """An optional dependency is not installed; the message names the extra."""
