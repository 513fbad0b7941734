from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.kept_files import kept
from experiments.paired_blocks import PairedBlocks, time_in_turns


def test_blocks_take_turns() -> None:
    calls: list[str] = []
    found = time_in_turns(lambda: calls.append("a"), lambda: calls.append("b"), num_blocks=4, steps=7)
    assert "".join(calls) == "baabbaab"
    assert len(found.original_seconds) == len(found.our_seconds) == 4
    assert PairedBlocks.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_ratio_and_interval() -> None:
    rng = np.random.default_rng(1)
    original = rng.uniform(1, 3, 40)
    ours = original * rng.normal(1.2, 0.05, 40)
    found = PairedBlocks(steps=1, original_seconds=tuple(original), our_seconds=tuple(ours))
    low, high = found.interval
    assert found.ratio == pytest.approx(np.median(ours / original))
    assert 1.16 < low < found.ratio < high < 1.24


def test_what_was_measured_is_not_measured_again(tmp_path) -> None:
    calls = []

    def make() -> dict[str, int]:
        calls.append(1)
        return {"value": len(calls)}

    path = tmp_path / "new" / "one.json"
    assert kept(path, make) == kept(path, make) == {"value": 1}
    assert kept(tmp_path / "new" / "two.json", make) == {"value": 2}
