"""Data flows one way: a room imports only from its own layer and from those before it. `layers.toml` has the layers."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import replaystore

ROOT = Path(replaystore.__file__).parent
PROJECT = ROOT.parent
LAYERS = tomllib.loads((PROJECT / "layers.toml").read_text())
ROOMS = [layer["rooms"] for layer in LAYERS["layer"]]
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def _modules(package: Path) -> list[Path]:
    return sorted(path for path in package.rglob("*.py") if path != ROOT / "__init__.py")


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Modules, and names in modules, that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _rooms_of(imports: set[str]) -> set[str]:
    """The rooms among them; names that the package itself exports are in none."""
    return {name.split(".")[1] for name in imports if name.startswith("replaystore.")} - {*replaystore.__all__}


def test_every_room_has_one_layer() -> None:
    assert {_room(path) for path in _modules(ROOT)} - {"__main__"} == {*LEVELS} - _rooms_to_come()
    assert len(LEVELS) == sum(map(len, ROOMS))


def test_the_design_page_shows_the_layers() -> None:
    page = " ".join((PROJECT / "docs" / "design.md").read_text().split())
    assert " -> ".join(", ".join(rooms) for rooms in ROOMS) in page


def _rooms_to_come() -> set[str]:
    return {room for room in LEVELS if not (ROOT / room).exists() and not (ROOT / f"{room}.py").exists()}


@pytest.mark.parametrize("path", _modules(ROOT), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    room = _room(path)
    level = LEVELS.get(room, len(ROOMS))  # __main__ stands behind all of them
    imports = _imports(path)
    behind = {name for name in _rooms_of(imports) if LEVELS[name] > level}
    assert not behind, f"{room} imports rooms behind it: {sorted(behind)}; see layers.toml"
    hidden = _rooms_of(imports) & {*LAYERS["edges"]["imported_by_nobody"]} - {room}
    assert room == "__main__" or not hidden, f"{room} imports {sorted(hidden)}, which stand alone"
    if room == "kernels":
        assert all(name.startswith("replaystore.kernels") for name in imports if name.startswith("replaystore"))
    if room not in LAYERS["torch"]["rooms"]:
        assert not any(name.split(".")[0] == "torch" for name in imports)


@pytest.mark.parametrize("package", LAYERS["outside"])
def test_packages_beside_it_use_the_public_interface(package: str) -> None:
    allowed, modules = (tuple(LAYERS["outside"][package][kind]) for kind in ("rooms", "modules"))
    for path in _modules(PROJECT / package):
        imports = {name for name in _imports(path) if not name.startswith(modules)}
        private = _rooms_of(imports) - {*allowed}
        assert not private, f"{path}: imports {sorted(private)} of replaystore; see layers.toml"
        assert not any("._" in name for name in imports if name.startswith("replaystore")), path


def test_importing_the_package_loads_nothing_of_weight() -> None:
    heavy = ("torch", "zarr", "numba", "numcodecs", "numpy", "matplotlib", "click")
    code = f"import sys, replaystore; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
