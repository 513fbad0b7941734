"""`bench stages`: the stages add up, and say what a store does."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from replaystore import FieldSpec, ReplayStore
from replaystore.bench.stages import run_stages
from replaystore.cli import cli
from replaystore.errors import SpecError
from replaystore.testing import episodes

FRAME = (3, 8, 9)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    fields = (
        FieldSpec.image("observation", FRAME, frame_stack=3),
        FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
        FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
        FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
    )
    paths = []
    for mode in ("half", "full"):
        with ReplayStore.create(folder / mode, fields, mode=mode, chunk_rows=16) as store:
            for number in range(4):
                episode = episodes.make_episode(number, 40, FRAME)
                stacks = episodes.stacks(episode, 3, "first")
                arrays = {"observation": stacks, "action": episode.action}
                arrays |= {"reward": episode.reward[:, None], "discount": episode.discount[:, None]}
                store.append(arrays)
        paths.append(folder / mode)
    return paths


def test_stages_add_up(stores):
    result = run_stages(stores, batch_size=32, n_step=2, num_batches=5)
    half, full = result.stores
    assert (half.mode, full.mode) == ("half", "full")
    assert half.groups == half.blocks == half.compressed_bytes == 0
    assert half.write > 0
    assert full.groups > 1
    assert full.compressed_bytes > full.groups
    assert full.written_bytes == half.written_bytes == 2 * 32 * 3 * 3 * 8 * 9
    assert result.to_json()["stores"][1]["mode"] == "full"


def test_command(stores, tmp_path):
    plot = tmp_path / "stages.png"
    arguments = ["bench", "stages", *map(str, stores), "--num-batches", "3", "--plot", str(plot)]
    outcome = CliRunner().invoke(cli, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "half" in outcome.output
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_nothing_to_measure():
    with pytest.raises(SpecError, match="expected a store"):
        run_stages([])
