"""Memory of batches, lent to the consumer and filled again."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from replaystore.batches.layout import Batch
from replaystore.batches.protocol import BatchView
from replaystore.index.snapshot import IndexSnapshot
from replaystore.sampling.protocol import Draw
from replaystore.store import ReplayStore

Tensors = dict[str, torch.Tensor]


def pinned_empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Like `numpy.empty`, in page-locked memory."""
    example = torch.from_numpy(np.empty(0, dtype))
    pinned: NDArray[Any] = torch.empty(shape, dtype=example.dtype, pin_memory=True).numpy()
    return pinned


def tensors_of(arrays: Batch, pin_memory: bool = False) -> Tensors:
    """Tensors over arrays; over copies where an array is read-only or has negative strides, or memory is pinned.

    Args:
        arrays: by name.
        pin_memory: whether the tensors are in page-locked memory.
    """
    found = {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in arrays.items()}
    return {name: tensor.pin_memory() for name, tensor in found.items()} if pin_memory else found


class Buffer:
    """Memory of one batch.

    Args:
        arrays: the memory.
        pin_memory: whether it is page-locked.
    """

    def __init__(self, arrays: Batch, pin_memory: bool) -> None:
        self._pinned = pin_memory
        self._event: torch.cuda.Event | None = None
        self.arrays = arrays

    def fill(
        self, store: ReplayStore, draw: Draw, view: BatchView, snapshot: IndexSnapshot, free: deque[Buffer],
        num_threads: int,
    ) -> Buffer:  # fmt: skip
        """Gathers a batch into the memory and returns this buffer; where that raises, the buffer goes to `free`."""
        try:
            self._wait_for_copies()
            store.gather(draw, view=view, out=self.arrays, snapshot=snapshot, num_threads=num_threads)
        except BaseException:
            free.append(self)
            raise
        return self

    def _wait_for_copies(self) -> None:
        """Waits until copies to a device have read the memory that were under way when the batch was released."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None

    def note_copies(self) -> None:
        """Remembers that copies to a device may be under way."""
        if self._pinned:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()


class Loan:
    """A buffer handed out. It is filled again once no tensor over it is alive.

    Args:
        buffer: the memory.
        lent: keeps the loan alive meanwhile; nothing else does.
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
            self._views.append(weakref.ref(view, self._release))
            tensors[name] = torch.from_numpy(view)
        return tensors

    def _release(self, reference: weakref.ref[NDArray[Any]]) -> None:
        self._views.remove(reference)
        if not self._views:
            try:
                self._lent.remove(self)
            except KeyError:  # the last two were released at once, in two threads
                return
            self._buffer.note_copies()
            self._free.append(self._buffer)
