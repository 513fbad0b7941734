"""`FrameDelta`: image sequences without loss, as differences of neighbouring frames."""

from replaystore.codecs.frame_delta.codec import FrameDelta

__all__ = ["FrameDelta"]
