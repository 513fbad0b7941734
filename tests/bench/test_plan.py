import json

import numpy as np
import pytest
from made_up_episodes import write_directory

from replaystore.bench.plan import plan
from replaystore.datasets.convert import convert
from replaystore.errors import EpisodeFileError, SpecError
from replaystore.spec import MODES
from replaystore.store import ReplayStore


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    return write_directory(tmp_path_factory.mktemp("plan") / "in", [300, 260, 300, 280, 300], size=32)


@pytest.fixture(scope="module")
def roomy(episodes):
    return plan(episodes, 100_000, 1 << 40, sample_episodes=5)


def test_predictions_are_what_a_store_takes(episodes, roomy, tmp_path):
    by_name = {candidate.name: candidate for candidate in roomy.candidates}
    assert {candidate.mode for candidate in roomy.candidates} == set(MODES)
    assert roomy.transitions == 1440 - 5
    for mode in MODES:
        convert(episodes, tmp_path / mode, mode=mode, chunk_rows=256)
        with ReplayStore.open(tmp_path / mode, read_only=True) as store:
            info = store.info()
        expected = info["bytes_per_transition"]
        candidate = by_name[mode]
        # a sampled episode has chunks of its own, whose files are counted in whole blocks
        assert candidate.bytes_per_transition == pytest.approx(expected, rel=0.5 if mode == "full" else 0.12)
        assert candidate.total_bytes == round(candidate.bytes_per_transition * 100_000)
        assert candidate.least_bytes_per_transition <= candidate.bytes_per_transition
        assert candidate.bytes_per_transition <= candidate.most_bytes_per_transition
        assert candidate.batch_milliseconds > 0
    assert by_name["disk"].observation_bytes_per_transition == pytest.approx(3 * 32 * 32 * 1440 / 1435, rel=0.05)
    assert by_name["disk"].bytes_per_transition > by_name["half"].bytes_per_transition
    assert by_name["half"].bytes_per_transition > by_name["full"].bytes_per_transition


@pytest.mark.parametrize("mode", MODES)
def test_plan_and_info_give_the_same_sizes_the_same_names(tmp_path, mode):
    # Two observation fields, one without images, and an image that is no observation would show a mix-up.
    rng = np.random.default_rng(3)
    episode = {
        "observation": rng.integers(0, 256, (61, 9, 12, 12), np.uint8),
        "state": rng.normal(size=(61, 30)).astype(np.float32),
        "mask": rng.integers(0, 256, (61, 3, 12, 12), np.uint8),
        "action": rng.normal(size=(61, 4)).astype(np.float32),
        "reward": np.ones((61, 1), np.float32),
        "discount": np.ones((61, 1), np.float32),
    }
    (tmp_path / "in").mkdir()
    np.savez_compressed(tmp_path / "in/20260101T000000_0_60.npz", **episode)
    candidate = next(
        entry for entry in plan(tmp_path / "in", 1000, 1 << 30, frame_stack=1).candidates if entry.name == mode
    )
    convert(tmp_path / "in", tmp_path / "store", mode=mode, frame_stack=1, chunk_rows=61)
    with ReplayStore.open(tmp_path / "store", read_only=True) as store:
        info, spec = store.info(), store.spec
    observed = [field.name for field in spec.fields if field.role == "observation"]
    assert observed == ["observation", "state"]
    assert spec.field("mask").is_image
    on_disk = {name: entry["bytes_on_disk"] for name, entry in info["fields"].items()}
    assert info["observation_bytes_per_transition"] == sum(on_disk[name] for name in observed) / 60
    assert info["bytes_per_transition"] == sum(on_disk.values()) / 60
    assert candidate.observation_bytes_per_transition == info["observation_bytes_per_transition"]
    assert candidate.bytes_per_transition == info["bytes_per_transition"]


def test_recommendation_with_room_for_everything(roomy):
    chosen = next(candidate for candidate in roomy.candidates if candidate.name == roomy.recommended)
    fastest = min(candidate.batch_milliseconds for candidate in roomy.candidates)
    assert chosen.batch_milliseconds <= 1.15 * fastest
    assert roomy.reason.startswith(repr(chosen.name))


def test_recommendation_follows_budget_and_disk(episodes, roomy, monkeypatch):
    sizes = {candidate.name: candidate.total_bytes for candidate in roomy.candidates}
    budget = (min(sizes["disk"], sizes["half"]) + max(sizes["full"], sizes["full, fastest"])) // 2
    tight = plan(episodes, 100_000, budget, sample_episodes=5)
    assert tight.recommended.startswith("full")
    assert [candidate.fits_budget for candidate in tight.candidates[:2]] == [False, False]
    smallest = min(sizes, key=sizes.get)
    none = plan(episodes, 100_000, 10_000, sample_episodes=5)
    assert none.recommended == smallest
    assert "none fits the budget" in none.reason
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    full = plan(episodes, 100_000, 1 << 40, sample_episodes=5)
    assert full.recommended is None
    assert "lower the capacity" in full.reason


def test_plain_data_and_conditions(roomy):
    data = json.loads(json.dumps(roomy.to_json()))
    assert data["conditions"]["residency"] == "ram"
    assert len(data["candidates"]) == 7
    assert data["disk_free_bytes"] > 0


def test_sample_is_spread_over_the_directory(episodes):
    found = plan(episodes, 1000, 1 << 30, sample_episodes=2)
    assert [name.split("_")[1] for name in found.episodes] == ["0", "4"]
    assert found.candidates[0].deviation_bytes_per_transition is not None
    assert plan(episodes, 1000, 1 << 30, sample_episodes=1).candidates[0].deviation_bytes_per_transition is None


def test_episodes_without_images(tmp_path):
    for number in range(2):
        np.savez_compressed(
            tmp_path / f"20260101T000000_{number}_40.npz",
            state=np.random.default_rng(number).normal(size=(41, 17)),
            reward=np.ones((41, 1), np.float32),
        )
    found = plan(tmp_path, 1000, 1 << 30)
    assert [candidate.name for candidate in found.candidates] == ["disk", "half"]


def test_errors(tmp_path, episodes):
    with pytest.raises(EpisodeFileError, match="found none"):
        plan(tmp_path, 10, 10)
    with pytest.raises(SpecError, match="capacity"):
        plan(episodes, 0, 10)
    write_directory(tmp_path / "resets", [1, 1])
    with pytest.raises(EpisodeFileError, match="at least 2 rows"):
        plan(tmp_path / "resets", 10, 10, frame_stack=3)
