"""Objects that are prepared for forks, and stores as a forked child finds them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

from replaystore.runtime.fork import ForkRegistry


class Member:
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen
        self.lock = threading.RLock()

    def before_fork(self) -> None:
        self.lock.acquire()
        self.seen.append(f"{self.name} before")

    def after_fork_in_parent(self) -> None:
        self.lock.release()
        self.seen.append(f"{self.name} parent")

    def after_fork_in_child(self) -> None:
        self.lock = threading.RLock()
        self.seen.append(f"{self.name} child")


def in_child(registry: ForkRegistry[Member], seen: list[str]) -> str:
    """What a forked child has seen."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, "; ".join([*seen, *(member.name for member in registry)]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        found = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return found


def test_members_are_prepared_and_reset_while_they_live():
    seen: list[str] = []
    registry: ForkRegistry[Member] = ForkRegistry()
    first, second = Member("first", seen), Member("second", seen)
    registry.add(first)
    registry.add(second)
    in_order = [member.name for member in sorted((first, second), key=id)]
    before = [f"{name} before" for name in in_order]
    assert in_child(registry, seen).split("; ")[:4] == before + [f"{name} child" for name in in_order]
    assert seen == before + [f"{name} parent" for name in reversed(in_order)]
    for member in (first, second):  # the locks were given back
        assert member.lock.acquire(blocking=False)
        member.lock.release()
    seen.clear()
    del second, member
    gc.collect()
    assert in_child(registry, seen) == "first before; first child; first"
    assert [member.name for member in registry] == ["first"]


def test_nothing_is_registered_with_the_system_before_the_first_store_is_opened(tmp_path):
    script = (
        "import os, sys\n"
        "registered = []\n"
        "real = os.register_at_fork\n"
        "os.register_at_fork = lambda **hooks: (registered.append(sorted(hooks)), real(**hooks))\n"
        "import replaystore.store\n"
        "from replaystore.runtime import fork\n"
        "ours = lambda: [hooks for hooks in registered if hooks == ['after_in_child', 'after_in_parent', 'before']]\n"
        "early = len(ours())\n"
        "from replaystore import FieldSpec, ReplayStore\n"
        "field = FieldSpec(name='reward', shape=(1,), dtype='float32', role='reward')\n"
        "stores = [ReplayStore.create(f'{sys.argv[1]}/{i}', [field]) for i in range(3)]\n"
        "print(len(ours()) - early)\n"
        "[store.close() for store in stores]\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True, timeout=120
    )
    assert found.stdout == "1\n"
