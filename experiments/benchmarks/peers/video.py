"""Lossless video codecs, measured only for size. Each episode is one video, decoded once to check it."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np

from experiments.benchmarks.peers.data import Array, PeerData, by_frame
from experiments.benchmarks.peers.peer import Batch, Candidate, Peer, Unable, imported

# By number of channels: the encoder, and the pixel format that it takes without changing values.
_ENCODERS: dict[str, dict[int, tuple[str, str, dict[str, str]]]] = {
    "FFV1": {1: ("ffv1", "gray", {"level": "3"}), 3: ("ffv1", "bgr0", {"level": "3"})},
    "x264 lossless": {
        1: ("libx264", "gray", {"qp": "0", "preset": "medium"}),
        3: ("libx264rgb", "rgb24", {"qp": "0", "preset": "medium"}),
    },
}
_FORMATS = {1: "gray", 3: "rgb24"}
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG: 0 to 255, or gray would be squeezed into 16 to 235


class Video(Peer):
    """The frames of each episode as a video, each frame once."""

    timed = False

    def __init__(self, data: PeerData, name: str) -> None:
        av = imported("av")
        field = data.observation
        if not field.is_image:
            raise Unable("images only")
        frames = [_channels_last(data, episode.observation) for episode in data.episodes]
        channels = frames[0].shape[-1]
        encoder = _ENCODERS[name].get(channels)
        if encoder is None:
            raise Unable(f"frames have {channels} channels, it takes 1 or 3")
        if encoder[0] not in av.codecs_available:
            raise Unable(f"this build of av has no {encoder[0]}")
        notes = (f"only size, of observations alone; {encoder[0]}, {encoder[1]}, defaults",)
        super().__init__(num_transitions=data.num_transitions, n_step=data.n_step, notes=notes)
        self._held_bytes = 0
        for episode in frames:
            encoded = _encode(av, episode, *encoder)
            if not np.array_equal(decode_frames(av, encoded, channels), episode):
                raise Unable(f"{encoder[0]} did not give the same frames back")
            self._held_bytes += len(encoded)

    def turn(self) -> Batch:
        """Draws a batch."""
        raise NotImplementedError("only its size is measured")

    def held_bytes(self) -> int:
        """Returns the bytes that the buffer holds."""
        return self._held_bytes


def _channels_last(data: PeerData, stacks: Array) -> Array:
    """(rows, height, width, channel)."""
    frames = by_frame(data.observation, stacks)[:, -1]
    if len(data.observation.shape) == 2:
        return frames[..., None]
    return np.moveaxis(frames, 1, -1) if data.observation.channels == "first" else frames


def _encode(av: Any, frames: Array, encoder: str, pixel_format: str, options: dict[str, str]) -> bytes:
    file = io.BytesIO()
    channels = frames.shape[-1]
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream(encoder, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        if channels == 1:
            stream.codec_context.color_range = _FULL_RANGE
        for frame in frames:
            picture = np.ascontiguousarray(frame[..., 0] if channels == 1 else frame)
            coded = av.VideoFrame.from_ndarray(picture, format=_FORMATS[channels])
            if channels == 1:
                coded.color_range = _FULL_RANGE
            container.mux(stream.encode(coded))
        container.mux(stream.encode(None))
    return file.getvalue()


def decode_frames(av: Any, encoded: bytes, channels: int) -> Array:
    """Decodes all frames of a video.

    Args:
        av: the module.
        encoded: the file.
        channels: 1 or 3.

    Returns:
        (frames, height, width, channels) uint8.
    """
    with av.open(io.BytesIO(encoded)) as container:
        pictures = [frame.to_ndarray(format=_FORMATS[channels]) for frame in container.decode(video=0)]
    frames = np.stack(pictures)
    return frames[..., None] if channels == 1 else frames


def candidates() -> list[Candidate]:
    """Returns the candidates."""
    return [Candidate(name, "av", partial(_video, name)) for name in _ENCODERS]


def _video(name: str, data: PeerData) -> Peer:
    return Video(data, name)
