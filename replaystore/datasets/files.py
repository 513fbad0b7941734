"""The episode files of a directory, read into rows of a store."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from replaystore.datasets.drqv2_npz import EpisodePath, list_episode_files, read_episode
from replaystore.datasets.other_kinds import kind_of_directory
from replaystore.datasets.rows import Array, store_rows
from replaystore.errors import EpisodeError, EpisodeFileError


class EpisodeFiles:
    """The episode files of a directory, in the order in which they become episodes.

    Args:
        directory: the directory.
        max_bytes: most uncompressed bytes per episode.
        follow_links: whether symbolic links to files count.
        skip: arrays that are left out.
        rename: field names by the names of arrays.
        plain: field names that have a role by order of the user, and no meaning by name. See `store_rows`.

    Attributes:
        entries: the files.

    Raises:
        EpisodeFileError: there are no episode files.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, max_bytes: int, follow_links: bool, skip: Collection[str],
        rename: Mapping[str, str], plain: Collection[str],
    ) -> None:  # fmt: skip
        self.entries: Sequence[EpisodePath] = list_episode_files(directory, follow_links=follow_links)
        if not self.entries:
            raise EpisodeFileError(
                f"{directory}: expected episode files (*.npz), found {kind_of_directory(directory)}; check the path, or"
                " add the episodes of other formats with ReplayStore.append (docs/howto.md)"
            )
        self._max_bytes = max_bytes
        self._follow_links = follow_links
        self._skip = frozenset(skip)
        self._rename = dict(rename)
        self._plain = frozenset(plain)
        self._notes: dict[str, str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What `read` changed or found odd, each with the first file."""
        return tuple(f"{file}: {note}" for note, file in self._notes.items())

    def size(self, entry: EpisodePath) -> int:
        """Returns the bytes of a file."""
        return entry.path.stat(follow_symlinks=self._follow_links).st_size

    def read(self, entry: EpisodePath) -> dict[str, Array]:
        """Returns the rows of an episode file, by field name.

        Raises:
            EpisodeFileError: the file is damaged; see `read_episode`.
            EpisodeError: the rows cannot be told from its arrays (see `store_rows`), or an array to rename is missing.
        """
        arrays = read_episode(entry.path, max_bytes=self._max_bytes, skip=self._skip, follow_links=self._follow_links)
        unknown = sorted(set(self._rename) - set(arrays))
        if unknown:
            raise EpisodeError(f"{entry.path}: expected the arrays {unknown} to rename, found {list(arrays)}")
        named: dict[str, Array] = {}
        for name, array in arrays.items():
            field = self._rename.get(name, name)
            if field in named:
                raise EpisodeError(f"{entry.path}: expected every field once, found two {field!r} after renaming")
            named[field] = array
        rows, notes = store_rows(named, str(entry.path), self._plain)
        for note in notes:
            self._notes.setdefault(note, entry.path.name)
        return rows

    def first_readable(self, skip_damaged: bool) -> dict[str, Array]:
        """Returns the rows of the first readable file, from which the fields are derived.

        Args:
            skip_damaged: whether to go on to the next file if one is damaged.

        Raises:
            EpisodeFileError: a file is damaged, or no file is readable.
            EpisodeError: the rows of a file cannot be told from its arrays.
        """
        for entry in self.entries:
            try:
                return self.read(entry)
            except EpisodeError:
                if not skip_damaged:
                    raise
        raise EpisodeFileError(
            f"{self.entries[0].path.parent}: expected a readable episode file, found none; check the path"
        )
