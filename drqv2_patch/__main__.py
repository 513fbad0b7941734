"""`python -m drqv2_patch`."""

from __future__ import annotations

import sys

from replaystore.errors import MissingDependency

_WRONG_USE = 2


def _start() -> None:
    try:
        from drqv2_patch.patch.cli import main
    except MissingDependency as err:
        print(f"drqv2_patch: error: {err}", file=sys.stderr)
        sys.exit(_WRONG_USE)
    main()


if __name__ == "__main__":
    _start()
