"""How kernels are compiled, and where the results are kept.

Kernels are compiled when they are first called. Later processes load them from numba's cache. Trouble with the cache is
never an error. A kernel that cannot be kept or read is compiled in memory, with one warning per process.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

from replaystore.kernels import events

Function = Callable[..., Any]


def kernel(function: Function) -> Any:
    """Makes a kernel of a function over arrays, for callers in Python and in other kernels."""
    return _compiled(function)


def inlined(function: Function) -> Any:
    """Makes a kernel whose statements replace each call to it, before types are known. It has few callers."""
    return _compiled(function, inline="always")


def _compiled(function: Function, **options: Any) -> Any:
    dispatcher: Any = njit(nogil=True, **options)(function)
    if not hasattr(dispatcher, "enable_caching"):
        return dispatcher  # NUMBA_DISABLE_JIT leaves the function as it is
    if events.cache_trouble() is None:
        try:
            with _named_after_sources(function):
                dispatcher.enable_caching()
        except (RuntimeError, OSError) as err:  # numba finds no directory that it can write, or no source
            events.without_cache(str(err))
    _guard(dispatcher)
    return dispatcher


@contextlib.contextmanager
def _named_after_sources(function: Function) -> Iterator[None]:
    # A kernel's code in the cache includes that of the kernels it calls, but numba considers it stale only when the
    # kernel's own file has changed. Files in the cache take their name from the function's while this runs.
    name = function.__qualname__
    function.__qualname__ = f"{name}.{_sources_digest()}"
    try:
        yield
    finally:
        function.__qualname__ = name


@cache
def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


class _Cache:
    """Wraps numba's cache of one kernel. It reports when the kernel is not in the cache, and does not raise."""

    def __init__(self, wrapped: Any, name: str) -> None:
        self._wrapped = wrapped
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = None
        try:
            found = self._wrapped.load_overload(sig, target_context)
        except Exception as err:  # unpickling a damaged file raises anything
            self._give_up("read", err)
        if found is None:
            events.begin(self._name, self._wrapped.cache_path)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            self._wrapped.save_overload(sig, data)
        except Exception as err:  # a full disk, a directory that is gone, a damaged index
            self._give_up("written", err)

    def _give_up(self, done: str, err: Exception) -> None:
        with contextlib.suppress(Exception):
            self._wrapped.flush()  # an empty index, so that the kernel compiled now replaces the damaged one
            return
        events.warn_once(f"{self._wrapped.cache_path} could not be {done} ({type(err).__name__}: {err})")


def _guard(dispatcher: Any) -> None:
    compile_types = dispatcher.compile
    function = dispatcher.py_func
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"

    def guarded(sig: Any) -> Any:
        outer = events.depth()
        try:
            return compile_types(sig)
        finally:
            events.end(outer)

    dispatcher._cache = _Cache(dispatcher._cache, name)  # numba has no public way to hear of a cache miss in time
    dispatcher.compile = guarded


@kernel
def probe() -> None:
    """Does nothing. It shows where compiled kernels are kept, without compiling one."""


def cache_directory() -> str | None:
    """Where compiled kernels are kept; None: in memory only."""
    path = probe.stats.cache_path
    return None if path is None else str(path)
