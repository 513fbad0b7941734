"""Encoding and decoding one group of frames: a keyframe and the frames that need it."""

from __future__ import annotations

from typing import Any

import cramjam
import lz4.block
import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_chunk import (
    COLOR_FIRST,
    COLOR_LAST,
    COLOR_NONE,
    ENTROPIES,
    FORM_BLOCK,
    FORM_DELTA,
    FORM_LIST,
    FORM_RAW,
    FORM_RAW_BLOCK,
    FrameFormat,
)
from replaystore.codecs.lz4_prefix import decode_prefix
from replaystore.errors import ChunkError
from replaystore.kernels import delta, emit

U8 = NDArray[np.uint8]

_LZ4, _ZSTD = ENTROPIES.index("lz4"), ENTROPIES.index("zstd")
_SPANS, _POINTS = ENTROPIES.index("spans"), ENTROPIES.index("points")
_LZ4_HC_FROM = 3  # levels of LZ4's high-compression encoder start here


def payload_frames(frames: U8, fmt: FrameFormat) -> U8:
    """Frames (rows, *frame_shape) in payload form, as (rows, frame_bytes): channels moved, R and B minus G."""
    if fmt.channels_moved:
        frames = frames.transpose(0, 2, 3, 1)
    if fmt.color == COLOR_NONE:
        return np.ascontiguousarray(frames).reshape(len(frames), fmt.frame_bytes)
    result: U8 = np.array(frames, order="C", copy=True)
    red, green, blue = (result[..., c] if fmt.color == COLOR_LAST else result[:, c] for c in range(3))
    red -= green
    blue -= green
    return result.reshape(len(frames), fmt.frame_bytes)


def write_frames(
    payload: U8,
    sources: NDArray[np.int64],
    fmt: FrameFormat,
    out: U8,
    targets: NDArray[np.int64],
    slots: NDArray[np.int64],
    depth: int,
    channels_last: bool,
) -> None:
    """Payload frames `sources` into observations: frame j becomes the `slots[j]`-th of `depth` in `out[targets[j]]`.

    out: uint8 (batch, depth * frame_bytes). `channels_last`: where observations have their channels.
    """
    shape = fmt.frame_shape
    if len(shape) == 2:
        channels, source_last = 1, False
    elif fmt.channels_moved:
        channels, source_last = shape[0], True
    else:
        channels, source_last = (shape[2], True) if channels_last else (shape[0], False)
    pixels = fmt.frame_bytes // channels
    add_green = fmt.color in (COLOR_LAST, COLOR_FIRST)
    status = emit.emit_frames(
        payload, sources, targets, slots, pixels, channels, source_last, add_green, channels_last, depth, out
    )
    assert status == 0, "indices outside the batch"


def encode_group(payload: U8, fmt: FrameFormat, level: int) -> tuple[int, bytes]:
    """(form, bytes) of a group. payload: frames in payload form, uint8 (group rows, frame bytes)."""
    if fmt.entropy in (_SPANS, _POINTS) or (fmt.reference == delta.REFERENCE_KEYFRAME and fmt.entropy != 0):
        listed = _encode_list(payload, fmt, level)
        return (FORM_LIST, listed) if len(listed) < payload.size else (FORM_RAW, payload.tobytes())
    differences = payload.copy()
    if fmt.reference == delta.REFERENCE_PREVIOUS:
        differences[1:] -= payload[:-1]
    else:
        differences[1:] -= payload[:1]
    _filter_keyframe(differences[0], fmt)
    if fmt.entropy == 0:
        return FORM_DELTA, differences.tobytes()
    block = _compress(differences, fmt.entropy, level)
    form = FORM_BLOCK
    if len(block) > payload.size // 2:  # differences hardly help: a cut, or noise
        other = _compress(payload, fmt.entropy, level)
        if len(other) < len(block):
            form, block = FORM_RAW_BLOCK, other
    return (form, block) if len(block) < payload.size else (FORM_RAW, payload.tobytes())


def decode_group(
    group: Any, form: int, num_rows: int, fmt: FrameFormat, first: int, last: int, out: U8, where: str
) -> None:
    """Frames `first` to `last` of a group, in payload form, into `out`, uint8 (group rows, frame bytes).

    group: the bytes of the group. Rows that others need are decoded too; the rest of `out` is undefined, and a group
    is not looked at further than that.

    Raises:
        ChunkError: the bytes do not decode to those frames.
    """
    frames = out[:num_rows]
    encoded = np.frombuffer(group, np.uint8)
    if form == FORM_LIST:
        _decode_list(encoded, num_rows, fmt, first, last, frames, where)
        return
    if form in (FORM_RAW, FORM_DELTA):
        if encoded.size != frames.size:
            raise ChunkError(f"{where}: expected {frames.size} bytes, found {encoded.size}")
        frames[: last + 1].reshape(-1)[:] = encoded[: (last + 1) * fmt.frame_bytes]
    else:
        _decompress(encoded, fmt.entropy, frames.reshape(-1), (last + 1) * fmt.frame_bytes, where)
    if form in (FORM_DELTA, FORM_BLOCK):
        delta.undo_differences(frames, first, last, fmt.reference, fmt.keyframe_filter, *fmt.filter_view)


def _filter_keyframe(frame: U8, fmt: FrameFormat) -> None:
    pixels, channels = fmt.filter_view
    if fmt.keyframe_filter == delta.FILTER_LEFT:
        rows = frame.reshape(-1, pixels, channels)
        rows[:, 1:] -= rows[:, :-1].copy()
    elif fmt.keyframe_filter == delta.FILTER_UP:
        lines = frame.reshape(-1, pixels * channels)
        lines[1:] -= lines[:-1].copy()


def _compress(data: Any, entropy: int, level: int) -> bytes:
    if entropy == _ZSTD:
        return bytes(cramjam.zstd.compress(data, level))
    if level < _LZ4_HC_FROM:
        return bytes(lz4.block.compress(data, store_size=False))
    return bytes(lz4.block.compress(data, mode="high_compression", compression=level, store_size=False))


def _decompress(block: U8, entropy: int, out: U8, wanted: int, where: str) -> None:
    """At least the first `wanted` bytes of what `block` decodes to; it must not be more than `out` holds."""
    try:
        if entropy == _LZ4:
            written = decode_prefix(block, out, wanted)
        elif entropy == _ZSTD:
            written = int(cramjam.zstd.decompress_into(block.data, out.data))
        else:
            raise ChunkError(f"{where}: a compressed block in a chunk without an entropy stage")
    except (cramjam.DecompressionError, ValueError) as err:
        raise ChunkError(f"{where}: not a valid {ENTROPIES[entropy]} block: {err}") from err
    if written < wanted:
        raise ChunkError(f"{where}: expected {wanted} bytes after decompression, found {written}")


def _encode_list(payload: U8, fmt: FrameFormat, level: int) -> bytes:
    frame_bytes = fmt.frame_bytes
    zeros = np.zeros(frame_bytes, np.uint8)
    scratch = np.empty(frame_bytes, np.uint8)
    bodies: list[bytes] = []
    for k, frame in enumerate(payload):
        if k == 0:
            reference = zeros
        elif fmt.reference == delta.REFERENCE_PREVIOUS:
            reference = payload[k - 1]
        else:
            reference = payload[0]
        kind, body = delta.FRAME_RAW, frame.tobytes()
        if fmt.entropy == _SPANS:
            written = delta.encode_spans(frame, reference, scratch)
            candidate_kind, candidate = delta.FRAME_SPANS, scratch[: max(written, 0)].tobytes()
        elif fmt.entropy == _POINTS:
            written = (
                -1 if k == 0 else delta.encode_points(frame, reference, fmt.points_width, fmt.points_wide, scratch)
            )
            candidate_kind = delta.FRAME_POINTS16 if fmt.points_wide else delta.FRAME_POINTS8
            candidate = scratch[: max(written, 0)].tobytes()
        else:
            difference = frame - reference
            if k == 0:
                _filter_keyframe(difference, fmt)
            candidate_kind, candidate = delta.FRAME_BLOCK, _compress(difference, fmt.entropy, level)
            written = len(candidate)
        if 0 <= written < frame_bytes:
            kind, body = candidate_kind, candidate
        bodies.append(bytes((kind,)) + body)
    ends = np.cumsum([len(body) for body in bodies]).astype("<u4")
    return b"".join((ends.tobytes(), *bodies))


def _decode_list(encoded: U8, num_rows: int, fmt: FrameFormat, first: int, last: int, frames: U8, where: str) -> None:
    if fmt.reference == delta.REFERENCE_PREVIOUS:
        needed = range(last + 1)
    else:
        needed = range(first, last + 1)
        if first > 0:
            _decode_listed(encoded, num_rows, 0, fmt, frames, where)
    for k in needed:
        _decode_listed(encoded, num_rows, k, fmt, frames, where)


def _decode_listed(encoded: U8, num_rows: int, k: int, fmt: FrameFormat, frames: U8, where: str) -> None:
    kind = delta.decode_listed_frame(encoded, num_rows, k, fmt.reference, frames, fmt.points_width)
    if kind < 0:
        raise ChunkError(f"{where}, frame {k}: its spans, points or offsets leave the buffer; the chunk is damaged")
    if kind == delta.FRAME_BLOCK:
        ends = encoded[: 4 * num_rows].view("<u4").astype(np.int64) + 4 * num_rows
        start = int(ends[k - 1]) if k else 4 * num_rows
        frame = frames[k]
        _decompress(encoded[start + 1 : int(ends[k])], fmt.entropy, frame, frame.size, f"{where}, frame {k}")
        if k == 0:
            delta.undo_filter(frame, fmt.keyframe_filter, *fmt.filter_view)
        else:
            delta.add_into(frame, frames[k - 1] if fmt.reference == delta.REFERENCE_PREVIOUS else frames[0])
