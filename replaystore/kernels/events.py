"""Reports that kernels are being compiled, to the log and to a display if there is one. Imports no compiler."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

log = logging.getLogger("replaystore.kernels")


class Watcher(Protocol):
    """Is notified of compilation, in the thread that compiles."""

    def began(self, kernel: str) -> None:
        """Called when compiling `kernel`, with the kernels that it calls, begins."""

    def ended(self, kernel: str, seconds: float) -> None:
        """Called when `kernel` is compiled, or compiling it was interrupted."""


@dataclass(frozen=True)
class Compiled:
    """A kernel that this process compiled for one set of types, with the kernels that it calls.

    Attributes:
        kernel: module and function.
        seconds: time that it took, including the kernels that were compiled with it.
        depth: 0 if a program called it, more if another kernel did.
    """

    kernel: str
    seconds: float
    depth: int


@dataclass
class _State:
    compiled: list[Compiled] = field(default_factory=list)
    watchers: list[Watcher] = field(default_factory=list)
    has_announced: bool = False
    cache_trouble: str | None = None
    has_warned: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Stack(threading.local):
    def __init__(self) -> None:
        self.entries: list[tuple[str, float]] = []


_state = _State()
_stack = _Stack()  # kernels that this thread compiles: each is called by the one before it


def compiled() -> list[Compiled]:
    """Returns the kernels that this process compiled and did not load from a cache, in the order of their ends."""
    return list(_state.compiled)


def cache_trouble() -> str | None:
    """Returns why this process keeps compiled kernels only in memory, or None if it keeps them in files."""
    return _state.cache_trouble


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Notifies `watcher` of compilation inside the `with` block, instead of watchers of enclosing blocks."""
    with _state.lock:
        _state.watchers.append(watcher)
    try:
        yield
    finally:
        with _state.lock:
            _state.watchers.remove(watcher)


def depth() -> int:
    """Returns how many kernels this thread is compiling."""
    return len(_stack.entries)


def begin(kernel: str, directory: str | None) -> None:
    """Records that this thread starts to compile `kernel`, which will be kept in `directory`."""
    if not _stack.entries:
        with _state.lock:
            watcher = _state.watchers[-1] if _state.watchers else None
            is_first, _state.has_announced = not _state.has_announced, True
        if is_first and directory is not None:
            # Without a watcher it is a warning, which a program prints even if it configures no logging.
            log.log(
                logging.INFO if watcher else logging.WARNING,
                "compiling kernels, which takes seconds when they are first used; later processes load them from %s",
                directory,
            )
        elif is_first:
            warn_once("no directory for them can be written")
        log.info("compiling %s", kernel)
        if watcher is not None:
            watcher.began(kernel)
    _stack.entries.append((kernel, time.perf_counter()))


def end(outer: int) -> None:
    """Records that this thread has compiled all but the first `outer` of its kernels."""
    while len(_stack.entries) > outer:
        kernel, started = _stack.entries.pop()
        seconds = time.perf_counter() - started
        with _state.lock:
            _state.compiled.append(Compiled(kernel, seconds, len(_stack.entries)))
            watcher = _state.watchers[-1] if _state.watchers else None
        if not _stack.entries:
            log.info("compiled %s in %.1f s", kernel, seconds)
            if watcher is not None:
                watcher.ended(kernel, seconds)


def without_cache(trouble: str) -> None:
    """Records that kernels are kept only in memory, because of `trouble`."""
    _state.cache_trouble = trouble


def warn_once(trouble: str) -> None:
    """Warns that compiled kernels cannot be kept or read, unless this process did so before."""
    with _state.lock:
        if _state.has_warned:
            return
        _state.has_warned = True
    log.warning(
        "compiled kernels are kept in memory only, and every process spends seconds on compiling them: %s; set"
        " NUMBA_CACHE_DIR to a directory that can be written, or run `replaystore warmup` where one can",
        trouble,
    )
