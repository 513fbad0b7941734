"""The first thing that the `train.py` of a patched checkout calls, before imports that a half patched one fails at."""

from __future__ import annotations

import sys
from pathlib import Path

from drqv2_patch.checkout import Checkout
from drqv2_patch.errors import PatchError

_REFUSED = 2


def require_whole(train: str) -> None:
    """Ends the process with one line where the checkout of this `train.py` is half patched."""
    try:
        Checkout(Path(train).resolve().parent).check_whole()
    except PatchError as err:
        print(f"train.py: error: {err}", file=sys.stderr)
        sys.exit(_REFUSED)
