"""What the patch raises. Each message says where, what was expected, what was found and the remedy, in one line."""

from __future__ import annotations

from replaystore.errors import ReplayStoreError


class PatchError(ReplayStoreError):
    """A checkout that cannot be patched or restored."""


class UnknownCheckout(PatchError):
    """Not a checkout of DrQ-v2, or one that differs where the patch edits it."""


class HalfPatched(PatchError):
    """A checkout of which some files are patched and others are not, or were edited since."""


class RunError(ReplayStoreError):
    """A run that cannot start, or cannot go on, as it was asked to."""
