"""`python -m drqv2_patch`."""

from __future__ import annotations

import sys

_WRONG_USE = 2


def _start() -> None:
    try:
        from drqv2_patch.cli import main
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] in ("drqv2_patch", "replaystore"):
            raise
        line = f"expected the package {err.name}, found none; pip install 'replaystore[drqv2]'"
        print(f"drqv2_patch: error: {line}", file=sys.stderr)
        sys.exit(_WRONG_USE)
    main()


if __name__ == "__main__":
    _start()
