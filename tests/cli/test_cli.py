import importlib
import json
import logging
import subprocess
import sys
import time

import click
import numpy as np
import pytest
from click.testing import CliRunner
from made_up_episodes import write_directory, write_made_up

import replaystore.cli.options as cli_options
import replaystore.spec as spec
from replaystore.bench.paging_config import CONTENDERS
from replaystore.cli import cli
from replaystore.codecs.frame_delta import codec as frame_delta
from replaystore.datasets.drqv2_npz import read_episode

COMMANDS = [
    "collect",
    "convert",
    "export",
    "repack",
    "info",
    "verify",
    "plan",
    "bench",
    "warmup",
    "bench paging",
    "bench sample",
]


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def run_json(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def episodes(tmp_path):
    return write_directory(tmp_path / "in", [40, 30, 50], size=12)


@pytest.fixture
def store(tmp_path, episodes):
    assert run("convert", episodes, tmp_path / "store").exit_code == 0
    return tmp_path / "store"


# Help


@pytest.mark.parametrize("command", ["", *COMMANDS, "bench write"])
def test_help(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage:")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_of_weight(command):
    code = (
        "import sys\nfrom replaystore.cli import main\ntry: main()\n"
        "finally: print([m for m in ('numpy','numba','zarr','torch','matplotlib','rich') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, *command.split(), "--help"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.endswith("[]\n")


@pytest.mark.timing
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_starts_quickly(command):
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "replaystore", *command.split(), "--help"], capture_output=True, check=True
        )
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5


def test_choices_are_those_of_the_package():
    assert (cli_options.MODES, cli_options.DURABILITIES) == (spec.MODES, spec.DURABILITIES)
    assert (cli_options.RESIDENCIES, cli_options.ROLES) == (spec.RESIDENCIES, spec.ROLES)
    assert set(cli_options.REFERENCES) == set(frame_delta.REFERENCES)
    assert tuple(CONTENDERS) == cli_options.CONTENDERS
    assert set(cli_options.ENTROPIES) == set(frame_delta.ENTROPIES)


def test_version():
    assert run("--version").stdout.startswith("replaystore")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16GiB", 16 << 30),
        ("500MB", 500_000_000),
        ("1.5 KiB", 1536),
        ("7", 7),
        ("2b", 2),
        ("3tib", 3 << 40),
        ("1e9", 10**9),
    ],
)
def test_sizes(text, expected):
    assert cli_options.size(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1GB", "0", "3XB", "1e", "1e-9", "0.1", "1 G"])
def test_what_is_no_size(text):
    with pytest.raises(click.BadParameter, match="16GiB"):
        cli_options.size(text)


# Stores


def test_convert_info_verify_export(tmp_path, episodes):
    store = tmp_path / "store"
    report = run_json("convert", episodes, store, "--mode", "full", "--keyframe-interval", "8", "--capacity", "1000")
    assert (report["converted"], report["transitions"], report["skipped"]) == (3, 117, [])
    info = run_json("info", store)
    wanted = {"mode": "full", "transitions": 117, "episodes": 3, "capacity": 1000, "conversion": "complete"}
    assert info.items() >= wanted.items()
    assert info["fields"]["observation"]["scheme"]["keyframe_interval"] == 8
    for name in ("bytes_on_disk", "observation_bytes_per_transition", "bytes_per_transition", "compression_factor"):
        assert info[name] > 0
    assert "compression factor" in run("info", store).stdout
    verified = run_json("verify", store)
    assert verified["ok"]
    assert verified["problems"] == []
    assert run_json("export", store, tmp_path / "out")["written"] == 3
    for path in episodes.iterdir():
        for name, array in read_episode(path).items():
            np.testing.assert_array_equal(read_episode(tmp_path / "out" / path.name)[name], array)
    again = run("convert", episodes, store, "--no-progress")  # not an option of the command
    assert again.exit_code == 2
    assert "0 episodes" in run("convert", episodes, store).stdout


@pytest.mark.parametrize("mode", spec.MODES)
def test_modes(tmp_path, episodes, mode):
    run_json("convert", episodes, tmp_path / "store", "--mode", mode, "--chunk-rows", "16", "--durability", "power")
    info = run_json("info", tmp_path / "store")
    assert (info["mode"], info["chunk_rows"], info["durability"]) == (mode, 16, "power")


def test_verify_lists_what_is_wrong(store):
    chunk = store / "observation/c.0.0.0.0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    result = run("verify", store, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert not found["ok"]
    assert str(chunk) in found["problems"][0]
    result = run("verify", store)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "replaystore: problem:" in result.stderr
    (store / "episodes/head").write_bytes(b"\1" * 1024)
    result = run("verify", store, "--json")
    assert (result.exit_code, json.loads(result.stdout)["ok"]) == (1, False)


def test_skipped_files_are_named(tmp_path, episodes):
    (episodes / "20260101T000001_1_29.npz").write_bytes(b"no archive")
    result = run("convert", episodes, tmp_path / "store")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("replaystore: error: ")
    assert result.stderr.count("\n") == 1
    assert "_1_29.npz" in result.stderr
    result = run("convert", episodes, tmp_path / "store", "--skip-damaged", "--json")
    assert result.exit_code == 0
    assert [skipped["file"] for skipped in json.loads(result.stdout)["skipped"]] == ["20260101T000001_1_29.npz"]
    assert "skipped 20260101T000001_1_29.npz" in result.stderr


# Errors


def test_exit_codes(tmp_path, episodes, store):
    for code, arguments in [
        (2, ("convert", episodes, store, "--mode", "half")),
        (2, ("convert", episodes, store, "--mode", "quarter")),
        (2, ("convert", tmp_path / "absent", store)),
        (2, ("plan", episodes, "--capacity", "10", "--budget", "much")),
        (1, ("info", tmp_path)),
        (1, ("convert", tmp_path, tmp_path / "new")),
        (2, ("nothing",)),
    ]:
        result = run(*arguments)
        assert result.exit_code == code, arguments
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
    with pytest.raises(FileNotFoundError):
        CliRunner().invoke(cli, ["--debug", "info", str(tmp_path)], catch_exceptions=False)


def test_os_errors_are_one_line(episodes, store, monkeypatch):
    def fail(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(importlib.import_module("replaystore.datasets.convert"), "convert", fail)
    result = run("convert", episodes, store)
    assert result.exit_code == 1
    assert result.stderr.startswith("replaystore: error: [Errno 13] Permission denied: '/somewhere'; check")


INTERRUPTED = """
import os, signal
from replaystore import cli, store

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
calls, append = [], store.ReplayStore.append

def interrupted(self, episode):
    calls.append(episode)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGINT)
    return append(self, episode)

store.ReplayStore.append = interrupted
cli.main()
"""


def test_interruption_exits_cleanly(tmp_path):
    episodes = write_directory(tmp_path / "in", [8] * 5)
    command = [sys.executable, "-c", INTERRUPTED, "convert", str(episodes), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert run_json("info", tmp_path / "store")["conversion"] == "incomplete"
    assert run_json("convert", episodes, tmp_path / "store")["already_present"] == 2
    assert run_json("info", tmp_path / "store")["episodes"] == 5


def test_progress_only_where_asked_for(episodes, tmp_path):
    result = run("--progress", "convert", episodes, tmp_path / "store", "--json")
    assert "converting" in result.stderr
    json.loads(result.stdout)
    assert run("convert", episodes, tmp_path / "store").stderr == ""


# Plan, benchmarks, collection


def test_plan(episodes):
    found = run_json("plan", episodes, "--capacity", "100000", "--budget", "1GiB")
    assert found["budget_bytes"] == 1 << 30
    assert found["recommended"] in [candidate["name"] for candidate in found["candidates"]]
    result = run("plan", episodes, "--capacity", "100000", "--budget", "1GiB")
    assert found["recommended"] in result.stdout
    assert "at capacity" in result.stdout


def test_bench_sample(store):
    found = run_json("bench", "sample", store, "--num-batches", "4", "--batch-size", "8")
    assert [entry["residency"] for entry in found["times"]] == ["ram", "mapped", None]
    for entry in found["times"]:
        assert entry["milliseconds"]["count"] == 4
        assert entry["milliseconds"]["p5"] <= entry["milliseconds"]["median"] <= entry["milliseconds"]["p95"]
        assert entry["megabytes_per_second"] > 0
    assert {"threads", "seed", "cache_state", "numba", "cpu", "git_commit"} <= set(found["conditions"])


def test_bench_write(episodes, tmp_path):
    found = run_json("bench", "write", episodes, "--repeats", "2", "--episodes", "4", "--work-dir", tmp_path)
    assert [entry["mode"] for entry in found["times"]] == ["disk", "half", "full", None]
    assert found["rows"] == 40 + 30 + 50 + 40
    assert all(entry["rows_per_second"]["median"] > 0 for entry in found["times"])
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
    table = run("bench", "write", episodes, "--repeats", "1", "--modes", "half").stdout
    assert "plain files" in table
    assert "disk" not in table.split("date")[0]


def test_bench_paging_passes_its_options_on(episodes, tmp_path, monkeypatch):
    seen = []

    def run_paging(config, *, progress):
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("replaystore.bench.paging.run_paging", run_paging)
    result = run(
        "bench", "paging", episodes, "--limit", "64MiB", "--sizes", "0.5,2", "--modes", "disk,full",
        "--work-dir", tmp_path / "work", "--threads", "1", "--entropy", "zstd",
    )  # fmt: skip
    assert result.exit_code == 130
    (config,) = seen
    assert (config.limit_bytes, config.sizes, config.modes) == (64 << 20, (0.5, 2.0), ("disk", "full"))
    assert (config.threads, config.frame_delta) == (1, {"entropy": "zstd"})


def test_collect_passes_its_options_on(tmp_path, monkeypatch):
    seen = []

    def collect(config, directory, *, on_episode):
        seen.append(config)
        path = write_made_up(directory, 0, 5)
        on_episode(0, path, True)
        return [path]

    monkeypatch.setattr("replaystore.collect.collect", collect)
    found = run_json(
        "collect", "walker_walk", tmp_path / "out", "--grayscale", "--black-floor", "--frame-stack", "2", "--seed", "3",
        "--fast-render", "--image-size", "64", "--max-steps", "9", "--action-repeat", "4",
    )  # fmt: skip
    assert found["recorded"] == 1
    (config,) = seen
    assert (config.task, config.episodes, config.frame_stack, config.action_repeat) == ("walker_walk", 1, 2, 4)
    assert (config.grayscale, config.black_floor, config.fast_render, config.max_steps) == (True, True, True, 9)
    assert run("collect", "walker", tmp_path / "out").exit_code == 2


# Starting it


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["nonsense"], 2), (["info"], 2)])
def test_the_module_runs_the_command_line_and_names_itself(arguments, code):
    done = subprocess.run([sys.executable, "-m", "replaystore", *arguments], capture_output=True, text=True)
    assert done.returncode == code
    command = " info" if arguments == ["info"] else ""
    assert (done.stdout + done.stderr).startswith(f"Usage: python -m replaystore{command} [OPTIONS]")


def test_verbose_shows_what_happens_on_stderr(tmp_path, episodes):
    log_lines = {}
    for option in ("--no-progress", "-v", "-vv"):
        result = run(option, "convert", episodes, tmp_path / option.strip("-"), "--chunk-rows", "16")
        assert result.exit_code == 0
        assert "replaystore." not in result.stdout
        log_lines[option] = [line for line in result.stderr.splitlines() if "replaystore." in line]
    assert log_lines["--no-progress"] == []
    assert log_lines["-v"]
    assert all(" INFO replaystore." in line for line in log_lines["-v"])
    assert any(" DEBUG replaystore." in line for line in log_lines["-vv"])
    logger = logging.getLogger("replaystore")
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)  # the next command starts anew
