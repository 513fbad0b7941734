"""A lossless codec for image sequences that stores differences between frames."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, Self

import google_crc32c
import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ndarray_copy
from numpy.typing import NDArray

from replaystore.codecs.frame_delta import chunk as frame_chunk
from replaystore.codecs.frame_delta import groups as frame_groups
from replaystore.codecs.frame_delta.chunk import ENTROPIES, FILTERS, REFERENCES, FrameChunk, FrameFormat
from replaystore.codecs.frame_delta.requests import find_groups
from replaystore.errors import ChunkError, EpisodeError, SpecError
from replaystore.kernels.group_request import GroupTable

DEFAULT_LEVELS = {"packed": 4, "lz4": 4, "zstd": 1, "spans": 4}
_DEFAULT_FILTERS = {"zstd": "left"}
_COLOR_ENTROPIES = ("packed", "lz4", "zstd", "spans")  # they subtract green without being asked
_MAX_INTERVAL = 0xFFFF
_LEVELS = {"packed": range(13), "lz4": range(13), "zstd": range(-7, 23), "spans": range(13)}


class FrameDelta(Codec):  # type: ignore[misc]
    """Stores each frame as its difference to another frame, in compressed groups. A frame decodes from its group alone.

    Lossless for uint8 frames of any size. docs/format.md describes the bytes. As a numcodecs `Codec` it turns an array
    of frames into the bytes of a chunk and back, and works with any Zarr array. In a store the `RowCodec` `FrameGroups`
    (in `columns/`) calls its kernels for many chunks at once, so that a batch decodes only the groups it needs.

    Three frames of 1 x 4 pixels, each stored as its difference to the frame before:

    >>> frames = np.array([[[10, 10, 10, 10]], [[10, 99, 10, 10]], [[10, 99, 10, 12]]], np.uint8)
    >>> codec = FrameDelta(frame_shape=(1, 4), reference="previous", entropy="none")
    >>> chunk = codec.encode(frames)
    >>> list(chunk[-12:-8]), list(chunk[-8:-4]), list(chunk[-4:])
    ([10, 10, 10, 10], [0, 89, 0, 0], [0, 0, 0, 2])
    >>> codec.decode_rows(chunk, [2, 0]).tolist()
    [[[10, 99, 10, 12]], [[10, 10, 10, 10]]]

    Args:
        frame_shape: (height, width), (channels, height, width) or (height, width, channels).
        channels: position of the channels of a three-dimensional frame, `"first"` or `"last"`.
        keyframe_interval: most frames per group. With entropy `packed` or `lz4`, groups may have twice as many where
            little changes.
        reference: the frame that a frame is the difference to. `"inward"` takes the neighbour nearer to the keyframe,
            which is in the middle of the group. A batch then decodes half as many frames as with `"previous"`.
            `"previous"` takes the frame before, and the keyframe comes first. `"keyframe"` takes the keyframe itself,
            which is fastest for single frames, and larger.
        entropy: how groups are compressed. `"packed"` stores differences in as few bits as they need, eight at a time,
            or runs of changed bytes, or LZ4 blocks where much repeats. `"spans"` stores only runs of changed bytes.
            `"lz4"` stores an LZ4 block, or spans if they are not larger. `"zstd"` is the smallest. Its blocks hold a
            group, or a frame with reference `"keyframe"`. `"points"` is the published scheme, (row, column, int16
            difference). `"none"` does not compress.
        level: level of the compressor: 0 to 12 for LZ4 (high compression from 3 on), also with `"packed"`, -7 to 22 for
            zstd. None takes the default.
        keyframe_filter: `"none"`, or the difference to the pixel `"left"` or `"up"`. None takes the default of
            `entropy`.
        color_transform: `"none"`, or `"subtract_green"` from the other two of three channels. None takes the default.
        channels_moved: whether channels-first frames are stored channels last, which compresses colour better. None
            takes the default.

    Raises:
        SpecError: the configuration cannot work.
    """

    codec_id = "replaystore.frame_delta"

    def __init__(
        self,
        *,
        frame_shape: Sequence[int],
        channels: Literal["first", "last"] = "first",
        keyframe_interval: int = 16,
        reference: Literal["inward", "previous", "keyframe"] = "inward",
        entropy: Literal["packed", "lz4", "zstd", "spans", "points", "none"] = "packed",
        level: int | None = None,
        keyframe_filter: Literal["none", "left", "up"] | None = None,
        color_transform: Literal["none", "subtract_green"] | None = None,
        channels_moved: bool | None = None,
    ) -> None:
        shape = tuple(int(n) for n in frame_shape)
        if len(shape) not in (2, 3) or min(shape) < 1 or int(np.prod(shape, dtype=object)) >= 1 << 30:
            raise SpecError(f"frame_delta: frame_shape is (height, width) or with channels, under 1 GiB, got {shape}")
        _one_of("channels", channels, ("first", "last"))
        _one_of("reference", reference, REFERENCES)
        _one_of("entropy", entropy, ENTROPIES)
        if not 1 <= keyframe_interval <= _MAX_INTERVAL:
            raise SpecError(f"frame_delta: keyframe_interval is 1 to {_MAX_INTERVAL}, got {keyframe_interval}")
        if level is None:
            level = DEFAULT_LEVELS.get(entropy, 0)
        if level not in _LEVELS.get(entropy, (0,)):
            raise SpecError(f"frame_delta: no level {level} for entropy {entropy!r}; leave it out for the default")
        num_channels = 1 if len(shape) == 2 else shape[0 if channels == "first" else 2]
        if keyframe_filter is None:
            keyframe_filter = _DEFAULT_FILTERS.get(entropy, "none")  # type: ignore[assignment]
        _one_of("keyframe_filter", keyframe_filter, FILTERS)
        if color_transform is None:
            color_transform = "subtract_green" if num_channels == 3 and entropy in _COLOR_ENTROPIES else "none"
        _one_of("color_transform", color_transform, ("none", "subtract_green"))
        if color_transform != "none" and num_channels != 3:
            raise SpecError(f"frame_delta: subtract_green needs 3 channels, frames {shape} have {num_channels}")
        can_move = len(shape) == 3 and channels == "first"
        if channels_moved is None:
            channels_moved = can_move and 1 < num_channels <= 4 and entropy != "points"
        if channels_moved and not can_move:
            raise SpecError(f"frame_delta: channels_moved needs channels-first frames, got {shape} {channels}")
        self.frame_shape = shape
        self.channels = channels
        self.keyframe_interval = int(keyframe_interval)
        self.reference = reference
        self.entropy = entropy
        self.level = int(level)
        self.keyframe_filter = keyframe_filter
        self.color_transform = color_transform
        self.channels_moved = bool(channels_moved)
        color = frame_chunk.COLOR_NONE
        if color_transform != "none":
            color = frame_chunk.COLOR_LAST if channels_moved or channels == "last" else frame_chunk.COLOR_FIRST
        self._format = FrameFormat(
            frame_shape=shape,
            keyframe_interval=self.group_rows,
            reference=REFERENCES.index(reference),
            entropy=ENTROPIES.index(entropy),
            keyframe_filter=FILTERS.index(self.keyframe_filter),
            color=color,
            channels_moved=self.channels_moved,
        )

    @classmethod
    def published(
        cls, *, frame_shape: Sequence[int], frame_stack: int, channels: Literal["first", "last"] = "first"
    ) -> Self:
        """Returns the scheme of "Differentially Encoded Observation Spaces".

        Every `frame_stack`-th frame is a keyframe. Changed pixels are (row, column, int16 difference) to it. A frame is
        stored raw if that is not smaller.

        Args:
            frame_shape: shape of one frame, as for the class.
            frame_stack: frames per group.
            channels: position of the channels, `"first"` or `"last"`.
        """
        return cls(
            frame_shape=frame_shape,
            channels=channels,
            keyframe_interval=frame_stack,
            reference="keyframe",
            entropy="points",
        )

    @property
    def format(self) -> FrameFormat:
        """The format in the header of this codec's chunks, without counts."""
        return self._format

    @property
    def group_rows(self) -> int:
        """Most frames per group.

        That is twice `keyframe_interval` if spans compete with blocks, and `keyframe_interval` otherwise. Groups start
        anew at every multiple of `group_rows`, so parts of a chunk that end there can be encoded separately.
        """
        competing = self.entropy in ("packed", "lz4") and self.reference != "keyframe"
        return min(_MAX_INTERVAL, 2 * self.keyframe_interval) if competing else self.keyframe_interval

    def encode_frames(
        self, frames: NDArray[np.uint8], starts: Sequence[int] = (), *, overwrite: bool = False
    ) -> bytes:  # fmt: skip
        """Encodes frames as a chunk.

        Args:
            frames: uint8 (rows, *frame_shape).
            starts: rows that start a new group, because no difference may cross them.
            overwrite: whether `frames` may be overwritten, which saves memory of that size.

        Raises:
            SpecError: a start is outside the chunk.
        """
        bounds = sorted({0, len(frames), *(int(s) for s in starts)})
        if bounds[0] < 0 or bounds[-1] != len(frames):
            raise SpecError(f"frame_delta: starts must lie in 0 .. {len(frames)}, got {bounds}")
        payload = frame_groups.payload_frames(frames, self._format, overwrite=overwrite)
        groups = []
        for start, stop in pairwise(bounds):
            for first in range(start, stop, self.group_rows):
                run = payload[first : min(first + self.group_rows, stop)]
                groups += frame_groups.encode_run(run, self._format, self.level, self.keyframe_interval)
        return frame_chunk.pack_chunk(self._format, len(frames), groups)

    def encode(self, buf: Any) -> bytes:
        """Encodes whole frames as a chunk.

        Args:
            buf: uint8 in C order, of any shape whose bytes are whole frames.

        Raises:
            EpisodeError: the dtype, size or order is wrong.
        """
        array = np.asarray(buf)
        if array.dtype != np.uint8 or array.size % self._format.frame_bytes:
            raise EpisodeError(
                f"frame_delta: expected uint8 frames of shape {self.frame_shape}, got {array.dtype} {array.shape}"
            )
        if not array.flags.c_contiguous and array.flags.f_contiguous:
            raise EpisodeError("frame_delta: expected C order, got a Fortran-ordered array; store it with order='C'")
        return self.encode_frames(np.ascontiguousarray(array).reshape(-1, *self.frame_shape))

    def parse(self, chunk: Any, where: str = "frame_delta chunk") -> FrameChunk:
        """Returns the header and table of a chunk, checked.

        Args:
            chunk: the bytes of the whole chunk.
            where: place to name in errors.

        Raises:
            ChunkError: the chunk is damaged, or holds frames of another shape.
            FormatVersionError: this release does not read the chunk's version.
        """
        parsed = frame_chunk.parse_chunk(chunk, len(chunk), where)
        if parsed.format.frame_shape != self.frame_shape:
            raise ChunkError(f"{where}: expected frames {self.frame_shape}, found {parsed.format.frame_shape}")
        return parsed

    def decode_rows(self, chunk: Any, rows: Any, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Decodes rows of a chunk.

        Args:
            chunk: the bytes of the whole chunk.
            rows: int64 (n,), in any order.
            out: uint8 (n, *frame_shape) to fill. None makes an array.

        Returns:
            uint8 (n, *frame_shape).

        Raises:
            ChunkError: the chunk is damaged.
            FormatVersionError: this release does not read the chunk's version.
            IndexError: a row does not exist.
        """
        view = memoryview(chunk).cast("B")
        return self._decode_rows(view, self.parse(view), np.asarray(rows, np.int64), out)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decodes all frames of a chunk and checks every CRC.

        Args:
            buf: the bytes of the whole chunk.
            out: a buffer to fill. None makes an array.

        Returns:
            `out`, or a new array, uint8 (rows, *frame_shape).

        Raises:
            ChunkError: the chunk is damaged.
            FormatVersionError: this release does not read the chunk's version.
        """
        view = memoryview(ensure_bytes(buf))
        parsed = self.parse(view)
        check_groups(view[parsed.payload_start :], parsed, "frame_delta chunk")
        frames = self._decode_rows(view, parsed, np.arange(parsed.num_rows), None)
        return frames if out is None else ndarray_copy(frames, out)

    def _decode_rows(
        self, view: memoryview, parsed: FrameChunk, rows: NDArray[np.int64], out: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        if rows.size and not 0 <= rows.min() <= rows.max() < parsed.num_rows:
            raise IndexError(f"rows of a chunk lie in 0 .. {parsed.num_rows - 1}, got {rows.min()} .. {rows.max()}")
        result = np.empty((len(rows), *self.frame_shape), np.uint8) if out is None else out
        order = np.argsort(rows, kind="stable")
        data = np.frombuffer(view, np.uint8)
        table = GroupTable(
            tables=np.array([parsed.table_address]), num_groups=np.array([len(parsed.table)]),
            payloads=np.array([data.ctypes.data + parsed.payload_start]), first_chunk=0,
            chunk_rows=max(1, parsed.num_rows),
        )  # fmt: skip
        request = find_groups(table, rows[order], order, np.zeros(len(rows), np.int64), "frame_delta chunk")
        frame_groups.decode_groups(
            request, parsed.format, self.channels == "last", 1, result.reshape(len(rows), self._format.frame_bytes),
            lambda g: f"frame_delta chunk, group {request.numbers[g]}",
        )  # fmt: skip
        return result

    def get_config(self) -> dict[str, Any]:
        """Returns plain data from which `from_config` makes an equal codec."""
        return {
            "id": self.codec_id,
            "frame_shape": list(self.frame_shape),
            "channels": self.channels,
            "keyframe_interval": self.keyframe_interval,
            "reference": self.reference,
            "entropy": self.entropy,
            "level": self.level,
            "keyframe_filter": self.keyframe_filter,
            "color_transform": self.color_transform,
            "channels_moved": self.channels_moved,
        }

    def __repr__(self) -> str:
        config = self.get_config()
        config["frame_shape"] = self.frame_shape
        return f"FrameDelta({', '.join(f'{key}={value!r}' for key, value in config.items() if key != 'id')})"


def check_groups(payload: Any, parsed: FrameChunk, where: str) -> None:
    """Checks the CRC of every group of a chunk.

    Args:
        payload: the bytes after the table.
        parsed: header and table of the chunk.
        where: place to name in the error.

    Raises:
        ChunkError: a group is damaged.
    """
    for group, entry in enumerate(parsed.table):
        start, length = int(entry["offset"]), int(entry["length"])
        found = google_crc32c.value(np.frombuffer(payload, np.uint8, length, start))
        if found != int(entry["crc"]):
            raise ChunkError(f"{where}, group {group}: CRC32C expected {int(entry['crc']):08x}, found {found:08x}")


def _one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise SpecError(f"frame_delta: {name} is one of {tuple(allowed)}, got {value!r}")
