"""Episode files: names, round trips, and a corpus of files made to harm."""

import io
import os
import pickle
import resource
import socket
import struct
import subprocess
import sys
import textwrap
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from replaystore.datasets.drqv2_npz import (
    EpisodePath,
    episode_file_name,
    list_episode_files,
    peek_episode,
    read_episode,
    write_episode,
)
from replaystore.errors import EpisodeError, EpisodeFileError, WriteError

RECORDED = Path(__file__).parents[2] / "experiments" / "recorded" / "walker_walk"


def episode(rows=5, number=0):
    """Arrays that say where they belong: every value follows from (episode, row, place)."""
    place = np.arange(3 * 8 * 8).reshape(1, 3, 8, 8)
    row = np.arange(rows).reshape(-1, 1, 1, 1)
    return {
        "observation": ((7 * number + 31 * row + place) % 256).astype(np.uint8),
        "action": (np.arange(rows * 2).reshape(rows, 2) / 7 + number).astype(np.float32),
        "reward": np.arange(rows, dtype=np.float32).reshape(rows, 1),
        "discount": np.ones((rows, 1), np.float32),
        "truncated": np.arange(rows) % 2 == 0,
    }


def npy(array, version=None):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version, allow_pickle=True)
    return buffer.getvalue()


def npy_text(header, data=b"", version=b"\x01\x00", length=None):
    """An .npy file with any header."""
    width = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, len(header) if length is None else length) + header + data


def archive(members, method=zipfile.ZIP_DEFLATED):
    """A zip file of (name, bytes) pairs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return buffer.getvalue()


def lying_archive(payload, declared_bytes, *, name=b"a.npy", method=8, crc=0, flags=0, repeat=1):
    """A zip file of one member whose directory declares what it likes."""
    fields = struct.pack("<HHHHHIIIHH", 20, flags, method, 0, 33, crc, len(payload), declared_bytes, len(name), 0)
    local = b"PK\x03\x04" + fields + name + payload
    entry = b"PK\x01\x02" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    directory = entry * repeat
    count = min(repeat, 0xFFFF)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(local), 0)
    return local + directory + b"PK\x05\x06" + end


def deflated(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def written(tmp_path, data, name="20250101T000000_0_4.npz"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def refused(path, *words, **limits):
    """Both ways of reading refuse the file, or peeking can not tell; returns the message of reading."""
    with pytest.raises(EpisodeFileError) as caught:
        read_episode(path, **limits)
    message = str(caught.value)
    for word in (str(path), "expected", *words):
        assert word in message, f"{word!r} is not in {message!r}"
    return message


def same(left, right):
    assert list(left) == list(right)
    for name, array in left.items():
        other = right[name]
        assert (array.dtype, array.shape) == (other.dtype, other.shape)
        assert array.tobytes() == other.tobytes()


# Names


def test_episodes_are_ordered_by_number_not_by_text_or_clock(tmp_path):
    names = [
        "20250101T000000_10_5.npz",
        "20250102T000000_9_5.npz",
        "20250103T000000_9_5.npz",
        "20260101T000000_0_5.npz",
        "part10.npz",
        "part9.npz",
        "20250101T000000_x_5.npz",
        "notes.txt",
    ]
    for name in names:
        (tmp_path / name).touch()
    found = list_episode_files(tmp_path)
    assert [entry.path.name for entry in found] == [
        "20260101T000000_0_5.npz",
        "20250102T000000_9_5.npz",
        "20250103T000000_9_5.npz",
        "20250101T000000_10_5.npz",
        "20250101T000000_x_5.npz",
        "part9.npz",
        "part10.npz",
    ]
    assert found[0] == EpisodePath(
        path=tmp_path / names[3], index=0, num_transitions=5, timestamp="20260101T000000", refusal=None
    )
    assert found[-1] == EpisodePath(path=tmp_path / "part10.npz")


def test_names_of_any_bytes_are_listed(tmp_path):
    for name in (b"\xff\xfe.npz", b"9\xd9\xa3.npz", b".npz", b"._a.npz", b"1" * 240 + b".npz"):
        (Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))).touch()  # noqa: PTH118
    assert len(list_episode_files(tmp_path)) == 3  # not the hidden ones


def test_what_is_no_regular_file_is_listed_with_a_reason_and_refused(tmp_path):
    outside = tmp_path / "outside.dat"
    same_bytes = write_episode(tmp_path / "outside.dat", episode()).read_bytes()
    folder = tmp_path / "episodes"
    folder.mkdir()
    (folder / "link.npz").symlink_to(outside)
    (folder / "dangling.npz").symlink_to(tmp_path / "nothing")
    (folder / "folder.npz").mkdir()
    os.mkfifo(folder / "fifo.npz")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.npz"))
    reasons = {entry.path.name: entry.refusal for entry in list_episode_files(folder)}
    assert reasons == {
        "dangling.npz": "a symbolic link",
        "fifo.npz": "a FIFO",
        "folder.npz": "a directory",
        "link.npz": "a symbolic link",
        "socket.npz": "a device or socket",
    }
    for name, reason in reasons.items():  # opening a FIFO would wait until the test is stopped
        refused(folder / name, reason)
        with pytest.raises(EpisodeFileError, match=reason):
            peek_episode(folder / name)
    assert outside.read_bytes() == same_bytes


def test_a_fifo_put_in_place_at_the_last_moment_is_refused(tmp_path, monkeypatch):
    regular = write_episode(tmp_path / "a.npz", episode()).stat()
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "link.npz").symlink_to(tmp_path / "a.npz")
    monkeypatch.setattr("pathlib.Path.stat", lambda path, **how: regular)
    refused(tmp_path / "fifo.npz", "a FIFO")
    refused(tmp_path / "link.npz", "symbolic links")


def test_missing_files_and_directories(tmp_path):
    refused(tmp_path / "nothing.npz", "check the path")
    with pytest.raises(EpisodeFileError, match="check the path"):
        list_episode_files(tmp_path / "nothing")
    with pytest.raises(EpisodeFileError, match="embedded null"):
        read_episode("a\0b.npz")


@pytest.mark.parametrize(
    ("index", "length", "stamp"), [(-1, 5, None), (0, -1, None), (0, 5, "../x"), (0, 5, "2025-01-01")]
)
def test_a_name_that_would_not_be_an_episode_is_refused(index, length, stamp):
    with pytest.raises(EpisodeError, match="episode file name"):
        episode_file_name(index, length, stamp)


# Round trips


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, write_episode])
def test_what_numpy_writes_is_read(tmp_path, save):
    path = tmp_path / "20250101T000000_0_4.npz"
    arrays = episode()
    if save is write_episode:
        save(path, arrays)
    else:
        save(path, **arrays)
    same(read_episode(path), arrays)
    assert peek_episode(path) == {name: (array.shape, array.dtype) for name, array in arrays.items()}


def test_what_we_write_is_read_as_drqv2_does(tmp_path):
    arrays = episode(rows=11)
    path = write_episode(tmp_path, arrays, index=12, timestamp="20250101T000000")
    assert path.name == "20250101T000000_12_10.npz"
    index, length = (int(part) for part in path.stem.split("_")[1:])
    with path.open("rb") as file, np.load(file) as loaded:
        same({name: loaded[name] for name in loaded}, arrays)
        assert (index, length) == (12, next(iter(loaded.values())).shape[0] - 1)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8"])
def test_every_dtype_comes_back(tmp_path, dtype):
    arrays = {"file": (np.arange(2000).reshape(10, 200) % 3).astype(dtype)}
    same(read_episode(write_episode(tmp_path / "a.npz", arrays)), arrays)


def test_recorded_episodes_are_read():
    files = list_episode_files(RECORDED)
    assert [entry.index for entry in files] == [0, 1, 2, 3]
    for entry in files:
        arrays = read_episode(entry.path)
        rows = entry.num_transitions + 1
        assert arrays["observation"].shape == (rows, 9, 84, 84)
        assert arrays["action"].shape == (rows, 6)
        assert arrays["observation"].dtype == np.uint8
        # The newest frames of a row are the middle ones of the next.
        np.testing.assert_array_equal(arrays["observation"][1:, 3:6], arrays["observation"][:-1, 6:])
        with np.load(entry.path) as loaded:
            same({name: loaded[name] for name in loaded}, arrays)


def test_fortran_order_becomes_c_order(tmp_path):
    array = np.asfortranarray(np.arange(60, dtype=np.int32).reshape(3, 4, 5))
    path = written(tmp_path, archive([("a.npy", npy(array))]))
    assert b"'fortran_order': True" in npy(array)
    found = read_episode(path)["a"]
    np.testing.assert_array_equal(found, array)
    assert found.flags.c_contiguous


def test_empty_and_scalar_arrays_keep_their_shape(tmp_path):
    path = written(tmp_path, archive([("a.npy", npy(np.zeros((0, 5), np.float32))), ("b.npy", npy(np.float64(3)))]))
    arrays = read_episode(path)
    assert arrays["a"].shape == (0, 5)
    assert arrays["b"].shape == ()
    assert arrays["b"] == 3


def test_writing_refuses_what_reading_would(tmp_path):
    for arrays in (
        {},
        {"a": np.zeros(3), "b": np.zeros(4)},
        {"a": np.zeros(0)},
        {"a": np.float32(1)},
        {"a": np.array([object()])},
        {"a": np.array(["text"])},
        {"a": np.zeros(3, complex)},
        {"a": np.zeros(3, [("x", "i4")])},
        {"../a": np.zeros(3)},
        {"a.npy": np.zeros(3)},
        {f"f{number}": np.zeros(3) for number in range(65)},
    ):
        with pytest.raises(EpisodeError, match="expected"):
            write_episode(tmp_path / "a.npz", arrays)
    assert list(tmp_path.iterdir()) == []


def test_writing_swaps_the_other_byte_order(tmp_path):
    path = write_episode(tmp_path / "a.npz", {"a": np.arange(5, dtype=">i4")})
    same(read_episode(path), {"a": np.arange(5, dtype="<i4")})


def test_a_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(WriteError, match="check the directory"):
        write_episode(tmp_path / "missing" / "a.npz", episode())
    (tmp_path / "taken.npz").mkdir()
    with pytest.raises(WriteError):
        write_episode(tmp_path / "taken.npz", episode())
    old = write_episode(tmp_path / "old.npz", episode(number=1)).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = {"a": np.random.default_rng(0).integers(0, 256, (1 << 17,), np.uint8)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))
    try:
        with pytest.raises(WriteError, match="File too large"):
            write_episode(tmp_path / "old.npz", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "old.npz").read_bytes() == old
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["old.npz", "taken.npz"]


# Hostile files


class Canary:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_objects_are_never_unpickled(tmp_path):
    touched = tmp_path / "touched"
    objects = np.array([Canary(touched)], dtype=object)
    np.savez(tmp_path / "a.npz", observation=objects)
    refused(tmp_path / "a.npz", "observation", "'|O'")
    refused(written(tmp_path, pickle.dumps(Canary(touched))))
    refused(written(tmp_path, archive([("a.npy", pickle.dumps(Canary(touched)))])), "an .npy member")
    refused(written(tmp_path, archive([("a.pkl", pickle.dumps(Canary(touched)))])), "a.pkl")
    structured = np.zeros(1, [("x", object)])
    structured["x"] = Canary(touched)
    refused(written(tmp_path, archive([("a.npy", npy(structured))])), "structured")
    assert not touched.exists()
    pickle.loads(pickle.dumps(Canary(touched)))
    assert touched.exists(), "the canary itself does not work"


def test_the_other_byte_order_is_refused_with_the_remedy(tmp_path):
    path = written(tmp_path, archive([("a.npy", npy(np.arange(3, dtype=">f4")))]))
    refused(path, "'>f4'", "astype('<f4')")


@pytest.mark.parametrize("dtype", ["c8", "U3", "S3", "M8[s]", "m8[ns]", "V4", "f16"])
def test_other_dtypes_are_refused(tmp_path, dtype):
    refused(written(tmp_path, archive([("a.npy", npy(np.zeros(3, dtype)))])), "a bool, integer or float dtype")


@pytest.mark.parametrize(
    "name",
    [
        "../a.npy",
        "/etc/a.npy",
        "x/a.npy",
        "..\\a.npy",
        "a",
        "a.npy/",
        ".npy",
        "a b.npy",
        "a.npy.npy",
        "é.npy",
        "a\0.npy",
        "",
    ],
)
def test_names_that_are_no_fields_are_refused(tmp_path, name):
    raw = lying_archive(npy(np.zeros(3)), len(npy(np.zeros(3))), name=name.encode(), method=0)
    refused(written(tmp_path, raw))
    assert not (tmp_path.parent / "a.npy").exists()


def test_duplicates_and_too_many_members_are_refused(tmp_path):
    data = npy(np.zeros(3))
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive([("a.npy", data), ("a.npy", data)])
    refused(written(tmp_path, twice), "'a' twice")
    refused(written(tmp_path, archive([(f"f{number}.npy", data) for number in range(65)])), "1 to 64 members")
    refused(written(tmp_path, archive([])), "1 to 64 members")


def test_a_huge_directory_is_refused_before_it_is_read(tmp_path):
    path = written(tmp_path, lying_archive(b"", 0, repeat=2_000_000))
    tracemalloc.start()
    try:
        refused(path, "directory takes over")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20 < path.stat().st_size


@pytest.mark.parametrize("flags", [0x1, 0x20, 0x40])
def test_encrypted_members_are_refused(tmp_path, flags):
    data = npy(np.zeros(3))
    refused(written(tmp_path, lying_archive(data, len(data), method=0, flags=flags)), "a stored or deflated member")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_without_a_bound_on_memory_are_refused(tmp_path, method):
    refused(written(tmp_path, archive([("a.npy", npy(np.zeros(3)))], method)), "a stored or deflated member")


def test_bombs_are_refused_on_what_they_declare(tmp_path):
    zeros = npy(np.zeros(64 << 20, np.uint8))
    path = written(tmp_path, archive([("a.npy", zeros), ("b.npy", zeros), ("c.npy", zeros)]))
    refused(path, "compression ratio", "max_ratio")
    refused(path, "max_bytes", max_bytes=3 * (64 << 20))
    assert path.stat().st_size < 1 << 20


def test_the_limit_on_bytes_is_exact(tmp_path):
    path = write_episode(tmp_path / "a.npz", {"a": np.arange(1000, dtype=np.int32)})
    size = len(npy(np.arange(1000, dtype=np.int32)))
    assert len(read_episode(path, max_bytes=size)["a"]) == 1000
    refused(path, str(size), max_bytes=size - 1)


def test_streams_longer_or_shorter_than_declared_are_refused(tmp_path):
    declared = npy(np.arange(16, dtype=np.uint8))
    bomb = deflated(declared + bytes(300 << 20))
    crc = zlib.crc32(declared)
    with zipfile.ZipFile(io.BytesIO(lying_archive(bomb, len(declared), crc=crc))) as file:
        assert file.read("a.npy") == declared, "zipfile alone takes it for a good one"
    refused(written(tmp_path, lying_archive(bomb, len(declared), crc=crc)), "CRC")
    matching = zlib.crc32(declared + b"\0")
    refused(written(tmp_path, lying_archive(bomb, len(declared), crc=matching)), "more in the compressed stream")
    short = deflated(declared[:-1])
    refused(written(tmp_path, lying_archive(short, len(declared), crc=zlib.crc32(declared[:-1]))))
    refused(written(tmp_path, lying_archive(deflated(declared), len(declared), crc=crc ^ 1)), "CRC")


def test_shapes_that_do_not_fit_the_declared_size_are_refused(tmp_path):
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }\n"
    for shape in (b"3,", b"5,", b"1099511627776, 1099511627776", b"4, 1099511627776", b"99999999999999999999,"):
        path = written(tmp_path, archive([("a.npy", npy_text(text % shape, b"abcd"))]))
        refused(path)
        with pytest.raises(EpisodeFileError):
            peek_episode(path)
    refused(written(tmp_path, archive([("a.npy", npy_text(text % (b"1, " * 33), b"a"))])), "32 axes")
    refused(written(tmp_path, archive([("a.npy", npy_text(text % b"0, 1099511627776, 1099511627776"))])))
    large = npy_text(text % b"3221225472,")
    refused(written(tmp_path, lying_archive(deflated(large), len(large) + (3 << 30))), "declared", "max_ratio")
    good = archive([("a.npy", npy_text(text % b"2, 2", b"abcd"))])
    assert read_episode(written(tmp_path, good))["a"].tobytes() == b"abcd"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPZ\x01\x00\x10\x00",
        npy_text(b"{}"),
        npy_text(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }", b"a", version=b"\x03\x00"),
        npy_text(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }", b"a", length=9),
        npy_text(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }", b"a", length=60000),
        npy_text(b"", version=b"\x02\x00", length=0xFFFFFFFF),
        npy_text(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }", b"a"),
        npy_text(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1.0,), }", b"a"),
        npy_text(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1 2,), }", b"a" * 12),
        npy_text(b"{'descr': '|u1', 'fortran_order': 0, 'shape': (1,), }", b"a"),
        npy_text(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), 'shape': (1,)}", b"a"),
        npy_text(b"{'descr': '|u1', 'fortran_order': False, 'fortran_order': False}", b"a"),
        npy_text(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), 'more': 1}", b"a"),
        npy_text(b"{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (1,), }", b"a"),
        npy_text(b"(" * 1000),
        npy_text(b"{" + b", " * 500),
        npy_text(b"-" * 1024),
        npy_text(b"{'descr': '|b1', 'fortran_order': False, 'shape': (2,), }", b"\x01\x02"),
        npy_text(b"{'descr': 'f1', 'fortran_order': False, 'shape': (2,), }", b"\x01\x02"),
    ],
)
def test_headers_that_numpy_does_not_write_are_refused(tmp_path, data):
    refused(written(tmp_path, archive([("a.npy", data)])))


def test_a_long_header_is_refused_though_it_is_right(tmp_path):
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }"
    assert read_episode(written(tmp_path, archive([("a.npy", npy_text(text.ljust(1024), b"a"))])))["a"] == ord("a")
    refused(written(tmp_path, archive([("a.npy", npy_text(text.ljust(1025), b"a"))])), "at most 1024 bytes")


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x89HDF\r\n", os.urandom(4096), bytes(4096)])
def test_what_is_no_archive_is_refused(tmp_path, data):
    path = written(tmp_path, data)
    refused(path)
    with pytest.raises(EpisodeFileError):
        peek_episode(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_anywhere_is_refused(tmp_path, save):
    buffer = io.BytesIO()
    save(buffer, **episode())
    whole = buffer.getvalue()
    for length in range(0, len(whole), 7):
        refused(written(tmp_path, whole[:length]))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, save):
    buffer = io.BytesIO()
    arrays = episode(rows=3)
    save(buffer, **arrays)
    whole = buffer.getvalue()
    rng = np.random.default_rng(1)
    num_refused = 0
    for place in rng.integers(0, len(whole), 1500):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path = written(tmp_path, flipped)
        try:
            found = read_episode(path)
        except EpisodeFileError:
            num_refused += 1
            continue
        same(found, arrays)
    assert num_refused > 500


HOSTILE_CHILD = """
import resource, sys
from replaystore.errors import EpisodeFileError
from replaystore.datasets.drqv2_npz import peek_episode, read_episode

def used():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

limit = used() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    for read in (read_episode, peek_episode):
        try:
            read(path)
        except EpisodeFileError as err:
            print(read.__name__, err)
        else:
            print(read.__name__, "accepted", path)
"""


def test_hostile_files_take_little_memory(tmp_path):
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }\n"
    zeros = bytes(300 << 20)
    header = npy_text(text % len(zeros))
    declared = npy(np.arange(16, dtype=np.uint8))
    inner = deflated(declared + zeros)
    large = npy_text(text % (3 << 30))
    noise = np.random.default_rng(0).integers(0, 256, 2 << 20, np.uint8).tobytes()
    corpus = {
        "bomb": lying_archive(deflated(header + zeros), len(header) + len(zeros), crc=zlib.crc32(header + zeros)),
        "longer": lying_archive(inner, len(declared), crc=zlib.crc32(declared)),
        "directory": lying_archive(b"", 0, repeat=1_000_000),
        "header": archive([("a.npy", npy_text(b"", zeros, version=b"\x02\x00", length=len(zeros)))]),
        # Declares what the limits just allow, but there is no memory for it.
        "unaffordable": lying_archive(large + noise * 7, len(large) + (3 << 30), method=0),
    }
    paths = [written(tmp_path, data, f"{name}.npz") for name, data in corpus.items()]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(HOSTILE_CHILD), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 2 * len(paths), done.stdout
    for line, words in zip(said[::2], ("ratio", "CRC", "directory takes", "ratio", "MemoryError"), strict=True):
        assert line.startswith("read_episode")
        assert words in line
