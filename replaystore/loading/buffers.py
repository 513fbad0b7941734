"""Memory of batches, lent to the consumer and filled again."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from replaystore.batches.layout import allocate_batch
from replaystore.store import ReplayStore

Tensors = dict[str, torch.Tensor]


def _pinned_empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    example = torch.from_numpy(np.empty(0, dtype))
    pinned: NDArray[Any] = torch.empty(shape, dtype=example.dtype, pin_memory=True).numpy()
    return pinned


class Buffer:
    """Memory of one batch."""

    def __init__(self, store: ReplayStore, batch_size: int, pin_memory: bool) -> None:
        self._pinned = pin_memory
        self._event: torch.cuda.Event | None = None
        self.arrays = allocate_batch(store.spec, batch_size, _pinned_empty if pin_memory else np.empty)

    def wait_for_copies(self) -> None:
        """Waits until copies to a device that were under way when the batch was let go have read it."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None

    def note_copies(self) -> None:
        """Remembers that copies to a device may be under way."""
        if self._pinned:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()


class Loan:
    """A buffer handed out. It is filled again when nobody holds a tensor over it any more.

    Args:
        lent: holds the loan meanwhile; nothing else does.
        free: where the buffer goes then.
    """

    def __init__(self, buffer: Buffer, lent: set[Loan], free: deque[Buffer]) -> None:
        self._buffer = buffer
        self._lent = lent
        self._free = free
        self._views: list[weakref.ref[NDArray[Any]]] = []
        lent.add(self)

    def tensors(self) -> Tensors:
        """Tensors over the memory; a tensor keeps the array it was made from alive, and so does every view of it."""
        tensors = {}
        for name, array in self._buffer.arrays.items():
            view = array.view()
            self._views.append(weakref.ref(view, self._let_go))
            tensors[name] = torch.from_numpy(view)
        return tensors

    def _let_go(self, reference: weakref.ref[NDArray[Any]]) -> None:
        self._views.remove(reference)
        if not self._views:
            try:
                self._lent.remove(self)
            except KeyError:  # the last two were let go at once, in two threads
                return
            self._buffer.note_copies()
            self._free.append(self._buffer)
