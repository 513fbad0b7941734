"""The experiments on Just Round, at a tiny size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("mujoco")

from experiments.drqv2.results import write_between_markers
from experiments.just_round import fill_buffer, learning, memory, open_questions, speed
from experiments.just_round.tasks import TASKS, make_environment, make_model, published_codec
from experiments.paired_blocks import PairedBlocks
from replaystore.errors import SpecError


def test_the_published_factors_come_out_of_the_convention() -> None:
    rows = memory.published_rows()
    assert len(rows) == 8
    for row in rows:
        assert row["factor"] == pytest.approx(row["published_factor"], abs=0.006), row
    humanoid = next(row for row in rows if (row["algorithm"], row["task"]) == ("sac", "Humanoid"))
    mib = [humanoid[name] / 2**20 for name in ("buffer_bytes", "rounded_buffer_bytes")]
    assert [round(value) for value in mib] == [2941, 745]


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_buffers_are_filled_and_measured(algorithm: str, tmp_path: Path) -> None:
    found = {
        arm: fill_buffer.measure({"algorithm": algorithm, "task": "Ant", "arm": arm, "rows": 600}, tmp_path / arm)
        for arm in memory.ARMS
    }
    copies = 2 if algorithm == "sac" else 1
    assert found["original"]["observation_bytes"] == copies * 600 * 105 * 8
    assert found["published"]["observation_bytes"] < found["original"]["observation_bytes"] / (3 * copies)
    assert found["auto"]["observation_bytes"] < found["published"]["observation_bytes"]
    assert found["auto"]["clamped_share"] == found["original"]["clamped_share"] == 0
    for entry in found.values():
        assert entry["num_bytes"] > entry["observation_bytes"]
    measured = [
        {"algorithm": algorithm, "task": "Ant", "arm": arm, "rows": 600, **entry} for arm, entry in found.items()
    ]
    text = "\n".join(memory.lines_of(memory.published_rows(), measured))
    assert "Ant-v5" in text
    assert text.count("| SAC |") + text.count("| PPO |") == 9


def test_the_models_have_the_buffers(tmp_path: Path) -> None:
    env = make_environment("Walker2d")
    assert env.observation_space.shape == (17,)
    sac = make_model("sac", env, round_clamp=published_codec("sac"), path=tmp_path / "store", learning_starts=5)
    sac.learn(20)
    sac.replay_buffer.commit()
    scheme = sac.replay_buffer.store.spec.fields[0].scheme
    assert (scheme["decimals"], scheme["row_size"], scheme["dtype"]) == (2, 17, "float64")
    assert sac.replay_buffer.size() == 20
    sac.replay_buffer.close()


def runs() -> list[learning.Run]:
    return [
        learning.Run(
            algorithm="ppo",
            task=task,
            arm=arm,
            seed=seed,
            steps=tuple(range(10, 210, 10)),
            returns=tuple(float(100 * seed + (10 if arm == "auto" else 0) + k) for k in range(20)),
            processor_seconds=900.0,
            clamped_share=0.01,
        )
        for task in TASKS[:2]
        for seed in range(3)
        for arm in learning.ARMS
    ]


def test_runs_are_compared_by_seed() -> None:
    text = "\n".join(learning.lines_of(runs(), 200))
    assert "| 114 +- 100 | 114 +- 100, 0 +- 0 | yes | 124 +- 100, 10 +- 0 | yes |" in text
    assert "4.50 hours of a core" in text
    far = [replace(run, returns=(1e6,)) if run.arm == "auto" else run for run in runs()]
    assert "| no |" in "\n".join(learning.lines_of(far, 200))
    assert len(learning.plot(runs(), 200).axes) == 2


def test_a_run_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def train(*arguments: Any) -> learning.Run:
        asked.append(arguments)
        return replace(runs()[0], arm=arguments[2], seed=arguments[3])

    monkeypatch.setattr(learning, "train", train)
    first = learning.run("ppo", ("Ant",), learning.ARMS, range(2), 50, tmp_path, lambda line: None)
    assert len(asked) == len(first) == 6
    assert learning.run("ppo", ("Ant",), learning.ARMS, range(3), 50, tmp_path, lambda line: None)[:6] == first
    assert len(asked) == 9


@pytest.mark.parametrize("arm", ["published", "auto"])
def test_training_notes_its_episodes(arm: str) -> None:
    found = learning.train("sac", "Walker2d", arm, 0, 150)
    assert found.returns
    assert len(found.returns) == len(found.steps)
    assert max(found.steps) <= 150
    assert found.processor_seconds > 0
    assert found.clamped_share == 0


def test_speeds_are_a_table() -> None:
    blocks = PairedBlocks(steps=1000, original_seconds=(2.0, 2.0), our_seconds=(2.2, 2.2))
    line = speed.lines_of([speed.Speed(algorithm="sac", task="Ant", width=64, blocks=blocks)])[-1]
    assert line == "| SAC | Ant-v5 | 2 x 64 | 2 | 2.00 | 2.20 | 1.100 | 1.100 to 1.100 |"


def test_a_page_has_several_results(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    end = "<!-- end of results -->"
    page.write_text("".join(f"# {name}\n<!-- {name}: generated, see the command above -->\n{end}\n" for name in "ab"))
    write_between_markers(page, "new b", "b")
    write_between_markers(page, "new a", "a")
    write_between_markers(page, "newer a", "a")
    text = page.read_text()
    assert text.index("# a") < text.index("newer a") < text.index("# b") < text.index("new b")
    assert "new a" not in text
    with pytest.raises(SpecError, match="expected the lines"):
        write_between_markers(page, "c", "c")


def test_rows_that_become_equal() -> None:
    observations = np.array([[0.1], [0.1], [0.2], [0.2], [0.3]])
    actions = np.array([[0.51], [0.49], [1.0], [1.2], [0.0]])
    rewards = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert open_questions.equal_rows(observations, actions, rewards, 1) == pytest.approx(2 / 5)
    assert open_questions.equal_rows(observations, actions, rewards, 2) == 0
    assert open_questions.equal_rows(observations, actions, np.ones(5), 1) == 0
    assert open_questions.equal_rows(observations, actions, rewards, None) is None


def test_the_errors_of_each_scheme(tmp_path: Path) -> None:
    found = open_questions.errors("Walker2d", 300)
    by = {entry["scheme"]: entry for entry in found}
    assert len(by) == 8
    for decimals, word in ((1, "decimal"), (2, "decimals"), (3, "decimals")):
        fixed, own = by[f"{decimals} {word}, +-127"], by[f"{decimals} {word}, own bounds"]
        assert own["bits"] < fixed["bits"]
        assert own["max_error"] <= 0.5 * 10.0**-decimals * 1.0001
        assert 0 < own["rms_error"] < 10.0**-decimals
    assert by["float16"]["rms_error"] < by["bfloat16"]["rms_error"]
    text = "\n".join(open_questions.lines_of(found))
    assert text.count("Walker2d-v5") == 8
