"""`RoundClamp`: clamps and rounds floats and packs them into as few bits as they need."""

from replaystore.codecs.round_clamp.codec import RoundClamp

__all__ = ["RoundClamp"]
