"""The errors that this package raises on purpose.

Each message says where, what was expected, what was found and the remedy.
"""

from __future__ import annotations


class ReplayStoreError(Exception):
    """Base of all errors of this package."""


class SpecError(ReplayStoreError, ValueError):
    """A configuration cannot work: a field, a codec, a mode, a capacity."""


class EpisodeError(ReplayStoreError, ValueError):
    """Data do not fit the fields of the store: shape, dtype, byte order, NaN, length or frame stacks."""


class EpisodeFileError(EpisodeError):
    """An episode file is damaged, hostile, or no episode file at all."""


class StoreError(ReplayStoreError):
    """Base of errors about a store on disk."""


class StoreNotFound(StoreError, FileNotFoundError):
    """The path holds no store."""


class StoreExists(StoreError, FileExistsError):
    """The path for a new store is already in use."""


class StoreLocked(StoreError):
    """Another writer holds the store."""


class StoreClosed(StoreError, ValueError):
    """The store is closed, or the loader that reads it."""


class FormatVersionError(StoreError):
    """This release does not read the files' format version."""


class DamageError(StoreError):
    """The bytes on disk differ from those that were written."""


class LogError(DamageError):
    """The commit log or its head is damaged."""


class ChunkError(DamageError):
    """A chunk or tail file is missing, truncated or altered."""


class WriteError(StoreError, OSError):
    """A write failed: no space, or an I/O error. The writer then refuses to write until the store is reopened."""


class CapacityError(StoreError, ValueError):
    """An episode is larger than the whole capacity. Nothing is evicted for it."""


class BudgetError(StoreError, MemoryError):
    """The bytes to keep in RAM exceed `budget_bytes`."""


class Evicted(StoreError, LookupError):
    """A row is no longer live. Draw again."""


class NotEnoughData(StoreError, LookupError):
    """The store holds no valid transition to draw yet."""


class MissingDependency(ReplayStoreError, ImportError):
    """An optional dependency is missing. The message names the extra to install."""
