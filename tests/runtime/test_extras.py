"""The core runs without any optional package; what needs one says so in one line, with an extra that there is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from replaystore.errors import MissingDependency
from replaystore.runtime.extras import install_command, needs, require

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CODE = [path for room in ("replaystore", "drqv2_patch", "experiments") for path in sorted((ROOT / room).rglob("*.py"))]
PAGES = [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").rglob("*.md")]
HINT = re.compile(r"(?:replaystore|REPLAYSTORE|['\"]\.)\[([a-z0-9_, -]+)\]")

# The distribution of a package that is called otherwise, and the extras that bring one with another of theirs.
DISTRIBUTIONS = {
    "google_crc32c": "google-crc32c", "dm_control": "dm-control", "stable_baselines3": "stable-baselines3",
    "sb3_contrib": "sb3-contrib",
    "sb3_extra_buffers": "sb3-extra-buffers", "ale_py": "ale-py", "cv2": "opencv-python-headless", "yaml": "pyyaml",
    "hydra": "hydra-core", "omegaconf": "hydra-core", "tensordict": "torchrl", "llvmlite": "numba",
}  # fmt: skip
BROUGHT = {"gymnasium": {"sb3", "peers"}}

BLOCKED = ("torch", "zarr", "matplotlib", "jinja2", "psutil", "rich", "stable_baselines3", "gymnasium", "dm_control",
           "hydra", "omegaconf", "yaml", "cramjam")  # fmt: skip
BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def names_of(requirements):
    """The distributions that requirements name, those of other extras of this project included."""
    names = set()
    for requirement in requirements:
        name, brackets = re.match(r"([A-Za-z0-9._-]+)(?:\[([a-z0-9,]+)\])?", requirement).groups()
        if name == "replaystore":
            for extra in brackets.split(","):
                names |= names_of(EXTRAS[extra])
        else:
            names.add(name)
    return names


CORE = names_of(PROJECT["dependencies"])


def provided(package, extras):
    distribution = DISTRIBUTIONS.get(package, package)
    return any(distribution in names_of(EXTRAS[extra]) or extra in BROUGHT.get(package, ()) for extra in extras)


def packages_of(node):
    """The packages from elsewhere that an import names."""
    if isinstance(node, ast.Import):
        names = {alias.name.partition(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
        names = {node.module.partition(".")[0]}
    else:
        names = set()
    return names - sys.stdlib_module_names - {"replaystore", "drqv2_patch", "experiments"}


def calls(tree, *functions):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            yield node, [argument.value for argument in node.args if isinstance(argument, ast.Constant)]


def guarded_by(path):
    """The distributions that a room's first module imports under `needs`, before any other module of the room."""
    found = set()
    for node in ast.parse(path.read_text()).body if path.exists() else []:
        if isinstance(node, ast.With) and any(calls(node.items[0].context_expr, "needs")):
            found |= {package for part in node.body for package in packages_of(part)}
    return {DISTRIBUTIONS.get(package, package) for package in found}


def run(code, *arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-c", BLOCKER + code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


def run_module(module, *arguments):
    code = f"import runpy; sys.argv[0] = ''; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return run(code, *arguments)


# What is written


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_extras_that_are_named_exist(path):
    text = path.read_text()
    hints = [extra.strip() for found in HINT.findall(text) for extra in found.split(",")]
    if path.suffix == ".py":
        tree = ast.parse(text)
        hints += [extra for _, (_, *extras) in calls(tree, "needs") for extra in extras]
        hints += [extra for _, extras in calls(tree, "install_command") for extra in extras]
        hints += [arguments[1] for _, arguments in calls(tree, "require")]
    if path.name != "extras.py":
        assert set(hints) <= EXTRAS.keys()


def test_hints_are_found():
    hints = {hint for path in [*CODE, *PAGES] for hint in HINT.findall(path.read_text())}
    assert {"dmc", "bench", "peers", "dmc,drqv2", "torch,bench"} <= hints


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_import_is_of_the_core_or_of_an_extra_that_is_named_with_it(path):
    tree = ast.parse(path.read_text())
    guarded = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            for call, (_, *extras) in calls(node.items[0].context_expr, "needs"):
                for inner in (each for part in node.body for each in ast.walk(part)):
                    guarded.add(inner)
                    for package in packages_of(inner):
                        assert DISTRIBUTIONS.get(package, package) in CORE or provided(package, extras), (
                            f"line {call.lineno}: {package} is not in {extras}"
                        )
    for _, (_, extra, *packages) in calls(tree, "require"):
        for package in packages:
            assert provided(package, [extra])
    if path.is_relative_to(ROOT / "experiments"):
        return  # commands enclose what they import
    allowed = CORE | guarded_by(path.parent / "__init__.py")
    for node in tree.body:
        if node not in guarded:
            assert {DISTRIBUTIONS.get(package, package) for package in packages_of(node)} <= allowed, ast.unparse(node)


def test_every_package_imported_anywhere_in_the_package_is_in_the_core_or_an_extra():
    found = set()
    for path in (path for path in CODE if path.is_relative_to(ROOT / "replaystore")):
        found |= {name for node in ast.walk(ast.parse(path.read_text())) for name in packages_of(node)}
    everything = CORE.union(*(names_of(requirements) for requirements in EXTRAS.values()))
    unknown = {package for package in found if DISTRIBUTIONS.get(package, package) not in everything}
    assert unknown <= {"dm_env"} | BROUGHT.keys()


def test_extras_that_need_torch_include_it():
    for extra in ("drqv2", "sb3", "peers", "test"):
        assert "torch" in names_of(EXTRAS[extra])


def test_what_make_installs_is_all_that_tests_and_demo_need():
    installed = set(re.search(r"-e '\.\[([a-z0-9,]+)\]'", (ROOT / "Makefile").read_text())[1].split(","))
    assert {"bench", "dmc", "drqv2", "test", "torch"} <= installed


# The core, with everything optional blocked

CORE_USE = """
import numpy as np
from pathlib import Path
from replaystore import FieldSpec, ReplayStore, Sampler
root = Path(sys.argv[1])
fields = [
    FieldSpec.image("observation", (3, 16, 16), frame_stack=2),
    FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
    FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
    FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
]
frames = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16), dtype=np.uint8)
episode = {
    "observation": frames, "action": np.zeros((20, 2), np.float32), "reward": np.arange(20, dtype=np.float32)[:, None],
    "discount": np.ones((20, 1), np.float32),
}
with ReplayStore.create(root / "store", fields, mode="full", chunk_rows=8) as store:
    store.append(episode)
    rows = store.draw(Sampler(n_step=1), np.random.default_rng(0), 5)
    batch = store.gather(rows, n_step=1)
    # Self-identifying: the reward of row i is i, and its observation ends in frame i - 1.
    for reward, observation in zip(batch["reward"][:, 0], batch["observation"], strict=True):
        assert np.array_equal(observation[3:], frames[int(reward) - 1])
    assert not store.verify().problems
print("used", sorted(name for name in sys.modules if name in BLOCKED))
"""


def test_the_store_works_with_nothing_but_the_core(tmp_path):
    done = run(f"BLOCKED = {BLOCKED!r}\n" + CORE_USE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "used []"


def test_the_commands_of_the_core_work_with_nothing_but_the_core(tmp_path):
    episodes = ROOT / "experiments" / "recorded" / "walker_walk"
    code = "from replaystore.cli import main; main()"
    for arguments in (
        ("convert", episodes, tmp_path / "store"),
        ("info", tmp_path / "store"),
        ("verify", tmp_path / "store"),
        ("--progress", "export", tmp_path / "store", tmp_path / "back"),
        ("plan", episodes, "--capacity", "1000", "--budget", "1GiB"),
        ("bench", "sample", "--help"),
    ):
        done = run(code, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    for path in episodes.glob("*.npz"):
        assert (tmp_path / "back" / path.name).exists()


def test_importing_loads_nothing_but_itself():
    code = "import sys; before = set(sys.modules); import replaystore; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ast.literal_eval(done.stdout)}
    assert loaded - sys.stdlib_module_names == {"replaystore"}


# What is missing is one line


@pytest.mark.parametrize(
    ("code", "package", "extra"),
    [
        ("from replaystore import ReplayLoader", "torch", "torch"),
        ("from replaystore import ReplayDataset", "torch", "torch"),
        ("import replaystore.adapters.sb3", "torch", "sb3"),
        ("from drqv2_patch import make_replay_loader", "torch", "torch"),
        ("import drqv2_patch.snapshot", "torch", "drqv2"),
        ("import drqv2_patch.runs", "omegaconf", "drqv2"),
        ("from replaystore.collect import ensure_rendering; ensure_rendering()", "dm_control", "dmc"),
        ("import replaystore.bench.report", "matplotlib", "bench"),
        ("import replaystore.bench.sample", "psutil", "bench"),
    ],
)
def test_the_interface_names_the_extra(code, package, extra):
    done = run(
        f"from replaystore.errors import MissingDependency\ntry: {code}\nexcept MissingDependency as e: print(e)"
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.endswith(f"expected the package {package}, found none; {install_command(extra)}")


@pytest.mark.parametrize(
    ("module", "arguments", "package", "extras"),
    [
        ("replaystore", ("collect", "walker_walk", "OUT"), "dm_control", ["dmc"]),
        ("replaystore", ("bench", "sample", "."), "matplotlib", ["bench"]),
        ("replaystore", ("bench", "write", "."), "matplotlib", ["bench"]),
        ("replaystore", ("bench", "stages", "."), "matplotlib", ["bench"]),
        ("replaystore", ("bench", "paging", ".", "--work-dir", "OUT"), "matplotlib", ["bench"]),
        ("drqv2_patch", ("apply", "."), "yaml", ["drqv2"]),
        ("experiments.workloads", ("atari", "OUT"), "gymnasium", ["atari"]),
        ("experiments.workloads", ("humanoid", "OUT"), "gymnasium", ["humanoid"]),
        ("experiments.demo", ("OUT",), "rich", ["bench", "dmc"]),
        ("experiments.device.__main__", (), "rich", ["bench"]),
        ("experiments.growth.__main__", (), "psutil", ["bench", "torch"]),
        ("experiments.prefetch", (), "torch", ["bench", "torch"]),
        ("experiments.benchmarks.__main__", (), "rich", ["peers"]),
        ("experiments.benchmarks.sample", (), "torch", ["peers"]),
        ("experiments.difference_picture", (), "matplotlib", ["bench"]),
        ("experiments.drqv2.train", (), None, None),
        ("experiments.drqv2.latency", (), None, None),
        ("experiments.drqv2.learning_curves", (), None, None),
        ("experiments.drqv2.published_table", (), None, None),
        ("experiments.drqv2.same_learning", (), None, None),
        ("experiments.drqv2.theoretical_factor", (), None, None),
    ],
)
def test_a_command_names_the_extra_in_one_line(module, arguments, package, extras, tmp_path):
    arguments = [str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments]
    done = run_module(module, *arguments)
    (line,) = done.stderr.splitlines()
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert "error: " in line
    if package is not None and module != "experiments.workloads":
        assert f"expected the package {package}, found none" in line
    assert install_command(*extras) in line if extras else "; pip install 'replaystore[" in line
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_fault_of_this_project_is_not_taken_for_a_missing_package():
    with pytest.raises(ImportError, match="no_such_name") as caught, needs("work", "bench"):
        from replaystore.errors import no_such_name  # noqa: F401
    assert not isinstance(caught.value, MissingDependency)
    with pytest.raises(ModuleNotFoundError) as missing, needs("work", "bench"):
        import replaystore.no_such_module  # noqa: F401
    assert not isinstance(missing.value, MissingDependency)


def test_a_package_that_does_not_load_says_why_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise ImportError('libbroken.so:\\n not there', name=__name__)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency) as caught, needs("work", "bench"):
        import broken_package  # noqa: F401
    expected = "work: expected broken_package to load, found libbroken.so: not there; pip install 'replaystore[bench]'"
    assert str(caught.value) == expected


def test_requiring_finds_without_importing(monkeypatch):
    require("work", "bench", "this", "json")
    assert "this" not in sys.modules
    with pytest.raises(MissingDependency, match=r"work: expected the package no_such_package, found none; pip"):
        require("work", "bench", "json", "no_such_package")
