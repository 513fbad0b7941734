"""Encodes and decodes groups of frames. A group is a keyframe and the frames that need it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import lz4.block
import numcodecs.zstd
import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta.chunk import COLOR_LAST, COLOR_NONE, ENTROPIES, FrameFormat
from replaystore.errors import ChunkError
from replaystore.kernels import filters, points, spans
from replaystore.kernels import frame_groups as groups_kernel
from replaystore.kernels.frame_layout import FORM_BLOCK, FORM_DELTA, FORM_LIST, FORM_RAW, FORM_RAW_BLOCK, FrameLayout
from replaystore.kernels.group_request import GroupRequest
from replaystore.kernels.observations import PixelLayout
from replaystore.kernels.octets import octet_layout
from replaystore.kernels.packed_groups import pack_group, packed_group_bytes
from replaystore.kernels.payload import to_payload
from replaystore.kernels.status import MESSAGES, OK
from replaystore.runtime import trace

U8 = NDArray[np.uint8]
Group = tuple[int, int, bytes]  # rows, form, bytes

_LZ4, _ZSTD = ENTROPIES.index("lz4"), ENTROPIES.index("zstd")
_SPANS, _POINTS = ENTROPIES.index("spans"), ENTROPIES.index("points")
_PACKED = ENTROPIES.index("packed")
_FRAMES_AT_ONCE = 16
# With entropy `packed`. The parts of the bytes are those for which a batch takes as much longer, or less.
_LONG_GROUP_SAVES = 0.05
_LZ4_BELOW = 4  # LZ4 is tried if the packed groups take less than this part of the frames
_LZ4_SAVES = 0.75
_LZ4_FAST, _LZ4_SAMPLE = 0, 8  # the level and the frames with which it is tried
_KEYFRAME_BLOCK_SAVES = 0.3
_LZ4_HC_FROM = 3  # levels of LZ4's high-compression encoder start here


def payload_frames(frames: U8, fmt: FrameFormat, *, overwrite: bool = False) -> U8:
    """Returns frames (rows, *frame_shape) in payload form (rows, frame_bytes), with channels moved and G subtracted.

    With `overwrite`, the result is in the memory of `frames`, which are C-contiguous.
    """
    flat: U8 = np.ascontiguousarray(frames).reshape(len(frames), fmt.frame_bytes)
    if not fmt.channels_moved and fmt.color == COLOR_NONE:
        return flat
    channels_last = fmt.color == COLOR_LAST and not fmt.channels_moved
    num_channels = fmt.frame_shape[-1] if channels_last else fmt.frame_shape[0]
    target_last, subtracted = fmt.channels_moved or channels_last, fmt.color != COLOR_NONE
    result = flat if overwrite else np.empty_like(flat)
    for first in range(0, len(flat), _FRAMES_AT_ONCE):
        piece = flat[first : first + _FRAMES_AT_ONCE]
        source = piece.copy() if overwrite else piece
        target = result[first : first + _FRAMES_AT_ONCE]
        to_payload(source, num_channels, channels_last, target_last, subtracted, target)
    return result


@cache
def group_layout(fmt: FrameFormat, channels_last: bool) -> FrameLayout:
    """Returns the layout of groups and observations for the kernel that decodes groups.

    Args:
        fmt: format of the chunks.
        channels_last: whether observations have their channels last.
    """
    shape = fmt.frame_shape
    if len(shape) == 2:
        channels, source_last = 1, False
    elif fmt.channels_moved:
        channels, source_last = shape[0], True
    else:
        channels, source_last = (shape[2], True) if channels_last else (shape[0], False)
    pixels = PixelLayout(fmt.frame_bytes // channels, channels, source_last, fmt.color != COLOR_NONE, channels_last)
    return FrameLayout(
        fmt.frame_bytes, fmt.reference, fmt.entropy, fmt.keyframe_filter, *fmt.filter_view, fmt.points_width, pixels
    )


def decode_groups(
    request: GroupRequest, fmt: FrameFormat, channels_last: bool, depth: int, out: U8, label: Callable[[int], str],
    start: int = 0, stop: int | None = None,
) -> None:  # fmt: skip
    """Decodes the requested frames of many groups into observations.

    Args:
        request: the groups, with addresses as `places`.
        fmt: format of their chunks.
        channels_last: whether observations have their channels last.
        depth: frames in an observation.
        out: uint8 (batch, depth * frame_bytes), the observations.
        label: returns the name of a group for errors.
        start: the first group to decode.
        stop: the first group not to decode. None decodes all from `start` on.

    Raises:
        ChunkError: a group does not decode to its frames.
    """
    stop = len(request.places) if stop is None else stop
    if stop <= start:
        return
    layout = group_layout(fmt, channels_last)
    status, group = trace.call(groups_kernel.decode_groups, request, start, stop, depth, layout, out)
    if status != OK:
        message = MESSAGES[status].format(entropy=ENTROPIES[fmt.entropy])
        raise ChunkError(f"{label(group)}: {message}; restore it from a copy")


def encode_run(payload: U8, fmt: FrameFormat, level: int, block_rows: int) -> list[Group]:
    """Returns (rows, form, bytes) of each group of a run of frames, in groups of `block_rows`.

    With entropy `lz4` and a neighbour as reference, spans replace a block if they are not larger, because they are
    faster to decode. In the same way one group of spans replaces all groups of the run.

    The frames in `payload` are in payload form, uint8 (run rows, frame bytes).
    """
    if fmt.entropy == _PACKED:
        return _pack_run(payload, fmt, level, block_rows)
    pieces = [payload[first : first + block_rows] for first in range(0, len(payload), block_rows)]
    groups = [(len(piece), *_encode_group(piece, fmt, level)) for piece in pieces]
    if fmt.entropy != _LZ4 or fmt.reference == filters.REFERENCE_KEYFRAME:
        return groups
    most = sum(len(group) for _, _, group in groups)
    for fast in (True, False):
        listed = _encode_list(payload, fmt, level, most, fast=fast)
        if listed is not None:
            return [(len(payload), FORM_LIST, listed)]
    for number, piece in enumerate(pieces if len(pieces) > 1 else ()):
        listed = _encode_list(piece, fmt, level, len(groups[number][2]))
        if listed is not None:
            groups[number] = len(piece), FORM_LIST, listed
    return groups


def _encode_group(payload: U8, fmt: FrameFormat, level: int) -> tuple[int, bytes]:
    """Returns the form and the bytes of one group."""
    order, ahead = _decode_order(len(payload), fmt)
    if fmt.entropy in (_SPANS, _POINTS) or (fmt.reference == filters.REFERENCE_KEYFRAME and fmt.entropy != 0):
        listed = _encode_list(payload, fmt, level, payload.size - 1, fast=fmt.entropy == _SPANS)
        return (FORM_RAW, payload[order].tobytes()) if listed is None else (FORM_LIST, listed)
    differences = payload[order]  # a copy
    for k in reversed(range(1, len(order))):  # in place, and a reference is still whole when it is subtracted
        differences[k] -= differences[_reference_of(k, ahead, fmt)]
    _filter_keyframe(differences[0], fmt)
    if fmt.entropy == 0:
        return FORM_DELTA, differences.tobytes()
    form, block = FORM_BLOCK, _compress_chains(differences, ahead, fmt.entropy, level)
    if len(block) > payload.size // 2:  # differences hardly help: a cut, or noise
        other = _compress_chains(payload[order], ahead, fmt.entropy, level)
        if len(other) < len(block):
            form, block = FORM_RAW_BLOCK, other
    return (form, block) if len(block) < payload.size else (FORM_RAW, payload[order].tobytes())


def _pack_run(payload: U8, fmt: FrameFormat, level: int, block_rows: int) -> list[Group]:
    """Returns the groups of a run with entropy `packed`. Bytes count, and so does the time to decode them.

    One group replaces those of the run if that saves enough bytes, because its frames are further from the keyframe.
    Where little changes, LZ4 finds what repeats. It replaces octets if it saves enough.
    """
    pieces = [payload[first : first + block_rows] for first in range(0, len(payload), block_rows)]
    groups = [_pack_group(pieces[0], fmt, level)]
    if len(pieces) > 1 and _keyframe_share(*groups[0]) > _LONG_GROUP_SAVES:
        pieces = [payload]
        groups = []
    groups += [_pack_group(piece, fmt, level) for piece in pieces[len(groups) :]]
    if _lz4_saves(pieces[0], *groups[0][1:], fmt):
        others = encode_run(payload, replace(fmt, entropy=_LZ4), level, block_rows)
        if sum(len(group) for _, _, group in others) < sum(len(group) for _, _, group in groups):
            return others
    return groups


def _lz4_saves(payload: U8, form: int, group: bytes, fmt: FrameFormat) -> bool:
    """Whether LZ4 blocks would be much smaller than a packed group, judged by its frames from the keyframe on."""
    if form != FORM_LIST or len(group) * _LZ4_BELOW > payload.size or fmt.reference == filters.REFERENCE_KEYFRAME:
        return False
    order, ahead = _decode_order(len(payload), fmt)
    ahead = min(ahead, _LZ4_SAMPLE)
    differences = payload[order[0] : order[0] + ahead].copy()
    differences[1:] -= payload[order[0] : order[0] + ahead - 1]
    packed = int(np.frombuffer(group, "<u4", ahead)[-1])
    return len(_compress(differences, _LZ4, _LZ4_FAST)) < _LZ4_SAVES * packed


def _keyframe_share(num_rows: int, form: int, group: bytes) -> float:
    """Returns which part of the bytes of a group is saved if it shares its keyframe with a second one."""
    if form != FORM_LIST or num_rows < 2:
        return 0.0
    ends = np.frombuffer(group, "<u4", num_rows)
    keyframe, rest = int(ends[0]), int(ends[-1] - ends[0])
    return (keyframe - rest / (num_rows - 1)) / (2 * len(group))


def _pack_group(payload: U8, fmt: FrameFormat, level: int) -> Group:
    """Returns one group with entropy `packed`."""
    order, _ = _decode_order(len(payload), fmt)
    out = np.empty(packed_group_bytes(len(payload), fmt.frame_bytes), np.uint8)
    by_keyframe = fmt.reference == filters.REFERENCE_KEYFRAME
    size = pack_group(payload, order[0], by_keyframe, octet_layout(fmt.frame_bytes, *fmt.filter_view), out)
    if size >= payload.size:
        return len(payload), FORM_RAW, payload[order].tobytes()
    group = out[:size].tobytes()
    if size * _LZ4_BELOW < payload.size:
        group = _with_keyframe_block(group, payload[order[0]].copy(), len(payload), fmt, level)
    return len(payload), FORM_LIST, group


def _with_keyframe_block(group: bytes, keyframe: U8, num_rows: int, fmt: FrameFormat, level: int) -> bytes:
    """Returns a group in form 4 with its keyframe as an LZ4 block, if that is much smaller."""
    ends = np.frombuffer(group, "<u4", num_rows)
    most = (1 - _KEYFRAME_BLOCK_SAVES) * int(ends[0])
    _filter_keyframe(keyframe, fmt)
    if len(_compress(keyframe, _LZ4, _LZ4_FAST)) > 1.2 * most:
        return group
    block = _compress(keyframe, _LZ4, level)
    if len(block) > most:
        return group
    saved = int(ends[0]) - 1 - len(block)
    return b"".join(
        (
            (ends - saved).astype("<u4").tobytes(),
            bytes((filters.FRAME_BLOCK,)),
            block,
            group[ends.nbytes + int(ends[0]) :],
        )
    )


def _decode_order(num_rows: int, fmt: FrameFormat) -> tuple[list[int], int]:
    """Returns the frames of a group in decoding order, and the number of frames from the keyframe on.

    With reference `inward` the keyframe is in the middle. The frames before it come last, going back.
    """
    middle = num_rows // 2 if fmt.reference == filters.REFERENCE_INWARD else 0
    return [*range(middle, num_rows), *reversed(range(middle))], num_rows - middle


def _reference_of(k: int, ahead: int, fmt: FrameFormat) -> int:
    """Returns the place in decoding order of the frame that frame `k`, not the first, is the difference to."""
    return 0 if fmt.reference == filters.REFERENCE_KEYFRAME or k == ahead else k - 1


def _compress_chains(frames: U8, ahead: int, entropy: int, level: int) -> bytes:
    """Returns one block, or the length of the first block and two blocks."""
    if ahead == len(frames):
        return _compress(frames, entropy, level)
    first = _compress(frames[:ahead], entropy, level)
    return b"".join((struct.pack("<I", len(first)), first, _compress(frames[ahead:], entropy, level)))


def _filter_keyframe(frame: U8, fmt: FrameFormat) -> None:
    pixels, channels = fmt.filter_view
    if fmt.keyframe_filter == filters.FILTER_LEFT:
        rows = frame.reshape(-1, pixels, channels)
        rows[:, 1:] -= rows[:, :-1].copy()
    elif fmt.keyframe_filter == filters.FILTER_UP:
        lines = frame.reshape(-1, pixels * channels)
        lines[1:] -= lines[:-1].copy()


def _compress(data: Any, entropy: int, level: int) -> bytes:
    if entropy == _ZSTD:
        return bytes(numcodecs.zstd.compress(data, level))
    if level < _LZ4_HC_FROM:
        return bytes(lz4.block.compress(data, store_size=False))
    return bytes(lz4.block.compress(data, mode="high_compression", compression=level, store_size=False))


def _encode_list(payload: U8, fmt: FrameFormat, level: int, most: int, *, fast: bool = False) -> bytes | None:
    """Returns a group frame by frame, in decoding order, or None if that takes more than `most` bytes.

    Reading a compressed keyframe takes as long as the spans of twenty frames. With `fast` it must save enough bytes.
    """
    frame_bytes = fmt.frame_bytes
    by_frame = fmt.reference == filters.REFERENCE_KEYFRAME and fmt.entropy in (_LZ4, _ZSTD)
    zeros = np.zeros(frame_bytes, np.uint8)
    scratch = np.empty(frame_bytes, np.uint8)
    bodies: list[bytes] = []
    size = 4 * len(payload)
    order, ahead = _decode_order(len(payload), fmt)
    for k, row in enumerate(order):
        frame, reference = payload[row], payload[order[_reference_of(k, ahead, fmt)]] if k else zeros
        kind, body = filters.FRAME_RAW, frame.data
        written = -1
        if fmt.entropy in (_SPANS, _LZ4):
            changed_kind, written = filters.FRAME_SPANS, spans.encode_spans(frame, reference, scratch)
        elif fmt.entropy == _POINTS and k > 0:
            changed_kind = filters.FRAME_POINTS16 if fmt.points_wide else filters.FRAME_POINTS8
            written = points.encode_points(frame, reference, fmt.points_width, fmt.points_wide, scratch)
        if 0 <= written < frame_bytes:
            kind, body = changed_kind, scratch[:written].data
        # Spans of a keyframe, or after a cut, are hardly smaller than the frame. A block is.
        is_large = k == 0 if fmt.entropy == _LZ4 else len(body) > frame_bytes // 4
        if by_frame or (fmt.entropy in (_SPANS, _LZ4) and is_large):
            difference = frame - reference
            if k == 0:
                _filter_keyframe(difference, fmt)
            block = _compress(difference, fmt.entropy, level)
            if len(block) < (len(body) // 2 if fast and k == 0 else len(body)):
                kind, body = filters.FRAME_BLOCK, memoryview(block)
        bodies.append(bytes((kind,)) + bytes(body))
        size += len(bodies[-1])
        if size > most:
            return None
    ends = np.cumsum([len(body) for body in bodies]).astype("<u4")
    return b"".join((ends.tobytes(), *bodies))
