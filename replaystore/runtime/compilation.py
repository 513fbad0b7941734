"""Shows on a terminal that kernels are being compiled, which takes seconds the first time that they are used."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator

from replaystore.kernels.events import Compiled, cache_trouble, compiled, watching

__all__ = ["Compiled", "cache_trouble", "compiled", "show_compilation", "show_status"]

TEXT = "compiling kernels (once, when they are first used)"


class _Caller:
    """Calls `show` with a text when compilation begins, and with None when it ends."""

    def __init__(self, show: Callable[[str | None], None]) -> None:
        self._show = show

    def began(self, kernel: str) -> None:
        self._show(f"{TEXT}: {kernel}")

    def ended(self, kernel: str, seconds: float) -> None:
        self._show(None)


@contextlib.contextmanager
def show_compilation(show: Callable[[str | None], None]) -> Iterator[None]:
    """While the block runs, `show` gets a line when a kernel is being compiled, and None when that has ended.

    It is called in the thread that compiles.
    """
    with watching(_Caller(show)):
        yield


@contextlib.contextmanager
def show_status() -> Iterator[None]:
    """While the block runs, a status line on stderr stands where a kernel is being compiled; only on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    line = _StatusLine()
    try:
        with show_compilation(line.show):
            yield
    finally:
        line.show(None)


class _StatusLine:
    """One line on stderr that is written over, and wiped at the end."""

    def __init__(self) -> None:
        self._is_shown = False

    def show(self, text: str | None) -> None:
        if text is None and not self._is_shown:
            return
        columns = shutil.get_terminal_size().columns
        sys.stderr.write("\r\x1b[K" + (text or "")[: columns - 1])
        sys.stderr.flush()
        self._is_shown = text is not None
