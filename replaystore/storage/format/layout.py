"""All file names, records and headers of a store (docs/format.md). No other module builds a path or knows an offset."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from replaystore.errors import LogError

LOG_MAGIC = b"RLOG"
RECORD_HEAD = struct.Struct("<4sB3xQI")
RECORD_CRC = struct.Struct("<I")
CREATE, COMMIT, SEAL, EVICT, CONFIG, PUBLISH = 1, 2, 3, 4, 5, 6

HEAD_MAGIC = b"RSHD"
HEAD_SLOT_BYTES = 512
_HEAD = struct.Struct("<4sIQQQQ16s")

TABLE_COLUMNS = ("episode", "t_start", "first_row", "num_rows", "last", "zero_padding")
EPISODES = "episodes"


@dataclass(frozen=True)
class Paths:
    """File names of the store in directory `root`."""

    root: Path

    @property
    def group(self) -> Path:
        """The group's metadata."""
        return self.root / "zarr.json"

    @property
    def episodes(self) -> Path:
        """Directory of the episode table, the log, the head, the lock and the tails."""
        return self.root / EPISODES

    @property
    def head(self) -> Path:
        """The file of the two head slots, which say how much of the log counts."""
        return self.episodes / "head"

    @property
    def lock(self) -> Path:
        """The lock file of the writer."""
        return self.episodes / "lock"

    @property
    def tails(self) -> Path:
        """Directory of the rows that are not sealed yet."""
        return self.episodes / "tail"

    def log(self, generation: int) -> Path:
        """The commit log."""
        return self.episodes / f"log.{generation}"

    def array(self, field: str) -> Path:
        """Directory of a field's array."""
        return self.root / field

    def metadata(self, field: str) -> Path:
        """An array's metadata."""
        return self.root / field / "zarr.json"

    def chunk(self, field: str, chunk: int, ndim: int) -> Path:
        """A sealed chunk of an array with `ndim` axes, the row axis included."""
        return self.root / field / ".".join(("c", str(chunk), *("0" for _ in range(ndim - 1))))

    def tail(self, field: str, chunk: int) -> Path:
        """The rows of a chunk that is not sealed."""
        return self.tails / f"{field}.{chunk}"

    @staticmethod
    def chunk_number(name: str) -> int | None:
        """Returns the chunk that a file in an array's directory holds. None for other files."""
        parts = name.split(".")
        return int(parts[1]) if parts[0] == "c" and len(parts) > 1 and parts[1].isdigit() else None

    @staticmethod
    def tail_chunk(name: str) -> int | None:
        """Returns the chunk that a tail file belongs to. None for other files."""
        number = name.rpartition(".")[2]
        return int(number) if number.isdigit() else None


@dataclass(frozen=True)
class Record:
    """One record of the log.

    Attributes:
        kind: what it records, such as `COMMIT`.
        sequence: its number.
        payload: its data.
        end: bytes of the log up to and including it.
    """

    kind: int
    sequence: int
    payload: bytes
    end: int


def pack_record(kind: int, sequence: int, payload: bytes) -> bytes:
    """Returns the bytes of a record."""
    body = RECORD_HEAD.pack(LOG_MAGIC, kind, sequence, len(payload)) + payload
    return body + RECORD_CRC.pack(google_crc32c.value(body))


def read_records(log: bytes, start: int, sequence: int, committed: int, where: str) -> Iterator[Record]:
    """Yields the records of a log. Up to `committed` all must be whole. Behind it the first torn record ends the log.

    Args:
        log: the bytes of the log from `start` on.
        start: where these bytes start in the log.
        sequence: number of the first record.
        committed: bytes of the log that are committed.
        where: path of the log, for errors.

    Raises:
        LogError: a record before `committed` is damaged.
    """
    at = 0
    while at < len(log):
        record, problem = _record_at(log, at, start, sequence)
        if record is None:
            if start + at < committed:
                raise LogError(f"{where}, byte {start + at}: {problem}; restore the file from a copy")
            return
        yield record
        at = record.end - start
        sequence += 1
    if start + at < committed:
        raise LogError(f"{where}: expected {committed} bytes, found {start + at}; restore the file from a copy")


def _record_at(log: bytes, at: int, start: int, sequence: int) -> tuple[Record | None, str]:
    if at + RECORD_HEAD.size > len(log):
        return None, "record torn in its header"
    magic, kind, found, length = RECORD_HEAD.unpack_from(log, at)
    end = at + RECORD_HEAD.size + length
    if magic != LOG_MAGIC:
        return None, f"expected a record ({LOG_MAGIC!r}), found {magic!r}"
    if end + RECORD_CRC.size > len(log):
        return None, f"record torn: {length} bytes announced"
    (crc,) = RECORD_CRC.unpack_from(log, end)
    if crc != google_crc32c.value(log[at:end]):
        return None, "record damaged: CRC32C does not match"
    if found != sequence:
        return None, f"expected record {sequence}, found {found}"
    return Record(kind, found, log[at + RECORD_HEAD.size : end], start + end + RECORD_CRC.size), ""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The content of a head slot.

    Attributes:
        sequence: number of the head. The slot with the larger number counts.
        generation: number of the log file.
        committed: bytes of the log that are committed.
        synced: bytes of the log that are synced together with their data.
        boot_id: boot id of the machine when it wrote the slot.
    """

    sequence: int
    generation: int
    committed: int
    synced: int
    boot_id: bytes

    def pack(self) -> bytes:
        """Returns the bytes of the slot."""
        body = _HEAD.pack(
            HEAD_MAGIC, 1, self.sequence, self.generation, self.committed, self.synced, self.boot_id
        ).ljust(HEAD_SLOT_BYTES - 4, b"\0")
        return body + RECORD_CRC.pack(google_crc32c.value(body))

    @classmethod
    def unpack(cls, slot: bytes) -> Head | None:
        """Returns the head in a slot. None if the slot is empty, torn or damaged."""
        if len(slot) != HEAD_SLOT_BYTES:
            return None
        magic, version, sequence, generation, committed, synced, boot_id = _HEAD.unpack_from(slot)
        (crc,) = RECORD_CRC.unpack_from(slot, HEAD_SLOT_BYTES - 4)
        if magic != HEAD_MAGIC or version != 1 or crc != google_crc32c.value(slot[: HEAD_SLOT_BYTES - 4]):
            return None
        return cls(sequence=sequence, generation=generation, committed=committed, synced=synced, boot_id=boot_id)


def slot_is_damaged(slot: bytes) -> bool:
    """Whether a head slot was written and can no longer be read."""
    return any(slot) and Head.unpack(slot) is None


def read_head(descriptor: int, where: Path) -> Head:
    """Returns the newer valid head of the open file.

    Raises:
        LogError: neither slot is valid.
    """
    data = os.pread(descriptor, 2 * HEAD_SLOT_BYTES, 0)
    slots = [Head.unpack(data[i * HEAD_SLOT_BYTES : (i + 1) * HEAD_SLOT_BYTES]) for i in range(2)]
    valid = [slot for slot in slots if slot is not None]
    if not valid:
        raise LogError(f"{where}: neither slot is whole; restore the file from a copy")
    return max(valid, key=lambda head: head.sequence)


def boot_id() -> bytes:
    """Returns 16 bytes that change when the machine restarts. Zeros if the system has no boot id."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except OSError:
        return bytes(16)
