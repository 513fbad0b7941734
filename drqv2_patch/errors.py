"""Errors that the patch raises. Each message is one line: where, what was expected, what was found, and the remedy."""

from __future__ import annotations

from replaystore.errors import ReplayStoreError


class PatchError(ReplayStoreError):
    """The checkout cannot be patched or restored."""


class UnknownCheckout(PatchError):
    """The directory is no checkout of DrQ-v2, or the checkout differs in a place that the patch edits."""


class HalfPatched(PatchError):
    """Only some files of the checkout are patched, or a file was edited since."""


class RunError(ReplayStoreError):
    """The run cannot start or resume with these settings."""
