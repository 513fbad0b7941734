"""`ForkRegistry`: prepares objects for a fork of their process."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Forkable(Protocol):
    """An object that a forked child inherits."""

    def before_fork(self) -> None:
        """Called in the parent before a fork. Takes the locks, so that no thread changes the object during the fork."""

    def after_fork_in_parent(self) -> None:
        """Called in the parent after a fork. Gives the locks back."""

    def after_fork_in_child(self) -> None:
        """Called in the child, which has one thread. Makes new locks, and drops what belongs to the parent."""


T = TypeVar("T", bound=Forkable)


class ForkRegistry(Generic[T]):
    """Calls the hooks of its members at each fork. It holds weak references, so members can be collected.

    It registers with the system when the first member is added, so importing the package has no effect on forks.
    """

    def __init__(self) -> None:
        self._members: weakref.WeakSet[T] = weakref.WeakSet()
        self._prepared: list[T] = []  # the members, during a fork
        self._registered = False
        self._lock = threading.Lock()

    def add(self, member: T) -> None:
        """Adds a member."""
        with self._lock:
            self._members.add(member)
            if not self._registered:
                self._registered = True
                os.register_at_fork(
                    before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
                )

    def __iter__(self) -> Iterator[T]:
        with self._lock:
            members = list(self._members)
        return iter(members)

    def _before(self) -> None:
        self._lock.acquire()
        self._prepared = sorted(self._members, key=id)  # the same order of locks in every thread that forks
        for member in self._prepared:
            member.before_fork()

    def _after_in_parent(self) -> None:
        while self._prepared:
            self._prepared.pop().after_fork_in_parent()
        self._lock.release()

    def _after_in_child(self) -> None:
        self._lock = threading.Lock()
        prepared, self._prepared = self._prepared, []
        for member in prepared:
            member.after_fork_in_child()
