"""How a store is read: where its bytes are, and how many threads work."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from replaystore.errors import SpecError
from replaystore.runtime.numbers import byte_limit, whole_number
from replaystore.spec import RESIDENCIES, Residency


class ReadingOptions(NamedTuple):
    """Checked options of `ReplayStore.open`.

    Attributes:
        residency: `"mapped"`, `"files"`, `"ram"` or `"auto"`.
        budget_bytes: for chunks in memory. None: chosen from the memory that is available.
        num_threads: threads that work on one batch.
    """

    residency: Residency
    budget_bytes: int | None
    num_threads: int

    @classmethod
    def checked(cls, residency: Any, budget_bytes: Any, num_threads: Any) -> Self:
        """Returns the options as a user gave them, before any file is touched.

        Raises:
            SpecError: there is no such residency, or a number is none.
        """
        if residency not in RESIDENCIES:
            raise SpecError(f"residency is one of {RESIDENCIES}, got {residency!r}")
        return cls(residency, byte_limit(budget_bytes, "budget_bytes"), whole_number(num_threads, "num_threads"))
