"""Records the episode file of each episode of a converted store (docs/format.md, "Sources of a conversion").

A line is written and synced before its episode is committed. So every committed episode has a line, and at most the
last line is for an episode that is not in the store.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from replaystore.errors import StoreError
from replaystore.runtime.durable_files import replace_file, sync_file, write_fully
from replaystore.storage.format.layout import Paths

_VERSION = 1
_HEADER = {"sources": _VERSION}
_COMPLETE = {"complete": True}
_PLAIN_NAME = re.compile(r"[^/\0]{0,251}\.npz", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """An episode file that is in the store, or is about to be.

    Attributes:
        episode: id of the episode.
        file: name of the file, without a directory.
        file_bytes: size of the file when it was converted.
        rows: rows of the episode.
    """

    episode: int
    file: str
    file_bytes: int
    rows: int


@dataclass
class Sources:
    """The content of a sources file, up to its last whole line.

    Attributes:
        entries: the sources in order of commit. The last one may be of an episode that was never committed.
        complete: whether the last conversion finished and none has begun since.
    """

    entries: list[Source] = field(default_factory=list)
    complete: bool = False

    def by_episode(self) -> dict[int, Source]:
        """Returns the entries by episode id."""
        return {entry.episode: entry for entry in self.entries}


def sources_path(store_path: Path) -> Path:
    """Returns the path of a store's sources file."""
    return Paths(store_path).episodes / "sources.jsonl"


def read_sources(store_path: Path) -> Sources | None:
    """Returns the sources of a store. None if no conversion made it.

    Raises:
        StoreError: the file is damaged.
    """
    path = sources_path(store_path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return _parse(path, data)[0]


def copy_sources(store_path: Path, target: Path) -> None:
    """Copies the sources of a store, if a conversion made it, to a store with the same episodes of the same ids."""
    if read_sources(store_path) is not None:
        replace_file(sources_path(target), sources_path(store_path).read_bytes(), sync=True)


def _parse(path: Path, data: bytes) -> tuple[Sources, list[int]]:
    """Returns the sources, and the offsets in the file at which the header and each entry end.

    An entry's end includes a completion line after it.
    """
    sources, ends, at = Sources(), [], 0
    for number, line in enumerate(data.splitlines(keepends=True)):
        if not line.endswith(b"\n"):  # torn by a kill, so its episode was never committed
            break
        at += len(line)
        content = _content(path, number, line)
        if number == 0:
            if content != _HEADER:
                raise _damaged(path, number, f"the header {_HEADER}", content)
            ends.append(at)
        elif content == _COMPLETE:
            sources.complete = True
            ends[-1] = at
        else:
            entry = _entry(path, number, content)
            if sources.entries and entry.episode <= sources.entries[-1].episode:
                raise _damaged(path, number, f"an episode after {sources.entries[-1].episode}", entry.episode)
            sources.entries.append(entry)
            sources.complete = False
            ends.append(at)
    if not ends:
        raise _damaged(path, 0, f"the header {_HEADER}", data[:40])
    if len({entry.file for entry in sources.entries}) < len(sources.entries):
        raise _damaged(path, len(ends), "every file once", "one twice")
    return sources, ends


def _content(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as err:
        raise _damaged(path, number, "JSON", line[:40]) from err


def _entry(path: Path, number: int, content: Any) -> Source:
    try:
        entry = Source(**content)
    except TypeError as err:
        raise _damaged(path, number, "an entry", content) from err
    counts = (entry.episode, entry.file_bytes, entry.rows)
    if not all(type(count) is int and count >= 0 for count in counts) or not (
        isinstance(entry.file, str) and _PLAIN_NAME.fullmatch(entry.file)
    ):
        raise _damaged(path, number, "a file name and counts", content)
    return entry


def _damaged(path: Path, number: int, expected: str, found: object) -> StoreError:
    return StoreError(f"{path}, line {number + 1}: expected {expected}, found {found!r}; convert into a new store")


class SourceLog:
    """Appends to the sources of a store. Only the owner of the store's writer lock may use it.

    Args:
        store_path: the store.
        next_episode: id that the store assigns next. Lines from this id on were never committed and are dropped.

    Raises:
        StoreError: the file is damaged.
    """

    def __init__(self, store_path: Path, next_episode: int) -> None:
        path = sources_path(store_path)
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self.sources, ends = _parse(path, path.read_bytes())
            committed = sum(entry.episode < next_episode for entry in self.sources.entries)
            if committed < len(self.sources.entries):
                self.sources = Sources(self.sources.entries[:committed])
                del ends[committed + 1 :]
            self._end = ends[-1]
            os.ftruncate(self._file, self._end)
        except BaseException:
            os.close(self._file)
            raise

    def announce(self, source: Source) -> None:
        """Records the file of the next episode. The line is on disk when this returns."""
        self._write(_line(asdict(source)))
        self.sources.entries.append(source)
        self.sources.complete = False

    def mark_complete(self) -> None:
        """Records that the conversion has seen every file of the directory."""
        if not self.sources.complete:
            self._write(_line(_COMPLETE))
            self.sources.complete = True

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def _write(self, line: bytes) -> None:
        write_fully(self._file, line, self._end)
        os.fdatasync(self._file)
        self._end += len(line)


def make_sources(store_path: Path) -> None:
    """Makes a sources file without entries."""
    descriptor = os.open(sources_path(store_path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_fully(descriptor, _line(_HEADER), 0)
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def _line(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
