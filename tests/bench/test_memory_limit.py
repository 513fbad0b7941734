from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replaystore.bench.control_group import make_group, possible_parents, read_memory, remove_group
from replaystore.bench.memory_limit import MemoryGroupError, memory_group
from replaystore.errors import SpecError

MIB = 1 << 20
ALLOCATE = "import sys; data = b'x' * (int(sys.argv[1]) << 20); print(len(data))"


@pytest.fixture(scope="module")
def limitable() -> None:
    with memory_group(64 * MIB) as group:
        if not group.limited:
            pytest.skip(f"no memory limit here: {group.reason}")


@pytest.mark.usefixtures("limitable")
class TestLimited:
    def test_child_beyond_the_limit_is_killed_and_reported(self) -> None:
        with memory_group(64 * MIB) as group:
            run = group.run([sys.executable, "-c", ALLOCATE, "256"], timeout_seconds=60)
        assert run.limited
        assert run.killed
        assert run.returncode == -9
        assert run.memory is not None
        assert run.memory.oom_kills == 1
        assert run.memory.limit_hits is None or run.memory.limit_hits > 0
        assert run.memory.peak_bytes is None or run.memory.peak_bytes <= 64 * MIB

    def test_child_within_the_limit_ends_by_itself_and_is_counted(self) -> None:
        with memory_group(128 * MIB) as group:
            run = group.run([sys.executable, "-c", ALLOCATE, "32"], timeout_seconds=60)
        assert (run.returncode, run.killed, run.timed_out) == (0, False, False)
        assert run.memory is not None
        assert run.memory.oom_kills == 0
        assert run.memory.peak_bytes is None or 32 * MIB < run.memory.peak_bytes < 128 * MIB

    def test_page_cache_is_charged_to_the_group(self, tmp_path: Path) -> None:
        file = tmp_path / "data"
        write = f"open({str(file)!r}, 'wb').write(bytes(8 << 20))"
        with memory_group(64 * MIB) as group:
            run = group.run([sys.executable, "-c", write], timeout_seconds=60)
            file.unlink()
        assert run.memory is not None
        assert run.memory.cache_bytes >= 8 * MIB

    def test_group_is_removed_even_on_failure_and_takes_its_processes_along(self) -> None:
        sleepers: list[subprocess.Popen[bytes]] = []
        groups: list[Path] = []

        def fail_inside(group: Path) -> None:
            join = [sys.executable, "-m", "replaystore.bench.join_group", str(group)]
            sleepers.append(subprocess.Popen([*join, "sleep", "60"]))
            while str(sleepers[0].pid) not in (group / "cgroup.procs").read_text().split():
                assert sleepers[0].poll() is None
            raise RuntimeError("on purpose")

        def fail() -> None:
            with memory_group(64 * MIB) as group:
                assert group.path is not None
                groups.append(group.path)
                fail_inside(group.path)

        with pytest.raises(RuntimeError, match="on purpose"):
            fail()
        assert not groups[0].exists()
        assert sleepers[0].wait(timeout=10) == -9

    def test_a_program_that_does_not_exist_is_an_error(self) -> None:
        with memory_group(64 * MIB) as group, pytest.raises(MemoryGroupError, match="no-such-program"):
            group.run(["no-such-program"])

    def test_timeout(self) -> None:
        with memory_group(64 * MIB) as group:
            run = group.run(["sleep", "60"], timeout_seconds=0.5)
        assert (run.timed_out, run.killed) == (True, False)


def test_without_a_writable_group_it_runs_and_says_so(tmp_path: Path) -> None:
    with memory_group(64 * MIB, parents=[tmp_path / "absent"]) as group:
        run = group.run([sys.executable, "-c", "import sys; sys.stderr.write('ran'); sys.exit(3)"])
    assert not group.limited
    assert "absent" in str(group.reason)
    assert (run.returncode, run.limited, run.killed, run.memory, run.stderr_tail) == (3, False, False, None, "ran")


def test_without_any_group_it_says_so() -> None:
    with memory_group(64 * MIB, parents=[]) as group:
        assert group.reason is not None
        assert group.reason.startswith("no control group")


def test_a_limit_too_small_for_python_is_refused() -> None:
    with pytest.raises(SpecError, match="limit_bytes"), memory_group(1000):
        pass


def fake_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_counters_of_version_2(tmp_path: Path) -> None:
    group = fake_files(
        tmp_path,
        {
            "memory.current": "1000\n",
            "memory.peak": "2000\n",
            "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\n",
            "memory.stat": "anon 300\nfile 500\nkernel 20\nfile_mapped 400\n",
        },
    )
    use = read_memory(group)
    assert (use.usage_bytes, use.peak_bytes, use.limit_hits, use.oom_kills) == (1000, 2000, 7, 1)
    assert (use.anonymous_bytes, use.cache_bytes, use.mapped_bytes) == (300, 500, 400)


def test_counters_of_version_2_on_a_kernel_without_peak(tmp_path: Path) -> None:
    assert read_memory(fake_files(tmp_path, {"memory.current": "5\n"})).peak_bytes is None


def test_hits_that_the_kernel_does_not_count_are_unknown_and_not_zero(tmp_path: Path) -> None:
    files = {"memory.max_usage_in_bytes": "64", "memory.limit_in_bytes": "64", "memory.failcnt": "0"}
    assert read_memory(fake_files(tmp_path, files)).limit_hits is None


def test_counters_of_version_1(tmp_path: Path) -> None:
    group = fake_files(
        tmp_path,
        {
            "memory.usage_in_bytes": "1000\n",
            "memory.max_usage_in_bytes": "2000\n",
            "memory.failcnt": "3\n",
            "memory.memsw.failcnt": "4\n",
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            "memory.stat": "cache 1\nrss 2\ntotal_cache 500\ntotal_rss 300\ntotal_mapped_file 400\n",
        },
    )
    use = read_memory(group)
    assert (use.usage_bytes, use.peak_bytes, use.limit_hits, use.oom_kills) == (1000, 2000, 7, 1)
    assert (use.anonymous_bytes, use.cache_bytes, use.mapped_bytes) == (300, 500, 400)


def test_parent_in_version_2_is_the_nearest_that_hands_memory_down(tmp_path: Path) -> None:
    top = fake_files(
        tmp_path / "sys fs",
        {
            "cgroup.subtree_control": "cpu memory",
            "user/cgroup.subtree_control": "memory pids",
            "user/app/cgroup.subtree_control": "",
        },
    )
    escaped = str(top).replace(" ", "\\040")
    proc = fake_files(
        tmp_path / "proc",
        {"cgroup": "0::/user/app\n", "mountinfo": f"30 20 0:26 / {escaped} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"},
    )
    assert possible_parents(proc) == [top / "user", top]


@pytest.mark.parametrize(("limit", "expected"), [(str((1 << 63) - 4096), ["", "app"]), (str(1 << 30), ["app"])])
def test_parent_in_version_1_keeps_a_limit_that_holds_already(tmp_path: Path, limit: str, expected: list[str]) -> None:
    top = fake_files(tmp_path / "memory", {"app/memory.stat": f"cache 0\nhierarchical_memory_limit {limit}\n"})
    proc = fake_files(
        tmp_path / "proc",
        {
            "cgroup": "9:cpu:/\n4:memory:/outer/app\n0::/\n",
            "mountinfo": f"35 31 0:32 /outer {top} rw - cgroup cgroup rw,memory\n36 31 0:33 / /x rw - tmpfs t rw\n",
        },
    )
    assert possible_parents(proc) == [top / name for name in expected]


def test_no_parents_where_there_is_no_proc(tmp_path: Path) -> None:
    assert possible_parents(tmp_path) == []


def test_a_group_that_cannot_be_limited_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(PermissionError):
        make_group(tmp_path, 64 * MIB)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("controls", "expected"),
    [
        (["memory.max", "memory.swap.max"], [str(64 * MIB), "0"]),
        (["memory.max"], [str(64 * MIB)]),
        (["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"], [str(64 * MIB)] * 2),
        (["memory.limit_in_bytes"], [str(64 * MIB)]),
    ],
)
def test_limits_memory_and_swap_where_it_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controls: list[str], expected: list[str]
) -> None:
    original = Path.mkdir

    def as_the_kernel_does(self: Path) -> None:
        original(self)
        for name in controls:
            (self / name).write_text("")

    monkeypatch.setattr(Path, "mkdir", as_the_kernel_does)
    group = make_group(tmp_path, 64 * MIB)
    assert [(group / name).read_text() for name in controls] == expected
    assert sorted(path.name for path in group.iterdir()) == sorted(controls)


def test_a_group_that_stays_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replaystore.bench.control_group.REMOVAL_SECONDS", 0.05)
    (tmp_path / "group" / "child").mkdir(parents=True)
    with pytest.warns(UserWarning, match="left behind"):
        remove_group(tmp_path / "group")
    assert os.path.isdir(tmp_path / "group")  # noqa: PTH112
