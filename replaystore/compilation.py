"""Shows on a terminal that kernels are being compiled, which takes seconds the first time that they are used."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

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
    """A status of rich, which is imported when there is something to show."""

    def __init__(self) -> None:
        self._status: Any = None

    def show(self, text: str | None) -> None:
        if text is None and self._status is not None:
            self._status.stop()
            self._status = None
        elif text is not None and self._status is None:
            from rich.console import Console

            self._status = Console(file=sys.stderr).status(text)
            self._status.start()
        elif text is not None:
            self._status.update(text)
