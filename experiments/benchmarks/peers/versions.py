"""Versions of the packages that other buffers come from."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from experiments.benchmarks.peers.peer import Candidate


def versions_of(candidates: Sequence[Candidate]) -> dict[str, str]:
    """Returns the version of each installed distribution. Includes torch if there are any candidates with packages."""
    names = dict.fromkeys(candidate.package for candidate in candidates if candidate.package)
    found = {}
    for name in (*names, *(["torch"] if names else [])):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
