"""Makes the golden stores of the current format version. Run by hand when a format version is settled, never by tests.

python tests/golden/stores/make.py
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from replaystore import FieldSpec, ReplayStore, RoundClamp
from replaystore.spec import FORMAT_VERSION, MODES

HERE = Path(__file__).parent
LENGTHS = (9, 14)  # rows of the two episodes; chunks have 8 rows


def fields() -> list[FieldSpec]:
    """Two cameras, a packed state, and the scalars."""
    packed = RoundClamp(decimals=1, low=-10.0, high=10.0, row_size=3, dtype="float64")
    return [
        FieldSpec.image("observation", (3, 6, 5), frame_stack=3),
        FieldSpec.image("wrist", (4, 7), frame_stack=2, channels="last"),
        FieldSpec(name="state", shape=(3,), dtype="float64", role="observation", scheme=packed.get_config()),
        FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
        FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
        FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
    ]


def episode(number: int) -> dict[str, np.ndarray]:
    """Episode `number`, the same on every machine: frames as single frames, states as they decode."""
    rows = LENGTHS[number]
    time = np.arange(rows)

    def pattern(shape: tuple[int, ...], salt: int) -> np.ndarray:
        place = np.arange(int(np.prod(shape)))
        slow = (time[:, None] // 3) * 37 + place * (7 + salt) + number * 101
        return (slow % 251).astype(np.uint8).reshape(rows, *shape)

    return {
        "observation": pattern((3, 6, 5), 0),
        "wrist": pattern((4, 7), 5),
        "state": np.round((time[:, None] - 6) * np.array([0.1, -0.5, 1.0]) + number, 1),
        "action": (time[:, None] * np.array([0.25, -0.5]) + number).astype(np.float32),
        "reward": (time[:, None] + 10 * number).astype(np.float32),
        "discount": np.ones((rows, 1), np.float32),
    }


def main() -> None:
    """Writes `v<version>_<mode>` (closed) and `v<version>_<mode>_open` (as a killed writer leaves it)."""
    for mode in MODES:
        closed = HERE / f"v{FORMAT_VERSION}_{mode}"
        left_open = HERE / f"v{FORMAT_VERSION}_{mode}_open"
        if closed.exists() or left_open.exists():
            sys.exit(f"{closed} or {left_open} exists: golden stores are never replaced, a new version gets new ones")
        with ReplayStore.create(closed, fields(), mode=mode, chunk_rows=8) as store:
            for number in range(len(LENGTHS)):
                store.append(episode(number))
            store.flush()
            shutil.copytree(closed, left_open, ignore=shutil.ignore_patterns("lock"))
        (closed / "episodes" / "lock").unlink()


if __name__ == "__main__":
    main()
