"""Shows on a terminal that kernels are being compiled. That takes seconds on their first use."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator

from replaystore.kernels.events import Compiled, cache_trouble, compiled, watching

__all__ = ["Compiled", "cache_trouble", "compiled", "show_compilation", "show_status"]

TEXT = "compiling kernels (once, when they are first used)"


class _Caller:
    """Calls `show` with a text when a compilation begins, and with None when it ends."""

    def __init__(self, show: Callable[[str | None], None]) -> None:
        self._show = show

    def began(self, kernel: str) -> None:
        self._show(f"{TEXT}: {kernel}")

    def ended(self, kernel: str, seconds: float) -> None:
        self._show(None)


@contextlib.contextmanager
def show_compilation(show: Callable[[str | None], None]) -> Iterator[None]:
    """Reports compilations while the block runs.

    Args:
        show: called with a line of text when a kernel starts to compile, and with None when it is done. It is called in
            the thread that compiles.
    """
    with watching(_Caller(show)):
        yield


@contextlib.contextmanager
def show_status() -> Iterator[None]:
    """Shows a status line on stderr whenever a kernel compiles while the block runs. Only on a terminal."""
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
    """A line on stderr that each text overwrites. It is wiped at the end."""

    def __init__(self) -> None:
        self._is_shown = False

    def show(self, text: str | None) -> None:
        if text is None and not self._is_shown:
            return
        columns = shutil.get_terminal_size().columns
        sys.stderr.write("\r\x1b[K" + (text or "")[: columns - 1])
        sys.stderr.flush()
        self._is_shown = text is not None
