"""Measurements and experiments that compare the package with others. Not part of the package."""

from pathlib import Path

RECORDED = Path(__file__).parent / "recorded" / "walker_walk"  # the recorded episodes that come with the repository
