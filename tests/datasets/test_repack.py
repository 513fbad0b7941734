"""`repack`: every mode and codec into every other, and what an interruption leaves."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from made_up_episodes import write_directory

from replaystore.codecs.frame_delta.chunk import ENTROPIES
from replaystore.codecs.round_clamp import RoundClamp
from replaystore.datasets.convert import convert
from replaystore.datasets.repack import repack
from replaystore.errors import BudgetError, ChunkError, SpecError, StoreExists, StoreLocked, StoreNotFound
from replaystore.sampling.sampler import Sampler
from replaystore.spec import MODES, FieldSpec
from replaystore.store import ReplayStore
from replaystore.testing import episodes

LENGTHS = [40, 7, 1, 65, 23]


def contents(path):
    with ReplayStore.open(path, read_only=True) as store:
        assert store.verify().ok
        return [store.read_episode(info.episode) for info in store.episodes()]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name, array in other.items():
            assert one[name].dtype == array.dtype
            np.testing.assert_array_equal(one[name], array)


def leftovers(path):
    return [each.name for each in path.parent.iterdir() if each.name.startswith(f".{path.name}")]


@pytest.mark.parametrize("before", MODES)
@pytest.mark.parametrize("after", MODES)
def test_every_mode_into_every_other(tmp_path, before, after):
    """Episodes in parts, interleaved, with zeros before the first frame, and after an eviction."""
    episodes.make_history(tmp_path / "old", before).close()
    report = repack(tmp_path / "old", tmp_path / "new", mode=after)
    assert_same(contents(tmp_path / "new"), contents(tmp_path / "old"))
    with ReplayStore.open(tmp_path / "new", read_only=True) as new, ReplayStore.open(tmp_path / "old") as old:
        assert new.spec.mode == after == report.mode
        assert [info.zero_padding for info in new.episodes()] == [info.zero_padding for info in old.episodes()]
        assert (new.capacity, new.spec.chunk_rows) == (old.capacity, old.spec.chunk_rows)
        assert (new.num_episodes, new.num_transitions) == (report.episodes, report.transitions)
        assert new.info()["bytes_on_disk"] == report.bytes_after
    assert not leftovers(tmp_path / "new")


@pytest.mark.parametrize("entropy", ENTROPIES)
def test_every_codec_gives_the_same_batches(tmp_path, entropy):
    episodes.make_store(tmp_path / "old").close()
    repack(tmp_path / "old", tmp_path / "new", frame_delta={"entropy": entropy, "keyframe_interval": 5})
    with ReplayStore.open(tmp_path / "new", read_only=True) as new, ReplayStore.open(tmp_path / "old") as old:
        scheme = new.spec.fields[0].scheme
        assert (scheme["entropy"], scheme["keyframe_interval"]) == (entropy, 5)
        batches = [
            store.gather(store.draw(Sampler(n_step=2), np.random.default_rng(3), 32), n_step=2) for store in (new, old)
        ]
    assert_same(batches[:1], batches[1:])


def test_rounded_fields_keep_their_codec(tmp_path):
    write_directory(tmp_path / "episodes", LENGTHS)
    codec = {"id": RoundClamp.codec_id, "decimals": 1, "low": -50.0, "high": 50.0}
    convert(tmp_path / "episodes", tmp_path / "old", schemes={"action": codec})
    repack(tmp_path / "old", tmp_path / "new", mode="half")
    assert_same(contents(tmp_path / "new"), contents(tmp_path / "old"))
    with ReplayStore.open(tmp_path / "new", read_only=True) as new:
        assert new.spec.field("action").scheme["decimals"] == 1


def test_a_conversion_continues_in_the_new_store(tmp_path):
    write_directory(tmp_path / "episodes", LENGTHS)
    convert(tmp_path / "episodes", tmp_path / "old", frame_delta={"entropy": "lz4"})
    repack(tmp_path / "old", tmp_path / "new", frame_delta={"entropy": "packed"})
    write_directory(tmp_path / "episodes", [12], first=len(LENGTHS))
    report = convert(tmp_path / "episodes", tmp_path / "new")
    assert (report.converted, report.already_present) == (1, len(LENGTHS))


def test_an_interruption_leaves_nothing_and_the_next_call_begins_anew(tmp_path):
    episodes.make_store(tmp_path / "old").close()
    code = (
        "import sys, time, replaystore.store as s\n"
        "from replaystore.datasets.repack import repack\n"
        "append = s.ReplayStore.append\n"
        "def slow(self, episode):\n"
        "    print('appending', flush=True)\n"
        "    time.sleep(60 if self.num_episodes else 0)\n"
        "    return append(self, episode)\n"
        "s.ReplayStore.append = slow\n"
        "repack(*sys.argv[1:])\n"
    )
    new = tmp_path / "new"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "old"), str(new)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(2):
        child.stdout.readline()
    with pytest.raises(StoreLocked, match="another process"):
        repack(tmp_path / "old", new)
    child.kill()
    child.wait()
    child.stdout.close()
    assert leftovers(new)
    assert not new.exists()
    repack(tmp_path / "old", new)
    assert_same(contents(new), contents(tmp_path / "old"))
    assert not leftovers(new)


def test_an_error_leaves_nothing(tmp_path, monkeypatch):
    episodes.make_store(tmp_path / "old").close()
    monkeypatch.setattr(ReplayStore, "append", lambda self, episode: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        repack(tmp_path / "old", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_damaged_store_is_not_repacked(tmp_path):
    episodes.make_store(tmp_path / "old", mode="half").close()
    chunk = sorted((tmp_path / "old" / "observation").glob("c.1.*"))[0]
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(ChunkError):
        repack(tmp_path / "old", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_store_that_grows_beyond_its_limit_is_refused(tmp_path):
    """Frames that never change take next to nothing in mode `full`."""
    fields = [FieldSpec.image("observation", (3, 64, 64), frame_stack=1)]
    with ReplayStore.create(
        tmp_path / "old", fields, mode="full", chunk_rows=16, disk_budget_bytes="1.5MB"
    ) as store:  # fmt: skip
        for number in range(10):
            store.append({"observation": np.full((16, 3, 64, 64), number, np.uint8)})
        assert store.num_episodes == 10
    with pytest.raises(BudgetError, match="of 10 episodes"):
        repack(tmp_path / "old", tmp_path / "new", mode="disk")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_bad_input(tmp_path):
    episodes.make_store(tmp_path / "old").close()
    with pytest.raises(StoreNotFound):
        repack(tmp_path / "none", tmp_path / "new")
    with pytest.raises(StoreExists):
        repack(tmp_path / "old", tmp_path / "old")
    with pytest.raises(SpecError):
        repack(tmp_path / "old", tmp_path / "new", mode="half", frame_delta={"entropy": "lz4"})
    with pytest.raises(SpecError):
        repack(tmp_path / "old", tmp_path / "new", frame_delta={"entropy": "zip"})
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    (tmp_path / "new").mkdir()
    with ReplayStore.open(tmp_path / "old"):  # beside a writer, into an empty directory
        repack(tmp_path / "old", tmp_path / "new")
