"""The experiments: against plain loops, and each once from end to end at a small size."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.drqv2 import child, latency, learning_curves, measuring, published_rows, results, same_learning
from experiments.drqv2.buffers import BufferConfig, link_episodes, open_buffer
from experiments.drqv2.published_table import PublishedTableConfig, measure
from experiments.drqv2.recordings import Recording, time_steps
from experiments.drqv2.same_learning import LearningDiffers, SameLearningConfig
from experiments.drqv2.theoretical_factor import TheoreticalFactorConfig, count_changed, theoretical_factor
from experiments.drqv2.train_config import note_config
from replaystore import ReplayStore
from replaystore.datasets.drqv2_npz import list_episode_files, read_episode
from replaystore.errors import EpisodeFileError, SpecError

from .conftest import episode_arrays, write_episodes


@pytest.fixture
def learning(tmp_path, small_agent) -> SameLearningConfig:
    return SameLearningConfig(
        episodes=str(write_episodes(tmp_path / "episodes", [12, 5, 9])),
        modes=("disk", "half", "full"),
        updates=40,
        batch_size=6,
        n_step=3,
        discount=0.99,
        seed=1,
        replay_threads=2,
        torch_threads=1,
        output_dir=str(tmp_path / "out"),
        docs=None,
        agent=small_agent,
    )


# The same learning


def test_every_mode_learns_the_same_bits(learning):
    result = same_learning.same_learning(learning)
    disk, half, full = result["modes"]
    assert disk["losses"] == half["losses"] == full["losses"]
    assert disk["digest"] == half["digest"] == full["digest"]
    assert disk["batches"] == half["batches"] == full["batches"]
    assert len({loss for loss, _ in disk["losses"]}) == 40  # it learns
    for name in ("disk", "half", "full"):  # and from what the mode is named for
        with ReplayStore.open(Path(learning.output_dir) / "stores" / name / "store", read_only=True) as store:
            assert store.spec.mode == name
            assert store.info()["rows_in_tail"] == 0
    assert full["store_bytes"] < half["store_bytes"] < disk["store_bytes"]
    assert json.loads(json.dumps(result))["control"]["losses"] != disk["losses"][:3]
    assert "bit for bit" in "\n".join(same_learning.to_lines(result))


def test_one_wrong_pixel_is_noticed(learning, monkeypatch):
    make = same_learning.make_replay_loader

    class Wrong:
        """Changes one value of the 30th batch, in mode full."""

        def __init__(self, *arguments: Any) -> None:
            self._loader, self._mode, self._count = make(*arguments), arguments[7], 0

        def __enter__(self) -> Wrong:
            return self

        def __exit__(self, *exc_info: object) -> None:
            self._loader.close()

        def __next__(self) -> Any:
            batch = next(self._loader)
            self._count += 1
            if self._mode == "full" and self._count == 30:
                batch[0][2, 1, 10, 10] ^= 1
            return batch

    monkeypatch.setattr(same_learning, "make_replay_loader", Wrong)
    with pytest.raises(LearningDiffers, match=r"update (3\d|40).*the batches differ"):
        same_learning.same_learning(learning)


def test_a_control_that_learns_the_same_voids_the_comparison(learning):
    learned = same_learning.learn(replace(learning, updates=2), "half", Path(learning.output_dir))
    with pytest.raises(LearningDiffers, match="void"):
        same_learning.compare([learned, replace(learned, mode="full")], learned)
    with pytest.raises(LearningDiffers, match="parameters"):
        same_learning.compare([learned, replace(learned, digest="0")], replace(learned, losses=[(0.0, 0.0)]))


def test_digests_see_every_bit():
    state = {"a": [torch.zeros(3), {"b": 1}], "c": 0.1}
    changed = {"a": [torch.tensor([0.0, -0.0, 0.0]), {"b": 1}], "c": 0.1}  # equal, other bits
    assert same_learning.digest_of(state) == same_learning.digest_of({"a": [torch.zeros(3), {"b": 1}], "c": 0.1})
    assert same_learning.digest_of(state) != same_learning.digest_of(changed)
    assert same_learning.digest_of(state) != same_learning.digest_of({**state, "c": 0.2})


def test_unusable_episodes_and_modes_are_refused(learning, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EpisodeFileError, match="replaystore collect"):
        same_learning.same_learning(replace(learning, episodes=str(tmp_path / "empty")))
    with pytest.raises(SpecError, match="modes"):
        same_learning.same_learning(replace(learning, modes=("disc",)))


# The theoretical factor


@pytest.mark.parametrize("stack", [2, 3, 5])
def test_changed_pixels_are_counted_as_a_plain_loop_does(stack):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (13, 2, 6, 6), dtype=np.uint8)
    frames[1::2, :, 1:] = frames[0:-1:2, :, 1:]  # some change little, some a lot
    keyframes = others = pixels = 0
    for row in range(13):
        for plane in range(2):
            key = frames[row - row % stack, plane]
            if row % stack == 0:
                keyframes += 1
            else:
                others += 1
                changed = sum(int(a != b) for a, b in zip(frames[row, plane].flat, key.flat, strict=True))
                pixels += min(changed, 9)
    assert count_changed(frames, stack) == (keyframes, others, pixels)


def test_formula_and_real_bytes_of_a_recording(tmp_path):
    directory = write_episodes(tmp_path / "made_up", [35, 23], side=84)  # whole groups at each f
    config = TheoreticalFactorConfig(
        recordings={"made_up": str(directory)}, frame_stacks=(2, 3, 4), max_episodes=None,
        output_dir=str(tmp_path), docs=None,
    )  # fmt: skip
    for point in theoretical_factor(config)["points"]:
        f, n = point["frame_stack"], point["changed_pixels"]
        assert point["frames"] == 60
        assert 84 <= n <= 3 * 84  # a line or two, and a corner
        assert point["phi"] == n / 7056
        assert point["simplified"] == pytest.approx(1764 * f / ((1762 - n) / f + 2 + n + f))
        assert point["as_printed"] > point["simplified"]
        assert point["counted"] == pytest.approx(point["simplified"], rel=1e-9)
        assert point["published"] == pytest.approx(point["counted"], rel=0.05)
        assert point["full"] > point["published"]
    with pytest.raises(SpecError, match="at least 2"):
        theoretical_factor(replace(config, frame_stacks=(1,)))


# Buffers, the published table and latency


@pytest.fixture
def run_here(monkeypatch):
    """Measures in this process, which starts faster."""

    def run_child(request: Any, group: Any = None) -> Any:
        return child.JOBS[request["job"]](json.loads(json.dumps(request))), None

    monkeypatch.setattr(measuring, "run_child", run_child)


@pytest.fixture
def table_config(tmp_path, small_agent) -> PublishedTableConfig:
    for task, seed in (("walker_walk", 40), ("quadruped_walk", 30)):
        for variant, channels in (("rgb", 3), ("gray_black", 1)):
            write_episodes(tmp_path / "data" / task / variant, [seed, 35], channels=channels)
    return PublishedTableConfig(
        tasks=("walker_walk", "quadruped_walk"),
        data_dir=str(tmp_path / "data"),
        transitions=60,
        record=False,
        fast_render=False,
        drqv2=None,
        buffers=("disk", "half", "published", "full"),
        speed_variants=("gray_black",),
        environments=("recorded",),
        learner="set",
        learner_milliseconds=(1.0,),
        rows=20,
        warm_rows=4,
        repeats=1,
        workers=1,
        batch_size=4,
        n_step=3,
        discount=0.99,
        update_every_steps=2,
        seed=0,
        output_dir=str(tmp_path / "out"),
        docs=None,
        agent=small_agent,
    )


def test_the_published_table_from_end_to_end(table_config, run_here, monkeypatch, tmp_path):
    told: list[str] = []
    monkeypatch.setattr("experiments.drqv2.published_table.git_commit", lambda: "the same")
    result = measure(table_config, told.append)
    assert {(entry["task"], entry["variant"], entry["buffer"]) for entry in result["sizes"]} == {
        (task, variant, kind)
        for task in table_config.tasks
        for variant in ("rgb", "gray", "gray_black")
        for kind in table_config.buffers
    }
    sizes = {(entry["task"], entry["variant"], entry["buffer"]): entry for entry in result["sizes"]}
    raw = sizes["walker_walk", "rgb", "disk"]
    assert raw["formula_bytes"] == 9 * 20 * 20
    assert sizes["walker_walk", "rgb", "half"]["formula_bytes"] == pytest.approx(3 * 400 * 77 / 75)
    assert sizes["quadruped_walk", "gray", "full"]["transitions"] == 65
    frames = [entry["frames_per_second"] for entry in result["speeds"]]
    assert len(frames) == 2 * 4
    assert min(frames) > 0
    factors = published_rows.factor_rows(result)
    gray = [float(row["grayscale"]) for row in factors if row["scene"].startswith("gray")]
    assert gray == [pytest.approx(3, rel=0.05)] * 6
    for row in factors:
        numbers = [float(row[name]) for name in ("one frame", "delta", "entropy coding")]
        assert math.prod(numbers) == pytest.approx(float(row["storage alone"]), rel=0.05)
    lines = published_rows.to_lines(result)
    assert any("| average |" in line for line in lines)
    assert any("pause of the set time" in line for line in lines)
    published_rows.plot(result)

    def fail(*arguments: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(measuring, "run_child", fail)
    again = measure(table_config, told.append)  # all of it was kept
    assert again["sizes"] == result["sizes"]
    assert again["speeds"] == result["speeds"]


def test_derived_gray_episodes_are_those_frames_in_gray(table_config, run_here):
    measure(
        replace(table_config, tasks=("walker_walk",), buffers=("disk", "half"), speed_variants=()), lambda line: None
    )
    colour = read_episode(list_episode_files(Path(table_config.data_dir) / "walker_walk" / "rgb")[0].path)
    gray = read_episode(list_episode_files(Path(table_config.output_dir) / "gray" / "walker_walk")[0].path)
    assert gray["observation"].shape == (41, 3, 20, 20)
    for row in (0, 1, 40):
        for k in range(3):
            red, green, blue = colour["observation"][row, 3 * k : 3 * k + 3].astype(int)
            assert np.array_equal(gray["observation"][row, k], (299 * red + 587 * green + 114 * blue + 500) // 1000)
    assert np.array_equal(gray["action"], colour["action"])


def test_averages_are_ratios_of_means():
    def entry(task: str, kind: str, num_bytes: float) -> dict[str, Any]:
        return {"task": task, "variant": "rgb", "buffer": kind, "memory_bytes": num_bytes}

    sizes = [entry("a", "disk", 100), entry("a", "half", 10), entry("b", "disk", 300), entry("b", "half", 100)]
    result = {"sizes": sizes, "speeds": [], "config": {"tasks": ["a", "b"]}}
    rows = {(row["task"], row["buffer"]): row["factor"] for row in published_rows.storage_rows(result)}
    assert rows["average", "`half`"] == "3.64"  # 400 / 110, not the mean of 10 and 3


def test_pairs_are_compared_repeat_by_repeat():
    def entry(kind: str, repeat: int, rate: float) -> dict[str, Any]:
        return {
            "task": "a", "variant": "rgb", "environment": "real", "learner_milliseconds": 10.0, "buffer": kind,
            "repeat": repeat, "frames_per_second": rate,
        }  # fmt: skip

    rates = {"half": (100.0, 50.0, 80.0), "full": (90.0, 55.0, 80.0), "disk": (1.0, 1.0, 1.0)}
    speeds = [entry(kind, repeat, rate) for kind in rates for repeat, rate in enumerate(rates[kind])]
    (row,) = published_rows.pair_rows({"speeds": speeds})
    assert [row[name] for name in ("pairs", "median", "from", "to")] == ["3", "+0.0%", "-10.0%", "+10.0%"]
    assert published_rows.pair_rows({"speeds": [entry("half", 0, 1.0), entry("full", 1, 1.0)]}) == []


def test_the_published_table_refuses_what_cannot_work(table_config, tmp_path):
    with pytest.raises(SpecError, match=r"no replay_buffer.py"):
        measure(replace(table_config, drqv2=str(tmp_path)), print)
    with pytest.raises(SpecError, match="buffers"):
        measure(replace(table_config, buffers=("half", "ram")), print)
    with pytest.raises(EpisodeFileError, match="directory of episode files"):
        measure(replace(table_config, data_dir=str(tmp_path / "none")), print)


ORIGINAL_SOURCE = '''
"""A minimal buffer with the interface of DrQ-v2's: one episode file a draw."""
import numpy as np, random, torch

def _worker_init_fn(worker_id):
    random.seed(np.uint32(1))

class ReplayBufferStorage:
    def __init__(self, data_specs, replay_dir):
        self.count = 0
    def add(self, time_step):
        self.count += 1

class Files(torch.utils.data.IterableDataset):
    def __init__(self, directory):
        self.directory = directory
    def __iter__(self):
        while True:
            path = random.choice(sorted(self.directory.glob("*.npz")))
            with np.load(path) as episode:
                rows = {name: episode[name] for name in episode}
            yield rows["observation"][0], rows["action"][1], rows["reward"][1], rows["discount"][1], rows["observation"][1]

def make_replay_loader(directory, max_size, batch_size, num_workers, save_snapshot, nstep, discount):
    return torch.utils.data.DataLoader(Files(directory), batch_size=batch_size, num_workers=num_workers,
                                       worker_init_fn=_worker_init_fn)
'''  # noqa: E501


def buffer_config(kind: str, directory: Path, **changes: Any) -> BufferConfig:
    given: dict[str, Any] = {
        "kind": kind, "directory": str(directory), "checkout": None, "image_shape": (3, 20, 20), "frame_stack": 3,
        "num_actions": 2, "capacity": 1000, "batch_size": 4, "n_step": 3, "discount": 0.99, "seed": 0, "workers": 1,
        "residency": "auto", "budget_bytes": None,
    }  # fmt: skip
    return BufferConfig(**{**given, **changes})


def test_the_original_is_opened_from_a_checkout(tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "replay_buffer.py").write_text(ORIGINAL_SOURCE)
    recording = Recording.find(write_episodes(tmp_path / "episodes", [6, 7]))
    link_episodes(recording.files, tmp_path / "replay")
    link_episodes(recording.files, tmp_path / "replay", first=2)
    assert [each.index for each in list_episode_files(tmp_path / "replay")] == [0, 1, 2, 3]
    assert all(each.refusal is None for each in list_episode_files(tmp_path / "replay"))
    buffer = open_buffer(buffer_config("original", tmp_path / "replay", checkout=str(checkout)))
    buffer.add(time_steps(episode_arrays(0, 3))[0])
    batch = buffer.batch()  # from a worker: its seeding has been repaired
    assert batch[0].shape == (4, 3, 20, 20)
    buffer.close()
    with pytest.raises(SpecError, match="drqv2=PATH"):
        open_buffer(buffer_config("original", tmp_path / "replay"))
    with pytest.raises(SpecError, match="buffer: expected one of"):
        open_buffer(buffer_config("ram", tmp_path / "replay"))


@pytest.fixture
def latency_config(tmp_path) -> latency.LatencyConfig:
    return latency.LatencyConfig(
        episodes=str(write_episodes(tmp_path / "episodes", [30, 25])),
        drqv2=None,
        buffers=("half", "full"),
        limit_bytes=16 << 20,
        sizes=(0.004, 0.01),
        margin_bytes=0,
        learner_milliseconds=0.0,
        rows=12,
        warm_rows=4,
        update_every_steps=2,
        workers=1,
        batch_size=4,
        n_step=3,
        discount=0.99,
        seed=0,
        output_dir=str(tmp_path / "out"),
        docs=None,
    )


def test_latency_grows_the_buffer_to_each_size(latency_config, tmp_path):
    request = {
        "buffer": json.loads(json.dumps(buffer_config("full", tmp_path / "replay").__dict__)),
        "episodes": latency_config.episodes, "stages": str(tmp_path / "stages"), "transitions": [40, 100],
        "learner_milliseconds": 0.0, "rows": 12, "warm_rows": 4, "update_every_steps": 2,
    }  # fmt: skip
    child.growth(request)
    stages = [json.loads(line) for line in (tmp_path / "stages").read_text().splitlines()]
    # 30 + 25 recorded; then a loop's episode, played to its end: 30; and one more.
    assert [stage["transitions"] for stage in stages] == [55, 115]
    assert all(0 < stage["update_milliseconds"]["p50"] <= stage["update_milliseconds"]["p99"] for stage in stages)
    with ReplayStore.open(tmp_path / "replay" / "store", read_only=True) as store:
        assert [info.num_rows - 1 for info in store.episodes()] == [30, 25, 30, 30, 30]


def test_latency_says_when_a_process_was_killed(latency_config):
    def stage(transitions: int, p50: float) -> dict[str, Any]:
        times = {"p50": p50, "p99": 2 * p50, "mean": p50}
        return {
            "transitions": transitions,
            "wait_milliseconds": times,
            "update_milliseconds": times,
            "held_bytes": None,
        }

    common = {"limited": True, "limit_reason": None, "peak_bytes": 1, "seconds": 1.0}
    result = {
        "config": {**latency_config.__dict__, "sizes": (0.5, 1.0, 2.0)},
        "conditions": {"cpu": "some"},
        "row_bytes": 1200,
        "source_transitions": 55,
        "measured": [
            {"buffer": "original", "killed": True, "stages": [stage(10, 1.0)], **common},
            {"buffer": "full", "killed": False, "stages": [stage(n, 2.0) for n in (10, 20, 40)], **common},
        ],
    }
    lines = [line for line in latency.to_lines(result) if line.startswith("| ")][2:]
    assert [(line.split(" | ")[0], line.split(" | ")[1], line.endswith("killed at the limit |")) for line in lines] == [
        ("| 0.5x", "DrQ-v2's loader", False),
        ("| 0.5x", "`full`", False),
        ("| 1x", "DrQ-v2's loader", True),
        ("| 1x", "`full`", False),
        ("| 2x", "`full`", False),
    ]
    latency.plot(result)


def test_latency_refuses_what_cannot_work(latency_config):
    for change, words in (
        ({"buffers": ("published",)}, "buffers"),
        ({"sizes": (2.0, 1.0)}, "ascending"),
        ({"rows": 0}, "rows"),
        ({"limit_bytes": 5}, "limit_bytes"),
    ):
        with pytest.raises(SpecError, match=words):
            latency.latency(replace(latency_config, **change), print)


# Learning curves and pages


def test_curves_are_averaged_where_all_seeds_have_been():
    curves = [
        {"evaluations": [{"frame": 0, "reward": 1.0}, {"frame": 10, "reward": 3.0}, {"frame": 20, "reward": 9.0}]},
        {"evaluations": [{"frame": 0, "reward": 3.0}, {"frame": 10, "reward": 7.0}]},
    ]
    assert learning_curves.mean_curve(curves) == ([0, 10], [2.0, 5.0], [1.0, 2.0])
    assert learning_curves.mean_curve([*curves, {"evaluations": []}]) == ([], [], [])


def test_learning_curves_run_every_seed_and_say_what_was_not_run(train_config, tmp_path, monkeypatch):
    pytest.importorskip("hydra")
    from dataclasses import asdict

    config = learning_curves.LearningCurvesConfig(
        training=asdict(train_config),
        tasks={"walker_walk": {"n_step": 1, "agent": {"noise_steps": 7}}, "quadruped_walk": None},
        seeds=(1, 2),
        modes=("full",),
        run=True,
        allow_cpu=False,
        output_dir=str(tmp_path / "curves"),
        docs=None,
    )
    config.training["eval_every_frames"] = 0
    with pytest.raises(SpecError, match="made of evaluations"):
        learning_curves.learning_curves(config, print)
    config.training["eval_every_frames"] = 10
    if not torch.cuda.is_available():
        with pytest.raises(SpecError, match="run=false"):
            learning_curves.learning_curves(config, print)
    shown = learning_curves.learning_curves(replace(config, run=False), print)
    assert sum("| not run |" in line for line in learning_curves.to_lines(shown)) == 2
    trained = []

    def fake(each: Any) -> None:
        trained.append((each.task, each.seed, each.n_step, each.agent.noise_steps, each.agent.hidden_dim, each.resume))
        Path(each.output_dir).mkdir(parents=True)
        note_config(each, Path(each.output_dir))
        line = json.dumps({"frame": each.train_frames, "reward": float(each.seed)})
        (Path(each.output_dir) / "evaluations.jsonl").write_text(line + "\n")

    monkeypatch.setattr(learning_curves, "train", fake)
    for _ in range(2):  # the second time nothing is left to train
        result = learning_curves.learning_curves(replace(config, allow_cpu=True), print)
    assert trained == [
        ("walker_walk", 1, 1, 7, 8, True),
        ("walker_walk", 2, 1, 7, 8, True),
        ("quadruped_walk", 1, 3, 100, 8, True),
        ("quadruped_walk", 2, 3, 100, 8, True),
    ]
    assert sum("1.5 +- 0.5" in line for line in learning_curves.to_lines(result)) == 2
    assert sum("RGB images" in line or "gray images" in line for line in learning_curves.to_lines(result)) == 2
    other = {"n_step": 1, "agent": {"noise_steps": 7, "hidden_dim": 9}}
    with pytest.raises(SpecError, match=r"agent.hidden_dim: expected 8, with which the run"):
        learning_curves.learning_curves(replace(config, run=False, tasks={"walker_walk": other}), print)
    learning_curves.plot(result)


def test_a_page_keeps_what_stands_outside_its_markers(tmp_path):
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    figure, _ = results.new_axes()
    for text in ("new", "newer"):
        results.save_result("some_thing", tmp_path / "out", {"a": 1}, [text], figure, str(page))
    content = page.read_text()
    assert content.startswith("before\n")
    assert content.endswith("\nafter\n")
    assert "newer" in content
    assert "old" not in content
    assert "![some thing](images/some_thing.png)" in content
    assert (tmp_path / "docs" / "images" / "some_thing.png").read_bytes()[:4] == b"\x89PNG"
    assert "![some thing](some_thing.png)" in (tmp_path / "out" / "some_thing.md").read_text()
    page.write_text("no markers")
    with pytest.raises(SpecError, match="expected the lines"):
        results.write_between_markers(page, "x")
    assert page.read_text() == "no markers"
