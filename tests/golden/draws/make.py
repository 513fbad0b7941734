"""Writes the draws of this version. Run by hand when draws are meant to change, never by tests.

PYTHONPATH=tests python -m golden.draws.make
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from golden.draws.recipe import drqv2_draws, sb3_draws, store_draws

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        draws = {
            **store_draws(root / "store", "half"),
            **drqv2_draws(root / "drqv2", "half"),
            **sb3_draws(root / "sb3", "half"),
        }
    Path(__file__).with_name("draws.json").write_text(json.dumps(draws, indent=2) + "\n")
