"""Tests see what users and other rooms see: no test reads, patches or imports a private name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# Public in spite of their underscore.
PUBLIC = {"_replace", "_fields", "_asdict", "_make", "_exit"}
PATCHES = {"getattr", "setattr", "hasattr", "delattr", "delitem"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def private_reads(source: str) -> Iterator[tuple[int, str]]:
    """Lines that read a private name of something else than `self` or `cls`, and the name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            texts = [name.rpartition(".")[2] for name in names if isinstance(name, str)]
            yield from ((node.lineno, text) for text in texts if function in PATCHES and is_private(text))


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_private_name_is_read(path: Path) -> None:
    found = [f"{path}:{line}: {name}" for line, name in private_reads(path.read_text())]
    assert not found, f"test through public names, or make the name public in its module: {found}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("store._reading.cache", "_reading"),
        ("from replaystore.store import _open_stores", "_open_stores"),
        ("monkeypatch.setattr(module, '_LIMIT', 3)", "_LIMIT"),
        ("monkeypatch.setattr('replaystore.bench.paging._LIMIT', 3)", "_LIMIT"),
        ("getattr(store, '_closed')", "_closed"),
    ],
)
def test_a_private_name_is_found(source: str, name: str) -> None:
    assert list(private_reads(source)) == [(1, name)]


@pytest.mark.parametrize("source", ["self._mine", "os._exit(0)", "point._replace(x=1)", "a.__class__", "print('_x')"])
def test_other_names_are_not(source: str) -> None:
    assert not list(private_reads(source))
