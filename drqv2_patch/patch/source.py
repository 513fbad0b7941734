"""Edits of source files at positions found in their syntax trees. All other bytes stay."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

from drqv2_patch.errors import UnknownCheckout

Node = TypeVar("Node", bound=ast.AST)

_REMEDY = "use a checkout of facebookresearch/drqv2 as published, or make this edit by hand (docs/drqv2.md)"


class Edit(NamedTuple):
    """Replaces the bytes `start` to `end` of a file by `text`.

    >>> edited(b"a = 1", [Edit(4, 5, "2")])
    b'a = 2'
    """

    start: int
    end: int
    text: str


def differs(where: str | PurePosixPath, expected: str, found: str) -> UnknownCheckout:
    """Returns the error for a file that differs in a place that the patch edits."""
    return UnknownCheckout(f"{where}: expected {expected}, found {found}; {_REMEDY}")


def edited(content: bytes, edits: list[Edit]) -> bytes:
    """Returns `content` with the edits made. Edits at one place are made in their order.

    Raises:
        ValueError: two edits overlap.
    """
    parts, at = [], 0
    for start, end, text in sorted(edits, key=lambda edit: edit.start):
        if start < at:
            raise ValueError(f"two edits overlap at byte {start}")
        parts += [content[at:start], text.encode()]
        at = end
    return b"".join([*parts, content[at:]])


class PythonSource:
    """A Python file of a checkout. Finds parts of it by structure, and makes edits of them.

        >>> source = PythonSource("a.py", b"x = f(1)")
        >>> call = source.one("call of f", ast.Call, None, lambda node: called_name(node) == "f")
        >>> source.append_argument(call, "2")
        Edit(start=7, end=7, text=', 2')

    Args:
        name: of the file, for messages.
        content: its bytes.

    Raises:
        UnknownCheckout: the content is not Python in UTF-8.
    """

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.content = content
        try:
            content.decode()
            self.tree = ast.parse(content)
        except (SyntaxError, ValueError) as err:
            raise differs(name, "Python in UTF-8", f"what does not parse ({err})") from err
        self._starts = [0]
        for line in content.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)
        self.newline = "\r\n" if b"\r\n" in content else "\n"

    def every(self, kind: type[Node], inside: ast.AST | None, fits: Callable[[Node], bool]) -> list[Node]:
        """Returns the nodes of a kind for which `fits` is true, inside a node. None stands for the whole file."""
        nodes: Iterator[Any] = ast.walk(self.tree if inside is None else inside)
        return [node for node in nodes if isinstance(node, kind) and fits(node)]

    def one(self, what: str, kind: type[Node], inside: ast.AST | None, fits: Callable[[Node], bool]) -> Node:
        """Returns the only such node. The arguments are those of `every`, and `what` describes the node in the error.

        Raises:
            UnknownCheckout: there is none, or there are several.
        """
        found = self.every(kind, inside, fits)
        if len(found) != 1:
            raise differs(self.name, f"one {what}", f"{len(found)} of them" if found else "none")
        return found[0]

    def definition(self, kind: type[Node], name: str, inside: ast.AST | None = None) -> Node:
        """Returns the class or function of that name.

        Raises:
            UnknownCheckout: there is none, or there are several.
        """
        what = "class" if kind is ast.ClassDef else "function"
        return self.one(f"{what} {name}", kind, inside, lambda node: getattr(node, "name", None) == name)

    def start(self, node: Any) -> int:
        """Returns the byte at which a node starts."""
        return int(self._starts[node.lineno - 1] + node.col_offset)

    def end(self, node: Any) -> int:
        """Returns the byte after the last one of a node."""
        return int(self._starts[node.end_lineno - 1] + node.end_col_offset)

    def text(self, node: Any) -> str:
        """Returns the source of a node."""
        return self.content[self.start(node) : self.end(node)].decode()

    def replace(self, node: Any, text: str) -> Edit:
        """Returns the edit that replaces a node."""
        return Edit(self.start(node), self.end(node), text)

    def remove(self, statement: ast.stmt) -> Edit:
        """Returns the edit that removes a statement. Its lines go too if nothing else is on them."""
        first, end = self._starts[statement.lineno - 1], min(self._starts[statement.end_lineno or 0], len(self.content))
        alone = self.content[first:end].decode().strip() == self.text(statement)
        return Edit(first, end, "") if alone else self.replace(statement, "pass")

    def insert_above(self, node: Any, text: str) -> Edit:
        """Returns the edit that adds a line above a node, with its indent."""
        at = self._starts[node.lineno - 1]
        return Edit(at, at, " " * int(node.col_offset) + text + self.newline)

    def insert_below(self, node: Any, text: str, indent: int | None = None) -> Edit:
        """Returns the edit that adds a line below a node, with `indent`, or None for the node's own."""
        end = self._starts[node.end_lineno]
        line = self.content[self._starts[node.end_lineno - 1] : end].rstrip(b"\r\n")
        at = self._starts[node.end_lineno - 1] + len(line)
        return Edit(at, at, self.newline + " " * int(node.col_offset if indent is None else indent) + text)

    def replace_body(self, function: ast.FunctionDef, text: str) -> Edit:
        """Returns the edit that replaces the body of a function by one statement."""
        return Edit(self.start(function.body[0]), self.end(function.body[-1]), text)

    def append_argument(self, call: ast.Call, text: str) -> Edit:
        """Returns the edit that adds a last argument to a call. The call has at least one."""
        last = max([*call.args, *(keyword.value for keyword in call.keywords)], key=self.end)
        return Edit(self.end(last), self.end(last), ", " + text)


def called_name(call: ast.Call) -> str:
    """Returns `f` for `f(...)` and `a.b` for `a.b(...)`, or an empty text for other calls."""
    return dotted(call.func)


def dotted(node: ast.AST) -> str:
    """Returns `a.b.c` for such an expression, or an empty text for others."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""
