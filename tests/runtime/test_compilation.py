"""Compilation of kernels: seen, kept where it can be, and never fatal."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import replaystore

PACKAGE = Path(replaystore.__file__).parent
USE_STORES = """
import json, sys, tempfile
import numpy as np
from replaystore import FieldSpec, ReplayStore, Sampler
from replaystore.runtime.compilation import compiled
fields = [
    FieldSpec.image("observation", (3, 8, 8), frame_stack=3),
    FieldSpec(name="action", shape=(6,), dtype="float32", role="action"),
    FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
    FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
]
frames = (np.arange(20)[:, None, None, None] * np.ones((3, 8, 8), np.int64)).astype(np.uint8)
sums = []
for mode in sys.argv[2:]:
    with ReplayStore.create(f"{sys.argv[1]}/{mode}", fields, mode=mode, chunk_rows=8) as store:
        store.append({
            "observation": frames,
            "action": np.zeros((20, 6), np.float32),
            "reward": np.arange(20, dtype=np.float32)[:, None],
            "discount": np.ones((20, 1), np.float32),
        })
        store.flush()
        for seed in range(20):
            batch = store.gather(store.draw(Sampler(n_step=3), np.random.default_rng(seed), 16), n_step=3)
        newest = batch["observation"].reshape(16, 3, 3, 8, 8)[:, -1, 0, 0, 0].astype(int)
        # The reward of row i, number i, and of the two behind it, one frame after the observation.
        expected = [sum(0.99**k * (row + 1 + k) for k in range(3)) for row in newest]
        assert np.allclose(batch["reward"].ravel(), expected)
print(json.dumps([entry.kernel for entry in compiled()]))
"""


def run(code: str, *arguments: object, package: Path = PACKAGE, prefix: tuple[str, ...] = (), **variables: str):
    """What `code` prints as JSON, and its stderr, with `variables` in place of what says where caches are."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    environment = {**kept, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=package.parent, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture
def copied_package(tmp_path):
    """A copy of the package without anything compiled."""
    copy = tmp_path / "site" / "replaystore"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def make_read_only(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH | (0o111 if path.is_dir() else 0))


def without_privileges() -> tuple[str, ...]:
    """A command before a command, so that permissions hold for it; root is not bound by them."""
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("run as root, whom no permission stops, and there is no setpriv to run a command as another user")
    prefix = (setpriv, "--reuid=65534", "--regid=65534", "--clear-groups")
    seen = subprocess.run([*prefix, sys.executable, "-c", "import numba, zarr"], capture_output=True, check=False)
    if seen.returncode != 0:
        pytest.skip("run as root, and another user cannot read this Python's packages")
    return prefix


@pytest.fixture
def open_directory():
    """A directory that any user can write, not below one that only its owner can enter."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        yield Path(directory)


def test_a_read_only_install_without_a_home_works_with_one_warning(open_directory):
    prefix = without_privileges()
    copy = open_directory / "site" / "replaystore"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    make_read_only(copy.parent)
    stores = open_directory / "stores"
    stores.mkdir()
    stores.chmod(0o777)
    try:
        compiled, errors = run(USE_STORES, stores, "half", package=copy, prefix=prefix, HOME="/nonexistent")
        assert "row_copies.copy_windows" in compiled
        assert errors.count("\n") == 1
        assert "compiled kernels are kept in memory only" in errors
        assert "NUMBA_CACHE_DIR" in errors
        # With a directory to write, the kernels are kept there.
        cache = open_directory / "cache"
        cache.mkdir()
        cache.chmod(0o777)
        where = {"HOME": "/nonexistent", "NUMBA_CACHE_DIR": str(cache)}
        shutil.rmtree(stores / "half")
        _, errors = run(USE_STORES, stores, "half", package=copy, prefix=prefix, **where)
        assert str(cache) in errors
        assert "memory only" not in errors
        shutil.rmtree(stores / "half")
        assert run(USE_STORES, stores, "half", package=copy, prefix=prefix, **where) == ([], "")
    finally:
        for path in (copy.parent, *copy.parent.rglob("*")):
            path.chmod(0o755)


def test_damaged_files_in_the_cache_are_replaced(copied_package, tmp_path):
    cache = tmp_path / "cache"
    (tmp_path / "a").mkdir()
    first, _ = run(USE_STORES, tmp_path / "a", "half", package=copied_package, NUMBA_CACHE_DIR=str(cache))
    indexes, codes = sorted(cache.rglob("*.nbi")), sorted(cache.rglob("*.nbc"))
    assert len(codes) == len(first)
    for number, path in enumerate(indexes):
        if path.name.startswith("row_copies."):
            path.write_bytes(b"" if number % 2 else path.read_bytes()[:20])
    for path in codes:
        if path.name.startswith(("windows.", "drawn_rows.", "returns.", "memory_maps.")):
            path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "b").mkdir()
    again, errors = run(USE_STORES, tmp_path / "b", "half", package=copied_package, NUMBA_CACHE_DIR=str(cache))
    assert set(again) == set(first)  # all kernels of this mode are in those modules
    assert "memory only" not in errors
    (tmp_path / "c").mkdir()
    assert run(USE_STORES, tmp_path / "c", "half", package=copied_package, NUMBA_CACHE_DIR=str(cache)) == ([], "")


def test_a_changed_callee_in_another_file_makes_a_cache_stale(copied_package, tmp_path):
    kernels = copied_package / "kernels"
    (kernels / "callee.py").write_text(
        "from replaystore.kernels.compiled import kernel\n\n\n@kernel\ndef callee():\n    return 1\n"
    )
    (kernels / "caller.py").write_text(
        "from replaystore.kernels.callee import callee\nfrom replaystore.kernels.compiled import kernel\n\n\n"
        "@kernel\ndef caller():\n    return callee()\n"
    )
    code = "from replaystore.kernels.caller import caller; print(caller())"
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert run(code, package=copied_package, **cache)[0] == 1
    callee = kernels / "callee.py"
    callee.write_text(callee.read_text().replace("return 1", "return 2"))
    assert run(code, package=copied_package, **cache)[0] == 2


def test_a_cache_that_can_no_longer_be_written_warns_and_compiles(copied_package, tmp_path):
    code = f"""
import json, shutil
from pathlib import Path
from replaystore.kernels.compiled import kernel
import replaystore.kernels.compiled as compiled
function = kernel(compiled.probe.py_func)
cache = Path({str(tmp_path / "cache")!r})
shutil.rmtree(cache)
cache.write_text("no directory")
function()
print(json.dumps(1))
"""
    _, errors = run(code, package=copied_package, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert errors.count("could not be") == 1
    assert "compiled kernels are kept in memory only" in errors


WATCH = """
import json, logging, sys
from replaystore.runtime.compilation import show_compilation
from replaystore.kernels.compiled import kernel
import replaystore.kernels.compiled as compiled
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s")
shown = []
with show_compilation(shown.append):
    compiled.probe()
    compiled.probe()
print(json.dumps(shown))
"""


def test_compilation_is_logged_and_shown_once(copied_package, tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    shown, errors = run(WATCH, package=copied_package, **cache)
    assert len(shown) == 2
    assert shown[0].endswith("compiled.probe")
    assert shown[1] is None
    lines = errors.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("replaystore.kernels INFO compiling kernels")
    assert lines[1] == "replaystore.kernels INFO compiling compiled.probe"
    assert lines[2].startswith("replaystore.kernels INFO compiled compiled.probe in ")
    assert run(WATCH, package=copied_package, **cache) == ([], "")  # from the cache


def test_a_failure_to_compile_ends_what_is_shown(copied_package, tmp_path):
    code = """
import json
from replaystore.runtime.compilation import show_compilation
from replaystore.kernels.compiled import kernel
shown = []
def wrong(): return no_such_name
import numba
with show_compilation(shown.append):
    try: kernel(wrong)()
    except numba.TypingError: pass
print(json.dumps(shown))
"""
    code_file = tmp_path / "wrong.py"
    code_file.write_text(code)
    shown, _ = run(
        f"exec(compile(open({str(code_file)!r}).read(), {str(code_file)!r}, 'exec'))", package=copied_package
    )
    assert len(shown) == 2
    assert shown[1] is None


@pytest.mark.timeout(600)
def test_after_a_warm_up_nothing_is_compiled(tmp_path):
    # In the cache that the tests use, which may be full already; then the other assertion is all there is.
    cli = [sys.executable, "-m", "replaystore", "warmup", "--json"]
    done = subprocess.run(cli, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["trouble"] is None
    assert Path(found["cache_directory"]).is_dir()
    done = subprocess.run(
        [sys.executable, "-c", USE_STORES, str(tmp_path), "disk", "half", "full"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == []
    done = subprocess.run(cli, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["compiled"] == []
