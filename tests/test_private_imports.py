"""Nothing here leans on a private module of a dependency: it may be gone in the next minor version."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import replaystore

ROOT = Path(replaystore.__file__).parent.parent
PACKAGES = ("replaystore", "drqv2_patch", "experiments")
# Private by what their documentation says, not by their names.
PRIVATE = ("zarr.core", "numba.core", "numpy.core", "pandas.core", "xarray.core")


def _files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _dotted(node: ast.expr, known: dict[str, str]) -> str | None:
    """What a chain of attributes of an imported name reaches."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value, known)
        return base and f"{base}.{node.attr}"
    return None


def _reached(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted path of everything imported, and of every attribute of what is imported."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                known[alias.asname or top] = alias.name if alias.asname else top
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield node.lineno, f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (path := _dotted(node, known)):
            yield node.lineno, path
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def private_uses(source: str) -> list[str]:
    """Line and path of each use of what a dependency keeps private."""
    found = []
    for line, path in _reached(ast.parse(source)):
        parts = path.split(".")
        if parts[0] in PACKAGES or parts[0] in sys.stdlib_module_names:
            continue
        hidden = any(part.startswith("_") and not part.startswith("__") for part in parts)
        if hidden or any(path == name or path.startswith(f"{name}.") for name in PRIVATE):
            found.append(f"line {line}: {path}")
    return found


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_public_modules_of_dependencies(path: Path) -> None:
    assert not private_uses(path.read_text()), "use what the dependency documents"


@pytest.mark.parametrize(
    "source",
    [
        "from zarr.core.array_spec import ArraySpec",
        "from zarr import core",
        "import zarr.core.buffer as buffer",
        "import zarr\nzarr.core.chunk_grids",
        "def f():\n    from numba.core import cgutils",
        "import numpy as np\nnp._core.multiarray",
        "from numpy import _core",
        "import torch._dynamo",
        "import torch\ntorch._C._cuda_init()",
        "from omegaconf import OmegaConf\nOmegaConf._hidden",
        "import importlib\nimportlib.import_module('zarr.core.sync')",
    ],
)
def test_a_private_use_is_found(source: str) -> None:
    assert private_uses(source)


@pytest.mark.parametrize(
    "source",
    [
        "from zarr.abc.codec import ArrayBytesCodec",
        "import zarr\nzarr.__version__",
        "import os\nos._exit(0)",
        "from replaystore.storage import layout\nlayout._HEAD",
        "import numba\nnumba.corelike",
        "self._core.x",
    ],
)
def test_a_public_use_is_none(source: str) -> None:
    assert not private_uses(source)


def test_all_packages_are_read() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in _files()}
    assert names == set(PACKAGES)
