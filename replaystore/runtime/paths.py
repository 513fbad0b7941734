"""Paths of stores, as users give them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from replaystore.errors import SpecError

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def local_path(path: Any) -> Path:
    """Returns an absolute path, so that the process may change its directory later.

    Args:
        path: path of a local directory.

    Raises:
        SpecError: `path` is a URL, or no path at all.
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise SpecError(f"path: expected the path of a directory, got {type(path).__name__} {path!r}")
    if _URL.match(os.fsdecode(path)):
        raise SpecError(
            f"path: expected a local directory, got the URL {path!r}; keep the store on a local"
            " disk, and copy it when it is closed"
        )
    return Path(os.fsdecode(path)).absolute()
