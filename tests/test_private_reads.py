"""Tests see what users and other rooms see: no test reads, patches or imports a private name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# Public in spite of their underscore.
PUBLIC = {"_replace", "_fields", "_asdict", "_make", "_exit"}
OWN = ("self", "cls")
PATCHES = {"getattr", "setattr", "hasattr", "delattr", "delitem"}


def private_parts(dotted: str) -> list[str]:
    return [name for name in dotted.split(".") if name[:1] == "_" and name[:2] != "__" and name not in PUBLIC]


def private_reads(source: str) -> Iterator[tuple[int, str]]:
    """Lines that read a private name of something else than `self` or `cls`, and the name."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id in OWN):
            names = [node.attr]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in PATCHES:  # the name is the first or the second argument
                names = [str(part.value) for part in node.args[:2] if isinstance(part, ast.Constant)]
        yield from ((node.lineno, part) for name in names for part in private_parts(name))


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_private_name_is_read(path: Path) -> None:
    found = [f"{path}:{line}: {name}" for line, name in private_reads(path.read_text())]
    assert not found, f"test through public names, or make the name public in its module: {found}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("store._reading.cache", "_reading"),
        ("open_store().path[0]._hidden", "_hidden"),
        ("from replaystore.store import _open_stores", "_open_stores"),
        ("from replaystore._hidden import name", "_hidden"),
        ("import replaystore._hidden", "_hidden"),
        ("monkeypatch.setattr(module, '_LIMIT', 3)", "_LIMIT"),
        ("monkeypatch.setattr('replaystore.bench.paging._LIMIT', 3)", "_LIMIT"),
        ("monkeypatch.setattr('replaystore.bench.paging._Run.stop', 3)", "_Run"),
        ("getattr(store, '_closed')", "_closed"),
    ],
)
def test_a_private_name_is_found(source: str, name: str) -> None:
    assert list(private_reads(source)) == [(1, name)]


@pytest.mark.parametrize(
    "source",
    [
        "self._mine",
        "cls._mine",
        "os._exit(0)",
        "point._replace(x=1)",
        "a.__class__",
        "from __future__ import annotations",
        "print('_x')",
        "setattr(point, 'label', '_x')",
    ],
)
def test_other_names_are_not(source: str) -> None:
    assert not list(private_reads(source))
