"""Kernels take addresses only of arrays that their caller keeps, because numba frees a local array too early."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import replaystore
from replaystore.kernels.compiled import kernel

PACKAGE = Path(replaystore.__file__).parent
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if "@kernel" in (text := path.read_text()) or "@inlined" in text
)


def is_compiled(function: ast.FunctionDef) -> bool:
    return any(isinstance(found, ast.Name) and found.id in ("kernel", "inlined") for found in function.decorator_list)


def root_of(expression: ast.expr) -> str | None:
    while isinstance(expression, ast.Attribute | ast.Subscript):
        expression = expression.value
    return expression.id if isinstance(expression, ast.Name) else None


def wrong_addresses(source: str) -> list[str]:
    """Lines that take the address of something that is neither a parameter nor a part of one."""
    wrong = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or not is_compiled(function):
            continue
        kept = {argument.arg for argument in function.args.args}
        for statement in ast.walk(function):
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Subscript | ast.Attribute):
                targets = [target for target in statement.targets if isinstance(target, ast.Name)]
                kept |= {target.id for target in targets if root_of(statement.value) in kept}
        wrong += [
            f"{function.name}, line {found.lineno}"
            for found in ast.walk(function)
            if isinstance(found, ast.Attribute) and found.attr == "ctypes" and root_of(found.value) not in kept
        ]
    return wrong


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_addresses_are_of_parameters(module):
    assert not wrong_addresses(module.read_text())


def test_the_rule_finds_a_local_array():
    source = (
        "@kernel\ndef f(a, n):\n    b = np.zeros(n)\n    c = a[1:]\n    return a.ctypes.data + c.ctypes.data + {}\n"
    )
    assert not wrong_addresses(source.format("a.part.ctypes.data"))
    assert wrong_addresses(source.format("b.ctypes.data")) == ["f, line 5"]


@kernel
def _reused(size):
    """How often a new array gets the memory of an array whose address was taken, and which is not named any more."""
    array = np.zeros(size, np.uint8)
    first = np.int64(array.ctypes.data)
    count = 0
    for _ in range(4):
        count += np.int64(np.zeros(size, np.uint8).ctypes.data) == first
    return count


def test_why_there_is_a_rule():
    """If this fails, numba keeps such arrays now."""
    assert _reused(144) > 0
