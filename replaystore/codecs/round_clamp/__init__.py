"""`RoundClamp`: floats clamped, rounded and packed into as few bits as they need."""

from replaystore.codecs.round_clamp.codec import RoundClamp

__all__ = ["RoundClamp"]
