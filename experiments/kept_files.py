"""Measurements that are files, so that an interrupted command goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replaystore.runtime.durable_files import replace_file


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """Returns the JSON data of `path`. If there is no such file, `make()` is written to it first."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(make(), indent=1, allow_nan=False) + "\n", sync=False)
    return json.loads(path.read_text())
