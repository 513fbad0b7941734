"""`python -m drqv2_patch` on a checkout of our own (tests/small_drqv2.py)."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_drqv2
import torch
import yaml
from click.testing import CliRunner, Result

from drqv2_patch.errors import HalfPatched, PatchError
from drqv2_patch.patch.checkout import STATE_DIRECTORY, Checkout
from drqv2_patch.patch.cli import cli
from drqv2_patch.patch.config_edits import ReplayOptions
from drqv2_patch.patch.preflight import require_whole

CHANGED = ["train.py", "dmc.py", "logger.py", "cfgs/config.yaml"]


@pytest.fixture
def checkout(tmp_path):
    path = tmp_path / "checkout"
    small_drqv2.write_checkout(path)
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The one line with which a call is refused."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("drqv2_patch: error: ")
    return line


def files_of(path: Path) -> dict[str, bytes]:
    return {name: data for name, data in small_drqv2.contents(path).items() if STATE_DIRECTORY not in name}


# Applying


def test_apply_makes_the_edits_and_leaves_every_other_line(checkout):
    before = small_drqv2.contents(checkout)
    result = call("apply", checkout, "--mode", "half", "--residency", "ram", "--budget", "2GiB")
    assert result.exit_code == 0
    after = files_of(checkout)
    assert sorted(name for name in before if before[name] != after[name]) == sorted(CHANGED)
    kept = {name: [line for line in before[name].splitlines() if line in after[name].splitlines()] for name in CHANGED}
    assert [len(before[name].splitlines()) - len(kept[name]) for name in CHANGED] == [9, 1, 1, 7]
    train = after["train.py"].decode()
    assert "os.environ.setdefault('MUJOCO_GL', \"glfw\")\n" in train
    assert 'os.environ["MADE_UP"] = "1"\n' in train
    assert "from drqv2_patch import ReplayBufferStorage, make_replay_loader, training  # the buffer\n" in train
    assert "version_base='1.3')\n@training.run\ndef main(cfg):" in train
    assert "_global_step += 1  # one more\n        training.finish(self)\n" in train
    assert "    def train(self):\n        training.start(self)\n        now = " in train
    assert "torch.save" not in train
    assert "torch.load" not in train
    assert not train.endswith("\n")
    config = yaml.safe_load(after["cfgs/config.yaml"])
    assert config["defaults"] == ["_self_", {"task@_global_": "walking"}]
    assert [config[f"replay_{name}"] for name in ("mode", "residency", "budget")] == ["half", "ram", "2GiB"]
    assert (config["resume"], config["snapshot_every_frames"]) == (False, 10000)
    assert config["device"] == "auto"
    assert "launcher" not in config["hydra"]
    assert config["hydra"]["sweep"]["dir"] == "./sweeps/${experiment}"
    assert (checkout / "train.py").stat().st_mode & 0o777 == 0o755
    for name in CHANGED[:3]:
        ast.parse(after[name])


def test_a_true_end_keeps_its_discount_of_0(checkout):
    call("apply", checkout)
    code = (
        "import dmc; env = dmc.make(8, 3, 1); first = env.reset()\n"
        "assert (first.discount, first.reward, env.action_spec().dtype.__name__) == (1.0, 0.0, 'float32')\n"
        "for _ in range(12): now = env.step(first.action)\n"
        "print(now.last(), now.discount, now.action.dtype)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0.0", "float32"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_dry_run_shows_what_apply_does_and_writes_nothing(tmp_path, newline):
    checkout = tmp_path / "checkout"
    before = small_drqv2.write_checkout(checkout, newline)
    result = call("apply", checkout, "--mode", "full", "--dry-run")
    assert result.exit_code == 0
    assert small_drqv2.contents(checkout) == before
    assert "4 files would change" in result.stderr
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy)
    subprocess.run(["git", "apply", "-"], cwd=copy, input=result.stdout_bytes, check=True)
    call("apply", checkout, "--mode", "full")
    assert files_of(copy) == files_of(checkout) != before
    assert all(data.count(b"\n") == data.count(newline.encode()) for data in files_of(checkout).values())
    again = call("apply", checkout, "--dry-run")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "already applied" in again.stderr


def test_apply_again_does_nothing_and_changes_options(checkout):
    before = small_drqv2.contents(checkout)
    call("apply", checkout, "--mode", "full")
    patched = small_drqv2.contents(checkout)
    again = call("apply", checkout, "--mode", "full")
    assert "already applied" in again.stdout
    assert small_drqv2.contents(checkout) == patched
    diff = call("apply", checkout, "--mode", "disk", "--dry-run").stdout
    assert [line[:20] for line in diff.splitlines() if line.startswith(("-", "+"))][2:] == [
        "-replay_mode: full  ",
        "+replay_mode: disk  ",
    ]
    changed = call("apply", checkout, "--mode", "disk")
    assert "options are now mode disk" in changed.stdout
    other = files_of(checkout)
    assert [name for name in other if other[name] != patched[name]] == ["cfgs/config.yaml"]
    call("apply", checkout, "--mode", "full")
    assert files_of(checkout) == {name: data for name, data in patched.items() if STATE_DIRECTORY not in name}
    call("revert", checkout)
    assert small_drqv2.contents(checkout) == before


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_revert_restores_every_byte(tmp_path, newline):
    checkout = tmp_path / "checkout"
    before = small_drqv2.write_checkout(checkout, newline)
    assert "not patched" in call("revert", checkout).stdout
    call("apply", checkout)
    assert small_drqv2.contents(checkout) != before
    assert "restored" in call("revert", checkout).stdout
    assert small_drqv2.contents(checkout) == before
    assert not (checkout / STATE_DIRECTORY).exists()
    assert (checkout / "train.py").stat().st_mode & 0o777 == 0o755
    assert "not patched" in call("revert", checkout).stdout


# Refusing


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("train.py", "from replay_buffer import", "from my_buffer import", "import of ReplayBufferStorage"),
        ("train.py", "make_replay_loader, Rep", "make_replay_loader, Other, Rep", "found from replay_buffer import"),
        ("train.py", "class Workspace", "class Bench", "one class Workspace, found none"),
        ("train.py", "@hydra.main(", "@other.main(", "decorator hydra.main"),
        ("train.py", 'config_name="config")', 'config_name="config", version_base=None)', "without version_base"),
        ("train.py", "specs(), where)", "specs(), where, 3)", "2 arguments to ReplayBufferStorage, found 3"),
        ("train.py", "if self.cfg.save_snapshot:", "if self.cfg.saves:", "condition on cfg.save_snapshot"),
        ("train.py", "def load_snapshot", "def load_it", "one function load_snapshot, found none"),
        ("train.py", "made.load_snapshot()", "pass", "call of load_snapshot in main"),
        ("train.py", "self.timer =", "self.clock =", "an attribute timer"),
        ("train.py", "import torch\n", "import torch\ntraining = 1\n", "no name 'training'"),
        ("train.py", "class Workspace:", "class Workspace", "does not parse"),
        ("dmc.py", "(now.discount or 1.0)", "now.discount", "in the place of a discount with 'or', found none"),
        ("dmc.py", "env = action_scale.Wrapper(", "env = rescale.Wrapper(", "statement env = action_scale.Wrapper"),
        ("dmc.py", "class ActionDTypeWrapper", "class Other", "class ActionDTypeWrapper"),
        ("utils.py", "_start_time", "_began", "_start_time of Timer"),
        (
            "cfgs/config.yaml",
            "replay_buffer_size: 1000",
            "size: 1",
            "the key 'replay_buffer_size', found none",
        ),
        ("cfgs/config.yaml", "seed: 7", "seed: 7\nresume: 1", "no key 'resume', found one at line 17"),
        ("cfgs/config.yaml", "hydra:\n  run:", "hydra:\n  job:\n    x: 1\n  run:", "no key 'job'"),
        ("cfgs/config.yaml", "    dir: ./runs", "    folder: ./runs", "the key 'dir', found none"),
        ("cfgs/config.yaml", "agent:", "agent: [", "YAML"),
    ],
)
def test_a_checkout_that_differs_is_refused(checkout, name, old, new, expected):
    path = checkout / name
    assert path.read_text().count(old) >= 1
    path.write_text(path.read_text().replace(old, new))
    before = small_drqv2.contents(checkout)
    for option in ("--mode=full", "--dry-run"):
        line = refused("apply", checkout, option)
        assert f"error: {name}: expected " in line
        assert expected in line
        assert "found" in line
        assert "docs/drqv2.md" in line
    assert small_drqv2.contents(checkout) == before


def test_wrong_use_is_one_line(checkout, tmp_path):
    before = small_drqv2.contents(checkout)
    assert "'foo' is not one of 'disk', 'half', 'full'" in refused("apply", checkout, "--mode", "foo")
    assert "'lots' is not a size" in refused("apply", checkout, "--budget", "lots")
    assert "found nothing; check the path" in refused("apply", tmp_path / "nowhere")
    assert "found a file" in refused("revert", checkout / "train.py")
    assert "train.py: expected a file of a DrQ-v2 checkout, found none" in refused("apply", tmp_path)
    assert "CHECKOUT" in refused("apply")
    assert "No such command" in refused("appply")
    assert small_drqv2.contents(checkout) == before
    (checkout / "video.py").unlink()
    assert "video.py: expected a file" in refused("apply", checkout)


def test_importing_the_command_loads_nothing_of_weight():
    code = (
        "import sys, drqv2_patch.patch.cli; print([n for n in ('torch', 'numpy', 'zarr', 'hydra') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_is_one_line(checkout):
    code = (
        "import runpy, sys; sys.modules['yaml'] = None; sys.argv[0] = ''\n"
        "runpy.run_module('drqv2_patch', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", code, "apply", str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "drqv2_patch: error: patching a checkout: expected the package yaml, found none;"
        " pip install 'replaystore[drqv2]'"
    ]


# Half patched


@pytest.mark.parametrize("name", CHANGED)
def test_a_half_patched_checkout_is_told_and_can_be_restored(checkout, name):
    before = small_drqv2.contents(checkout)
    call("apply", checkout)
    Checkout(checkout).check_whole()
    (checkout / name).write_bytes(before[name])
    half = small_drqv2.contents(checkout)
    for options in ((), ("--dry-run",), ("--mode", "disk")):
        line = refused("apply", checkout, *options)
        assert f"{checkout / name}: expected it patched" in line
        assert f"python -m drqv2_patch revert {checkout}" in line
    assert small_drqv2.contents(checkout) == half
    with pytest.raises(HalfPatched):
        Checkout(checkout).check_whole()
    call("revert", checkout)
    assert small_drqv2.contents(checkout) == before


def test_edits_since_are_never_lost_unasked(checkout):
    before = small_drqv2.contents(checkout)
    call("apply", checkout)
    for name in ("dmc.py", "train.py"):
        with (checkout / name).open("a") as file:
            file.write("\n# mine\n")
    edited = small_drqv2.contents(checkout)
    Checkout(checkout).check_whole()  # it may train
    assert "edited since" in refused("apply", checkout, "--mode", "disk")
    line = refused("revert", checkout)
    assert "edited since (1 more: " in line
    assert "--discard-edits" in line
    assert small_drqv2.contents(checkout) == edited
    assert call("revert", checkout, "--discard-edits").exit_code == 0
    assert small_drqv2.contents(checkout) == before


def test_a_damaged_copy_or_manifest_is_told(checkout):
    call("apply", checkout)
    kept = checkout / STATE_DIRECTORY / "original" / "dmc.py"
    data = kept.read_bytes()
    patched = files_of(checkout)
    for damage in (data[:-1], b""):
        kept.write_bytes(damage)
        assert "missing or altered" in refused("revert", checkout)
        assert files_of(checkout) == patched
    kept.write_bytes(data)
    manifest = checkout / STATE_DIRECTORY / "manifest.json"
    for text in ("{", "[]", '{"version": 2}', manifest.read_text().replace("dmc.py", "../../dmc.py")):
        whole = manifest.read_text()
        manifest.write_text(text)
        assert "expected the manifest" in refused("revert", checkout)
        assert "expected the manifest" in refused("apply", checkout)
        manifest.write_text(whole)
    assert call("revert", checkout).exit_code == 0


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def kill_at(monkeypatch):
    """Makes the n-th change of a file or directory the last: it happens half, or whole, or not."""
    real = {name: getattr(Path, name) for name in ("replace", "unlink", "mkdir", "open")}
    rmtree = shutil.rmtree

    def arm(count: int | None, when: str) -> None:
        left = [count]

        def dies(function):
            def counted(path, *arguments, **options):
                if function is real["open"] and "w" not in (arguments or ("r",))[0]:
                    return function(path, *arguments, **options)
                if left[0] is not None:
                    left[0] -= 1
                if left[0] == 0:
                    left[0] = None
                    if function is real["open"] and when == "after":
                        function(path, *arguments, **options).close()
                    elif when == "after":
                        function(path, *arguments, **options)
                    elif function is rmtree:  # half
                        next(file for file in Path(path).rglob("*") if file.is_file()).unlink()
                    raise Killed
                return function(path, *arguments, **options)

            return counted

        for name, function in real.items():
            monkeypatch.setattr(Path, name, dies(function))
        monkeypatch.setattr(shutil, "rmtree", dies(rmtree))

    return arm


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("action", ["apply", "update", "revert"])
def test_whatever_is_interrupted_is_told_and_can_be_restored(tmp_path, kill_at, action, when, monkeypatch):
    small_drqv2.write_checkout(tmp_path / "pristine")
    before = small_drqv2.contents(tmp_path / "pristine")
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "pristine", whole)
    Checkout(whole).apply(ReplayOptions(mode="full"))
    full = files_of(whole)
    Checkout(whole).apply(ReplayOptions(mode="disk"))
    disk = files_of(whole)
    points, half = 0, 0
    for count in range(1, 100):
        checkout = tmp_path / f"{count}"
        shutil.copytree(tmp_path / "pristine", checkout)
        target = Checkout(checkout)
        if action != "apply":
            target.apply(ReplayOptions(mode="full"))
        kill_at(count, when)
        try:
            if action == "revert":
                target.revert()
            else:
                target.apply(ReplayOptions(mode="disk" if action == "update" else "full"))
        except Killed:
            points += 1
        else:
            break
        finally:
            monkeypatch.undo()
        found = files_of(checkout)
        assert set(found) == set(before)
        assert all(found[name] in (before[name], full[name], disk[name]) for name in found)
        changed = {name for name in CHANGED if found[name] != before[name]}
        assert not changed or "train.py" in changed  # which then refuses to run
        if 0 < len(changed) < len(CHANGED):
            half += 1
            with pytest.raises(HalfPatched):
                target.check_whole()
            with pytest.raises(HalfPatched, match="revert"):
                target.apply(ReplayOptions())
            assert files_of(checkout) == found
        else:
            target.check_whole()
            if action == "update":
                target.apply(ReplayOptions(mode="disk"))
                assert files_of(checkout) == disk
            else:
                target.apply(ReplayOptions(mode="full"))
                assert files_of(checkout) == full
        target.revert()
        assert small_drqv2.contents(checkout) == before
    assert points >= {"apply": 20, "update": 4, "revert": 10}[action]
    assert half >= {"apply": 6, "update": 0, "revert": 6}[action]


def test_a_leftover_folder_without_manifest_is_no_patch(checkout):
    before = small_drqv2.contents(checkout)
    (checkout / STATE_DIRECTORY / "original").mkdir(parents=True)
    (checkout / STATE_DIRECTORY / "original" / "train.py").write_text("old")
    assert "not patched" in call("revert", checkout).stdout
    assert small_drqv2.contents(checkout) == before
    assert isinstance(HalfPatched(""), PatchError)


# The command line of a patched train.py


def run_guard(checkout, monkeypatch, capsys, *arguments: str) -> list[str]:
    """The lines with which training is refused."""
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        require_whole(str(checkout / "train.py"))
    return capsys.readouterr().err.splitlines()


def test_an_unknown_task_is_told_in_one_line(checkout, monkeypatch, capsys):
    call("apply", checkout)
    for good in ((), ("task@_global_=walking",), ("task@_global_=walking,walking", "seed=3"), ("other=task",)):
        monkeypatch.setattr(sys, "argv", ["train.py", *good])
        require_whole(str(checkout / "train.py"))
    (line,) = run_guard(checkout, monkeypatch, capsys, "seed=3", "task@_global_=walkng")
    assert line.startswith("train.py: error: task@_global_=walkng: expected one of 1 tasks in")
    assert line.endswith("found 'walkng'; try walking")
    (line,) = run_guard(checkout, monkeypatch, capsys, "task=walking")
    assert line == "train.py: error: task=walking: expected task@_global_=walking, as Hydra 1.3 takes it"


def test_a_gpu_that_is_not_there_is_told_before_anything_is_made(checkout, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    call("apply", checkout)
    before = small_drqv2.contents(checkout)
    (line,) = run_guard(checkout, monkeypatch, capsys, "seed=3", "device=cuda")
    assert line == ("train.py: error: device: expected a CUDA device that torch can use, found none; pass device=cpu")
    for other in ((), ("device=cuda", "device=cpu"), ("device=cuda", "--cfg=job"), ("device=cuda,cpu",)):
        monkeypatch.setattr(sys, "argv", ["train.py", *other])
        require_whole(str(checkout / "train.py"))
    config = checkout / "cfgs" / "config.yaml"
    config.write_text(config.read_text().replace("device: auto", "device: cuda:1"))
    (line,) = run_guard(checkout, monkeypatch, capsys)
    assert "found none; pass device=cpu" in line
    monkeypatch.setattr(sys, "argv", ["train.py", "device=auto"])
    require_whole(str(checkout / "train.py"))
    config.write_text("a: [")  # for Hydra to report
    require_whole(str(checkout / "train.py"))
    assert set(small_drqv2.contents(checkout)) == set(before)


def test_a_device_that_was_chosen_already_stays(tmp_path):
    path = tmp_path / "checkout"
    small_drqv2.write_checkout(path)
    config = path / "cfgs" / "config.yaml"
    config.write_text(config.read_text().replace("device: cuda", "device: cpu"))
    call("apply", path)
    assert yaml.safe_load(config.read_text())["device"] == "cpu"
