"""What a process may still take, as the kernel's files say it."""

from __future__ import annotations

import pytest

from replaystore.runtime import available_memory as memory

MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A made-up machine of 1,000 KiB with 600 available: writes its files, by their paths."""

    def write(path, text):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    write("meminfo", MEMINFO)
    write("own", "0::/outer/inner\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "LIMITS", ((tmp_path / "cgroup", "memory.max", "memory.current"),))
    return write


def limited(machine, group, limit, usage):
    machine(f"cgroup/{group}/memory.max", f"{limit}\n")
    machine(f"cgroup/{group}/memory.current", f"{usage}\n")


def test_without_limits_it_is_what_the_kernel_says(machine):
    assert memory.available_bytes() == 600 << 10
    assert memory.total_bytes() == 1000 << 10
    limited(machine, "outer/inner", "max", 5)
    assert memory.available_bytes() == 600 << 10


@pytest.mark.parametrize("group", ["outer/inner", "outer", "."])
def test_the_group_of_the_process_and_those_above_it_limit(machine, group):
    limited(machine, "outer/inner", 400 << 10, 10 << 10)
    limited(machine, group, 300 << 10, 100 << 10)
    limited(machine, "other", 1, 0)
    assert memory.available_bytes() == 200 << 10
    limited(machine, group, 300 << 10, 301 << 10)
    assert memory.available_bytes() == 0


def test_a_group_of_the_host_whose_directory_is_not_here_leaves_the_one_of_the_container(machine):
    machine("own", "1:name=systemd:/x\n0::/not/here\n")
    limited(machine, ".", 50 << 10, 0)
    assert memory.available_bytes() == 50 << 10


def test_where_the_kernel_says_nothing_it_is_what_is_free(machine, monkeypatch):
    machine("meminfo", "MemTotal: lots\n")
    monkeypatch.setattr("os.sysconf", {"SC_AVPHYS_PAGES": 3, "SC_PHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}.get)
    assert memory.available_bytes() == 3 * 4096
    assert memory.total_bytes() == 7 * 4096
