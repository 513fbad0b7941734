"""Optional packages. If one is missing, one line names it and the command that installs it.

The extras are those of pyproject.toml. A test compares them with every `needs`, `require` and `install_command`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from replaystore.errors import MissingDependency

_OWN = ("replaystore", "drqv2_patch", "experiments")
_MISSING = 2  # exit code


def install_command(*extras: str) -> str:
    """Returns the command that installs extras of this package.

    >>> install_command("bench", "dmc")
    "pip install 'replaystore[bench,dmc]'"
    """
    return f"pip install 'replaystore[{','.join(extras)}]'"


@contextmanager
def needs(what: str, *extras: str, in_command: bool = False) -> Iterator[None]:
    """Encloses imports of packages that `extras` install.

    Args:
        what: the work that needs the packages.
        extras: the extras that install them.
        in_command: whether the module runs as a program. An error is then one line on stderr, and exit code 2.

    Raises:
        MissingDependency: a package is missing or does not load. A failed import of a module of this project is raised
            unchanged.
    """
    try:
        yield
    except ImportError as err:
        missing = err if isinstance(err, MissingDependency) else _missing(what, extras, err)
        if missing is None:
            raise
        if in_command:
            print(f"error: {missing}", file=sys.stderr)
            sys.exit(_MISSING)
        raise missing from err


def require(what: str, extra: str, *packages: str) -> None:
    """Checks that packages are installed, without importing them. Call it before long work that needs them.

    Args:
        what: the work that needs the packages.
        extra: the extra that installs them.
        packages: names to import.

    Raises:
        MissingDependency: a package is not installed.
    """
    for package in packages:
        try:
            is_there = importlib.util.find_spec(package) is not None
        except ImportError:
            is_there = False
        if not is_there:
            raise MissingDependency(
                f"{what}: expected the package {package}, found none; {install_command(extra)}", name=package
            )


def _missing(what: str, extras: tuple[str, ...], err: ImportError) -> MissingDependency | None:
    """Returns the error to raise instead. None if the failed import is one of this project's modules."""
    package = (err.name or "").partition(".")[0]
    if package in _OWN:
        return None
    if isinstance(err, ModuleNotFoundError) and package:
        found = f"expected the package {package}, found none"
    else:
        found = f"expected {package or 'a package'} to load, found {' '.join(str(err).split())}"
    return MissingDependency(f"{what}: {found}; {install_command(*extras)}", name=err.name)
