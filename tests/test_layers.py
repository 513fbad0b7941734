"""Data flows one way: a module imports only from the layers on its left."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import replaystore

ROOT = Path(replaystore.__file__).parent

# Left to right, as in docs/design.md. A package is one layer; modules of a layer may import each other.
LAYERS = [
    {"errors", "extras", "kernels"},
    {"spec", "codecs"},
    {"stacks", "row_blocks", "episode", "npz", "memory", "scheduling", "compilation"},
    {"index_snapshot", "index"},
    {"storage"},
    {"sampler"},
    {"gather", "recorder"},
    {"store"},
    {"loader"},
    {"convert", "collect", "plan", "sb3", "warmup"},
    {"bench"},
    {"cli"},
    {"__main__"},
]
TORCH_USERS = {"loader", "sb3"}


def _modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def _room(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_the_left(path: Path) -> None:
    room = _room(path)
    level = next((number for number, layer in enumerate(LAYERS) if room in layer), None)
    assert level is not None, f"{room} stands in no layer: add it to docs/design.md and to this test"
    allowed = set().union(*LAYERS[: level + 1])
    inside = {name.split(".")[1] for name in _imports(path) if name.startswith("replaystore.")}
    known = {name for name in inside if any(name in layer for layer in LAYERS)}
    assert known <= allowed, f"{room} imports from its right: {sorted(known - allowed)}"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_kernels_import_nothing_of_the_package_and_only_the_loader_imports_torch(path: Path) -> None:
    imports = _imports(path)
    if _room(path) == "kernels":
        inside = {name for name in imports if name.startswith("replaystore")}
        assert all(name.startswith("replaystore.kernels") for name in inside)
    if _room(path) not in TORCH_USERS:
        assert not any(name.split(".")[0] == "torch" for name in imports)


@pytest.mark.parametrize("package", ["drqv2_patch"])
def test_edge_packages_use_the_public_interface(package: str) -> None:
    hidden = {"replaystore.storage", "replaystore.kernels", "replaystore.recorder", "replaystore.gather"}
    for path in (ROOT.parent / package).rglob("*.py"):
        assert not {name for name in _imports(path) if any(name.startswith(room) for room in hidden)}, path


def test_importing_the_package_loads_nothing_of_weight() -> None:
    heavy = ("torch", "zarr", "numba", "numcodecs", "numpy", "matplotlib", "click")
    code = f"import sys, replaystore; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
