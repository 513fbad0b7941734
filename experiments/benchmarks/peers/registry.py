"""The buffers to compare with, by the names that `--peers` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.peers import cpprb, drqv2, drqv2_compress, stable_baselines3, torchrl, video
from experiments.benchmarks.peers.peer import Candidate
from replaystore.errors import SpecError

PEERS = ("drqv2", "drqv2_compress", "torchrl", "stable-baselines3", "sb3-extra-buffers", "cpprb", "video")


def candidates(
    names: Sequence[str] = PEERS, *, drqv2_path: Path | None = None, drqv2_compress_path: Path | None = None
) -> list[Candidate]:
    """Returns the candidates with these names, in the order of `PEERS`.

    Raises:
        SpecError: a name is not one of `PEERS`.
    """
    unknown = sorted(set(names) - set(PEERS))
    if unknown:
        raise SpecError(f"peers: expected names of {', '.join(PEERS)}, found {', '.join(unknown)}")
    groups = {
        "drqv2": lambda: drqv2.candidates(drqv2_path),
        "drqv2_compress": lambda: drqv2_compress.candidates(drqv2_compress_path),
        "torchrl": torchrl.candidates,
        "stable-baselines3": stable_baselines3.candidates,
        "sb3-extra-buffers": stable_baselines3.compressed_candidates,
        "cpprb": cpprb.candidates,
        "video": video.candidates,
    }
    return [candidate for name in PEERS if name in names for candidate in groups[name]()]
