"""Episode files of DrQ-v2, `TIMESTAMP_INDEX_LENGTH.npz`, read as hostile input and written atomically.

Such a file is a zip archive of `.npy` members, one per field. `names` parses and makes file names. `header` and
`reader` read files. `writer` writes them. Nothing is ever unpickled or evaluated.
"""

from __future__ import annotations

from replaystore.datasets.drqv2_npz.names import EpisodePath, episode_file_name, list_episode_files
from replaystore.datasets.drqv2_npz.reader import (
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_RATIO,
    MAX_MEMBERS,
    peek_episode,
    read_episode,
)
from replaystore.datasets.drqv2_npz.writer import write_episode

__all__ = [
    "DEFAULT_MAX_BYTES",
    "DEFAULT_MAX_RATIO",
    "MAX_MEMBERS",
    "EpisodePath",
    "episode_file_name",
    "list_episode_files",
    "peek_episode",
    "read_episode",
    "write_episode",
]
