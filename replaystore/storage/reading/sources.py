"""Where the rows of a chunk can be read from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta.chunk import FrameChunk
from replaystore.storage.format.records import SealedColumn, Segment
from replaystore.storage.reading.open_files import OpenFile


@dataclass(frozen=True)
class Held:
    """A chunk held in memory: all bytes of its file, checked, and the parsed header of a frame chunk."""

    data: NDArray[np.uint8]
    parsed: FrameChunk | None

    @cached_property
    def address(self) -> int:
        """Of the first byte."""
        return int(self.data.ctypes.data)


@dataclass(frozen=True)
class Source:
    """The rows of one chunk: held in memory, or in an open file, sealed or tail (which has `segments`)."""

    chunk: int
    held: Held | None = None
    file: OpenFile | None = None
    sealed: SealedColumn | None = None
    segments: list[Segment] | None = None

    @property
    def where(self) -> str:
        """Names the source in errors."""
        return str(self.file.path) if self.file is not None else f"chunk {self.chunk} in memory"
