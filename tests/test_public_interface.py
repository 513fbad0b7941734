"""The public interface stands in `tests/public_interface.txt`: a change of it is seen in review, never by accident.

`make interface` writes the file anew after a change that is meant.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import click
import pytest

import replaystore
from drqv2_patch.patch.cli import cli as patch_cli
from replaystore import errors
from replaystore.cli import cli

SNAPSHOT = Path(__file__).with_name("public_interface.txt")
RENEW = "REPLAYSTORE_RENEW_INTERFACE"
MADE_HERE = ("replaystore", "drqv2_patch")
# Defaults that depend on the machine are shown by the name of their constant.
NAMED_DEFAULTS = {"num_threads": "replaystore.store.DEFAULT_THREADS"}
SPECIAL = ("__enter__", "__exit__", "__getitem__", "__iter__", "__len__", "__next__")
NOT_CALLED = ("ReplayStore",)  # `create` and `open` make one


def interface() -> str:
    """The names, signatures and options that users rely on, one a line."""
    lines = [f"# What users rely on. `make interface` writes this file; {Path(__file__).name} compares it."]
    for package in MADE_HERE:
        module = importlib.import_module(package)
        lines += ["", f"[{package}]"]
        for name in sorted(module.__all__):
            lines += _described(name, getattr(module, name))
    lines += ["", "[replaystore.errors]"]
    for name, error in sorted(vars(errors).items()):
        if inspect.isclass(error) and not name.startswith("_"):
            lines.append(f"{name}({', '.join(base.__name__ for base in error.__bases__)})")
    for command in (cli, patch_cli):
        lines += ["", f"[command {command.name}]", *_commands(command, "")]
    project = tomllib.loads((SNAPSHOT.parent.parent / "pyproject.toml").read_text())["project"]
    lines += ["", "[console scripts]"]
    lines += [f"{name} = {target}" for name, target in sorted(project.get("scripts", {}).items())]
    return "\n".join(lines) + "\n"


def _described(name: str, entry: Any) -> Iterator[str]:
    if not inspect.isclass(entry):
        yield f"{name}{_signature(entry)}"
        return
    yield name if name in NOT_CALLED or Protocol in entry.__bases__ else f"{name}{_signature(entry)}"
    members: dict[str, Any] = {}
    for base in reversed(entry.__mro__):
        if base.__module__.startswith(MADE_HERE):  # what other packages give to their subclasses is theirs
            members.update(vars(base))
    for member, value in sorted(members.items()):
        if member in ("__init__", "__module__", "__doc__") or (member.startswith("_") and member not in SPECIAL):
            continue
        if isinstance(value, (property, cached_property)):
            read: Any = value.fget if isinstance(value, property) else value.func
            yield f"{name}.{member} -> {read.__annotations__['return']}"
        elif isinstance(value, (classmethod, staticmethod)):
            yield f"{name}.{member}{_signature(getattr(entry, member))}  # {type(value).__name__}"
        elif inspect.isfunction(value):
            yield f"{name}.{member}{_signature(value)}"
        else:
            yield f"{name}.{member}"


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = []
    for name, parameter in signature.parameters.items():
        home, _, constant = NAMED_DEFAULTS.get(name, "").rpartition(".")
        if home and home == getattr(function, "__module__", None) and parameter.default not in (parameter.empty, None):
            parameter = parameter.replace(default=_Named(constant))
        parameters.append(parameter.replace(annotation=_unquoted(parameter.annotation)))
    return str(signature.replace(parameters=parameters, return_annotation=_unquoted(signature.return_annotation)))


def _unquoted(annotation: Any) -> Any:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__forward_arg__", None)
    return annotation if text is None else _Named(text)


class _Named:
    """Prints as the name of a constant or a type."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


def _commands(command: click.Command, prefix: str) -> Iterator[str]:
    path = f"{prefix} {command.name or ''}".strip()
    options = []
    for parameter in command.params:
        names = parameter.name.upper() if isinstance(parameter, click.Argument) else "/".join(
            [*parameter.opts, *parameter.secondary_opts]
        )  # fmt: skip
        kind = parameter.type
        values = "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else kind.name
        flags = ["flag"] if getattr(parameter, "is_flag", False) else ["count"] if getattr(parameter, "count", False) \
            else [values]  # fmt: skip
        flags += ["required"] if parameter.required else []
        flags += ["repeated"] if parameter.multiple or parameter.nargs == -1 else []
        options.append(f"{path}: {names} ({', '.join(flags)})")
    yield path
    yield from options
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(command.commands[name], path)


def test_the_public_interface_is_as_written_down():
    found = interface()
    if os.environ.get(RENEW):
        SNAPSHOT.write_text(found)
    expected = SNAPSHOT.read_text()
    difference = "\n".join(
        difflib.unified_diff(expected.splitlines(), found.splitlines(), "public_interface.txt", "the code", lineterm="")
    )
    assert not difference, (
        f"the public interface has changed; if that is meant, run `make interface`, commit {SNAPSHOT.name}"
        f" and say so in CHANGELOG.md\n{difference}"
    )


def test_a_change_of_a_signature_is_seen(monkeypatch: pytest.MonkeyPatch):
    before = interface()

    def draw(self: Any, sampler: Any) -> None: ...

    monkeypatch.setattr(replaystore.ReplayStore, "draw", draw)
    changed = set(interface().splitlines()) ^ set(before.splitlines())
    assert len(changed) == 2
    assert all(line.startswith("ReplayStore.draw(") for line in changed)


def test_a_new_option_of_a_command_is_seen(monkeypatch: pytest.MonkeyPatch):
    before = interface()
    command = cli.commands["verify"]
    monkeypatch.setattr(command, "params", [*command.params, click.Option(["--deep"], is_flag=True)])
    assert set(interface().splitlines()) - set(before.splitlines()) == {"replaystore verify: --deep (flag)"}
