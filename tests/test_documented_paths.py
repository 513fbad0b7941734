"""Paths, modules and commands that the pages name exist."""

import re
from itertools import chain
from pathlib import Path

import pytest

from replaystore.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(chain(ROOT.glob("*.md"), ROOT.glob("docs/*.md"), ROOT.glob("experiments/**/*.md")))
PACKAGES = ("replaystore", "drqv2_patch", "experiments")
ROOMS = {folder.name for folder in (ROOT / "replaystore").iterdir() if folder.is_dir()}
HISTORY = "CHANGELOG.md"  # names modules that were renamed since
FILES_OF_A_STORE = "format.md"  # names directories of a store, which are called as rooms are
PLANNED = {"repack"}  # docs/format.md, version 2


def exists(path: str) -> bool:
    """Whether there is such a file, folder or module."""
    return (ROOT / path).exists() or (ROOT / f"{path}.py").exists()


def named_paths(page: Path) -> set[str]:
    """The paths that a page names: links, files of the repository, rooms of the package, and modules to run."""
    text = page.read_text()
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link}
    paths = {(page.parent / link).resolve().relative_to(ROOT).as_posix() for link in links}
    for path in re.findall(r"(?<![\w./>-])\w+(?:/[\w.-]*\w)+", text):
        top = path.split("/")[0]
        if top in {*PACKAGES, "tests", "docs"}:
            paths.add(path)
        elif top in ROOMS and f"`{path}" in text and page.name != FILES_OF_A_STORE:
            # A function may follow the module.
            paths.add(f"replaystore/{path}" if exists(f"replaystore/{path}") else f"replaystore/{path.split('.')[0]}")
    if page.name != HISTORY:
        modules = re.findall(rf"-m ((?:{'|'.join(PACKAGES)})(?:\.\w+)*)", text)
        paths.update(module.replace(".", "/") for module in modules)
    return paths


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paths_exist(page: Path) -> None:
    assert not {path for path in named_paths(page) if not exists(path)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_exist(page: Path) -> None:
    text = page.read_text()
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|\n    )replaystore (?:-v+ )?([a-z]\w*)", text)) <= {*cli.commands, *PLANNED}
    assert set(re.findall(r"(?:`|\n    )make ([\w-]+)", text)) <= set(targets)


def test_paths_of_every_kind_are_found() -> None:
    found = set().union(*map(named_paths, PAGES))
    assert {"docs/format.md", "replaystore/columns/frame_map", "experiments/benchmarks"} <= found
