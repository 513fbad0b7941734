"""What every codec has to do, whatever it stores. New codecs and configurations go into `CASES`."""

import io
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr

from replaystore.codecs.frame_delta import FrameDelta
from replaystore.codecs.round_clamp import RoundClamp
from replaystore.codecs.zarr_v3 import FrameDeltaV3, RoundClampV3
from replaystore.errors import ChunkError, EpisodeError, FormatVersionError, SpecError

GOLDEN = Path(__file__).parents[1] / "golden" / "chunks"
NAMESPACE = {"RoundClamp": RoundClamp, "FrameDelta": FrameDelta}
SERIALIZERS = {RoundClamp: RoundClampV3, FrameDelta: FrameDeltaV3}


@dataclass(frozen=True)
class Case:
    name: str
    codec: numcodecs.abc.Codec
    data: np.ndarray
    exact_bytes: bool = True  # False where another library's compressor chooses the bytes

    @property
    def serializer(self):
        return SERIALIZERS[type(self.codec)](self.codec)

    @property
    def lossless(self):
        return not isinstance(self.codec, RoundClamp)

    @property
    def finds_damage(self):
        """Whether the codec has checksums of its own, which find every altered byte."""
        return isinstance(self.codec, FrameDelta)


def moving_frames(num_frames, shape, channels="first"):
    """Frame t: a fixed pattern, a block that moves with t, and a pixel that says t; the frame at 5 is noise."""
    height, width = shape if len(shape) == 2 else shape[1:] if channels == "first" else shape[:2]
    num_channels = 1 if len(shape) == 2 else shape[0 if channels == "first" else 2]
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(num_channels), indexing="ij")
    frames = np.empty((num_frames, height, width, num_channels), np.uint8)
    for t in range(num_frames):
        frames[t] = (5 * y + 3 * x + 40 * c) // 4 % 256
        frames[t, t % height : t % height + 3, t % width : t % width + 2] += 90
        frames[t, 0, 0] = t
    if num_frames > 5:
        position = (y * width + x) * num_channels + c + 1
        frames[5] = (position * np.int64(2654435761) >> 13) % 256
    if len(shape) == 2:
        return frames[..., 0]
    return np.ascontiguousarray(np.moveaxis(frames, -1, 1)) if channels == "first" else frames


def numbers(dtype, num_rows, row_size, low, high):
    """From below `low` to above `high` in every column, with zeros of both signs and numbers close to them."""
    steps = np.linspace(-0.1, 1.1, num_rows)[:, None] + np.linspace(0.0, 0.01, row_size)
    values = (low + (np.asarray(high) - low) * steps).astype(dtype)
    values[1, 0], values[2, 0], values[3, 0] = -0.0, np.finfo(dtype).smallest_subnormal, -np.finfo(dtype).tiny
    return values


def _frame_case(name, num_frames=12, channels="first", shape=(9, 10), **config):
    codec = FrameDelta(frame_shape=shape, channels=channels, **config)
    return Case(name, codec, moving_frames(num_frames, shape, channels), codec.entropy not in ("packed", "lz4", "zstd"))


LOWS, HIGHS = (-1.0, 0.25, 3.0, -0.001), (1.0, 0.25, 500.0, 0.001)

CASES = [
    Case("round_clamp_default", RoundClamp(), numbers("float32", 20, 1, -127.0, 127.0)),
    Case("round_clamp_1", RoundClamp(decimals=1, row_size=7), numbers("float32", 12, 7, -127.0, 127.0)),
    Case("round_clamp_asymmetric", RoundClamp(low=-0.3, high=9.7, row_size=3), numbers("float32", 12, 3, -0.3, 9.7)),
    Case(
        "round_clamp_each",
        RoundClamp(decimals=3, low=LOWS, high=HIGHS, dtype="float64"),
        numbers("float64", 15, 4, np.array(LOWS), HIGHS),
    ),
    Case(
        "round_clamp_tens",
        RoundClamp(decimals=-1, low=-4000.0, high=2000.0, dtype="float16", row_size=2),
        numbers("float16", 12, 2, -4000.0, 2000.0),
    ),
    Case(
        "round_clamp_53_bits",
        RoundClamp(decimals=0, low=-(2.0**52), high=2.0**52 - 1, dtype="float64", row_size=2),
        numbers("float64", 9, 2, -(2.0**52), 2.0**52 - 1),
    ),
    Case("round_clamp_0_bits", RoundClamp(low=0.5, high=0.5, row_size=3), numbers("float32", 8, 3, 0.0, 1.0)),
    Case(
        "round_clamp_constants",
        RoundClamp(low=-1.0, high=2.0, nan=0.5, posinf=9.0, neginf=-9.0),
        np.array([[np.nan], [np.inf], [-np.inf], [0.126]], np.float32),
    ),
    _frame_case("frame_delta_lz4", entropy="lz4"),
    _frame_case("frame_delta_rgb", entropy="lz4", shape=(3, 9, 10)),
    _frame_case("frame_delta_rgb_last", entropy="lz4", shape=(9, 10, 3), channels="last", keyframe_interval=5),
    _frame_case("frame_delta_rgb_plain", entropy="lz4", shape=(3, 9, 10), color_transform="none", channels_moved=False),
    _frame_case(
        "frame_delta_green", entropy="lz4", shape=(3, 9, 10), color_transform="subtract_green", channels_moved=False
    ),
    _frame_case("frame_delta_4_channels", entropy="lz4", shape=(4, 9, 10), keyframe_filter="up", level=0),
    _frame_case("frame_delta_previous", entropy="lz4", reference="previous", keyframe_interval=7),
    _frame_case("frame_delta_previous_rgb", shape=(3, 9, 10), reference="previous", entropy="zstd"),
    _frame_case("frame_delta_spans_inward", entropy="spans", shape=(3, 9, 10), keyframe_interval=9),
    _frame_case("frame_delta_zstd", entropy="zstd", shape=(3, 9, 10), level=3),
    _frame_case("frame_delta_zstd_keyframe", entropy="zstd", reference="keyframe", keyframe_interval=4),
    _frame_case("frame_delta_lz4_keyframe", entropy="lz4", reference="keyframe", keyframe_filter="left"),
    _frame_case("frame_delta_spans", entropy="spans", reference="keyframe", keyframe_interval=4),
    _frame_case("frame_delta_spans_rgb", entropy="spans", reference="keyframe", shape=(3, 9, 10)),
    _frame_case("frame_delta_none", entropy="none", keyframe_filter="left", keyframe_interval=1),
    _frame_case("frame_delta_1_pixel", entropy="lz4", shape=(1, 1), num_frames=40),
    _frame_case("frame_delta_points_wide", entropy="points", reference="keyframe", shape=(2, 300), num_frames=4),
    _frame_case("frame_delta_default"),
    _frame_case("frame_delta_packed_rgb", entropy="packed", shape=(3, 9, 10), keyframe_interval=5),
    _frame_case("frame_delta_packed_rgb_last", entropy="packed", shape=(9, 10, 3), channels="last"),
    _frame_case("frame_delta_packed_keyframe", entropy="packed", reference="keyframe", shape=(4, 9, 10)),
    _frame_case("frame_delta_packed_still", shape=(60, 70), num_frames=40),
    _frame_case("frame_delta_packed_previous", entropy="packed", reference="previous", shape=(21, 33)),
    Case(
        "frame_delta_published",
        FrameDelta.published(frame_shape=(9, 10), frame_stack=3),
        moving_frames(12, (9, 10)),
    ),
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def largest_error(codec, values, decoded):
    """Largest excess of the error over 0.5 * 10**-m and half a unit in the last place, in whole arithmetic."""
    dtype = np.dtype(codec.dtype)
    low, high = (np.broadcast_to(np.asarray(b, dtype), values.shape[-1:]) for b in (codec.low, codec.high))
    half = Fraction(1, 2) * Fraction(10) ** -codec.decimals
    worst = Fraction(-1)
    for index in np.ndindex(values.shape):
        clamped = min(max(values[index], low[index[-1]]), high[index[-1]])
        unit = Fraction(float(np.spacing(np.abs(decoded[index])))) / 2
        error = abs(Fraction(float(decoded[index])) - Fraction(float(clamped)))
        worst = max(worst, error - half - unit)
    return worst


@every_case
def test_round_trip(case):
    decoded = case.codec.decode(case.codec.encode(case.data))
    assert isinstance(decoded, np.ndarray)
    assert decoded.shape == case.data.shape
    if case.lossless:
        assert same_bits(decoded, case.data)
    else:
        assert decoded.dtype == case.data.dtype
        finite = np.isfinite(case.data).all(axis=1)
        assert largest_error(case.codec, case.data[finite], decoded[finite]) <= 0
        assert same_bits(case.codec.decode(case.codec.encode(decoded)), decoded)
        assert bytes(case.codec.encode(decoded)) == bytes(case.codec.encode(case.data))


@every_case
def test_input_is_not_touched_and_may_be_any_buffer(case):
    before = case.data.copy()
    encoded = bytes(case.codec.encode(case.data))
    assert same_bits(case.data, before)
    spread = np.empty((2 * len(before), *before.shape[1:]), before.dtype)
    spread[::2] = before
    read_only = before.copy()
    read_only.setflags(write=False)
    for form in (spread[::2], read_only, memoryview(before), before.reshape(len(before), -1)):
        assert bytes(case.codec.encode(form)) == encoded
    expected = case.codec.decode(encoded)
    for form in (bytearray(encoded), memoryview(encoded), np.frombuffer(encoded, np.uint8)):
        assert same_bits(case.codec.decode(form), expected)


@every_case
def test_no_rows(case):
    decoded = case.codec.decode(case.codec.encode(case.data[:0]))
    assert same_bits(decoded, case.data[:0])


@every_case
def test_out(case):
    encoded = case.codec.encode(case.data)
    expected = case.codec.decode(encoded)
    for shape in (expected.shape, (expected.size,)):
        out = np.full(shape, 77, expected.dtype)
        result = case.codec.decode(encoded, out=out)
        assert np.shares_memory(result, out)
        assert same_bits(out.reshape(expected.shape), expected)
    for rows in (len(expected) - 1, len(expected) + 1):
        with pytest.raises((ChunkError, ValueError)):
            case.codec.decode(encoded, out=np.empty((rows, *expected.shape[1:]), expected.dtype))


@every_case
def test_configuration(case):
    config = json.loads(json.dumps(case.codec.get_config(), allow_nan=False))
    again = numcodecs.get_codec(dict(config))
    assert type(again) is type(case.codec)
    assert again == case.codec
    assert again.get_config() == config
    assert pickle.loads(pickle.dumps(case.codec)) == case.codec
    assert case.codec != "another"


@every_case
def test_repr_is_the_constructor_call(case):
    assert eval(repr(case.codec), dict(NAMESPACE)) == case.codec


@every_case
def test_truncated_input_is_refused(case):
    encoded = bytes(case.codec.encode(case.data))
    out = np.empty_like(case.data)
    for length in range(len(encoded)):
        with pytest.raises(ChunkError):
            case.codec.decode(encoded[:length], out=out)


@every_case
def test_altered_input_is_refused_or_decodes_in_shape(case):
    encoded = bytearray(case.codec.encode(case.data))
    for position in range(len(encoded)):
        encoded[position] ^= 0xFF
        try:
            decoded = case.codec.decode(bytes(encoded))
        except (ChunkError, FormatVersionError):
            pass
        else:
            assert not case.finds_damage, f"byte {position} is not checked"
            assert decoded.shape == case.data.shape
        encoded[position] ^= 0xFF


@every_case
def test_serializer_configuration(case):
    serializer = case.serializer
    again = type(serializer).from_dict(json.loads(json.dumps(serializer.to_dict())))
    assert again == serializer
    assert hash(again) == hash(serializer)
    with pytest.raises(SpecError):
        type(serializer).from_dict({"name": serializer.name, "configuration": {"no_such_setting": 1}})
    with pytest.raises(SpecError, match="expected a"):
        type(serializer)("another")


def make_arrays(root, case):
    """One array of each Zarr format, with a last chunk that Zarr pads."""
    common = {"shape": case.data.shape, "chunks": (3, *case.data.shape[1:]), "dtype": case.data.dtype}
    array_2 = zarr.create_array(root / case.name / "2", zarr_format=2, filters=[case.codec], compressors=None, **common)
    array_3 = zarr.create_array(
        root / case.name / "3", zarr_format=3, serializer=case.serializer, compressors=None, **common
    )
    for array in (array_2, array_3):
        array[:] = case.data
    return array_2, array_3


@every_case
def test_zarr(case, tmp_path):
    expected = case.codec.decode(case.codec.encode(case.data))
    array_2, array_3 = make_arrays(tmp_path, case)
    assert same_bits(array_2[:], expected)
    assert same_bits(array_3[:], expected)
    assert same_bits(array_3[2:4], expected[2:4])
    for chunk in (tmp_path / case.name).rglob("3/c/0/**/*"):
        if chunk.is_file():
            assert chunk.read_bytes() == bytes(case.codec.encode(case.data[:3]))


@every_case
def test_zarr_shards(case):
    expected = case.codec.decode(case.codec.encode(case.data))
    row_shape = case.data.shape[1:]
    array = zarr.create_array(
        {}, shape=case.data.shape, chunks=(2, *row_shape), shards=(4, *row_shape), dtype=case.data.dtype,
        serializer=case.serializer, compressors=None,
    )  # fmt: skip
    array[:] = case.data
    assert same_bits(array[:], expected)


@every_case
def test_truncated_zarr_chunk_is_refused(case, tmp_path):
    make_arrays(tmp_path, case)
    for chunk in (tmp_path / case.name / "3" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    with pytest.raises(ChunkError):
        zarr.open_array(tmp_path / case.name / "3", mode="r")[:]


@every_case
def test_memory_order_does_not_scramble(case):
    """Format 2 hands filters the chunk in the array's order: to be refused, or to come back right."""
    array = zarr.create_array(
        {}, shape=case.data.shape, chunks=case.data.shape, dtype=case.data.dtype, zarr_format=2, order="F",
        filters=[case.codec], compressors=None,
    )  # fmt: skip
    try:
        array[:] = case.data
    except EpisodeError:
        pass
    else:
        assert same_bits(np.ascontiguousarray(array[:]), case.codec.decode(case.codec.encode(case.data)))
    array_3 = zarr.create_array(
        {}, shape=case.data.shape, chunks=case.data.shape, dtype=case.data.dtype, serializer=case.serializer,
        compressors=None, config={"order": "F"},
    )  # fmt: skip
    array_3[:] = case.data
    assert same_bits(np.ascontiguousarray(array_3[:]), case.codec.decode(case.codec.encode(case.data)))


@every_case
def test_serializer_refuses_arrays_that_do_not_suit(case):
    shape = case.data.shape
    other_dtype = "float64" if case.data.dtype == np.float32 else "float32"
    attempts = [
        {"shape": shape, "chunks": shape, "dtype": other_dtype},
        {"shape": (*shape, 2), "chunks": (*shape, 2), "dtype": case.data.dtype},
        {"shape": (), "chunks": (), "dtype": case.data.dtype},
    ]
    if case.data[0].size > 1 and shape[-1] > 1:
        attempts.append({"shape": shape, "chunks": (*shape[:-1], 1), "dtype": case.data.dtype})
    for attempt in attempts:
        with pytest.raises(SpecError):
            zarr.create_array({}, serializer=case.serializer, compressors=None, **attempt)


def run_python(code, *arguments, stdin=""):
    """A fresh interpreter, outside this directory, that has not imported the package."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        input=stdin, capture_output=True, text=True, check=True, cwd="/",
    ).stdout  # fmt: skip


def test_numcodecs_finds_the_codecs_by_entry_point():
    code = (
        "import json, sys, numcodecs; assert not any(m.startswith('replaystore') for m in sys.modules)\n"
        "for config in json.load(sys.stdin): print(repr(numcodecs.get_codec(config)))"
    )
    printed = run_python(code, stdin=json.dumps([case.codec.get_config() for case in CASES]))
    assert printed.splitlines() == [repr(case.codec) for case in CASES]


def test_zarr_finds_the_codecs_by_entry_point(tmp_path):
    expected = {}
    for case in CASES:
        make_arrays(tmp_path, case)
        expected[case.name] = case.codec.decode(case.codec.encode(case.data))
    code = (
        "import sys, zarr; assert not any(m.startswith('replaystore') for m in sys.modules)\n"
        "for path in sys.argv[1:]:\n"
        "    for version in '23': print(zarr.open_array(f'{path}/{version}', mode='r')[:].tobytes().hex())"
    )
    printed = run_python(code, *(str(tmp_path / case.name) for case in CASES)).splitlines()
    assert printed == [expected[case.name].tobytes().hex() for case in CASES for _ in range(2)]


def golden_path(case):
    return GOLDEN / f"{case.name}.npz"


def golden_bytes(case):
    """What `make_golden.py` writes: configuration, encoded and decoded data of the case, as an npz file."""
    encoded = np.frombuffer(bytes(case.codec.encode(case.data)), np.uint8)
    config = np.frombuffer(json.dumps(case.codec.get_config(), sort_keys=True).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, config=config, encoded=encoded, decoded=case.codec.decode(encoded))
    return file.getvalue()


@every_case
def test_golden(case):
    """What an earlier release wrote is read as before; a missing file fails (`make_golden.py` makes them)."""
    with np.load(golden_path(case), allow_pickle=False) as golden:
        config, encoded, decoded = (golden[name] for name in ("config", "encoded", "decoded"))
    written_by = numcodecs.get_codec(json.loads(config.tobytes()))
    assert written_by == case.codec
    assert same_bits(written_by.decode(encoded), decoded)
    assert same_bits(case.codec.decode(case.codec.encode(case.data)), decoded)
    if case.exact_bytes:
        assert bytes(case.codec.encode(case.data)) == encoded.tobytes()


def test_golden_files_are_those_of_the_cases():
    assert {path.name for path in GOLDEN.iterdir()} == {golden_path(case).name for case in CASES}
