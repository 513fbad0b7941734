"""A seed gives the batches that it gave in every version before, in all modes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden.draws.recipe import drqv2_draws, sb3_draws, store_draws

from replaystore.spec import MODES

GOLDEN = json.loads((Path(__file__).parent / "golden" / "draws" / "draws.json").read_text())
KINDS = {"store": store_draws, "drqv2": drqv2_draws, "sb3": sb3_draws}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_batches_as_ever(kind: str, mode: str, tmp_path: Path) -> None:
    draws: Callable[[Path, Any], dict[str, Any]] = KINDS[kind]
    found = draws(tmp_path / kind, mode)
    assert found == {name: GOLDEN[name] for name in found}


def test_every_golden_draw_is_compared() -> None:
    kinds = [name.partition(":")[0] for name in GOLDEN]
    assert [kinds.count(kind) for kind in ("rows", "loader", "data set", "drqv2", "sb3")] == [8, 8, 8, 2, 1]
    assert len(set(map(str, GOLDEN.values()))) == len(GOLDEN)  # no two of them are alike, so none stands for another
