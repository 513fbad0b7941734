"""Memory of batches. It is lent to the consumer, and filled again when the consumer has released it."""

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
    """Allocates like `numpy.empty`, in page-locked memory."""
    example = torch.from_numpy(np.empty(0, dtype))
    pinned: NDArray[Any] = torch.empty(shape, dtype=example.dtype, pin_memory=True).numpy()
    return pinned


def tensors_of(arrays: Batch, pin_memory: bool = False) -> Tensors:
    """Returns tensors over arrays. It copies an array that is read-only or not C-contiguous.

    Args:
        arrays: the arrays, by name.
        pin_memory: whether to copy the tensors into page-locked memory.
    """
    found = {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in arrays.items()}
    return {name: tensor.pin_memory() for name, tensor in found.items()} if pin_memory else found


class Buffer:
    """The memory of one batch.

    Args:
        arrays: the arrays of the batch.
        pin_memory: whether they are in page-locked memory.
    """

    def __init__(self, arrays: Batch, pin_memory: bool) -> None:
        self._pinned = pin_memory
        self._event: torch.cuda.Event | None = None
        self.arrays = arrays

    def fill(
        self, store: ReplayStore, draw: Draw, view: BatchView, snapshot: IndexSnapshot, free: deque[Buffer],
        num_threads: int,
    ) -> Buffer:  # fmt: skip
        """Gathers a batch into the memory.

        Args:
            store: the store to read.
            draw: the drawn rows.
            view: turns the rows into a batch.
            snapshot: the one that the rows were drawn from.
            free: takes this buffer if gathering fails.
            num_threads: threads to use, including the caller.

        Returns:
            This buffer.
        """
        try:
            self._wait_for_copies()
            store.gather(draw, view=view, out=self.arrays, snapshot=snapshot, num_threads=num_threads)
        except BaseException:
            free.append(self)
            raise
        return self

    def _wait_for_copies(self) -> None:
        """Waits for copies to a device that were still reading the memory when the batch was released."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None

    def note_copies(self) -> None:
        """Notes that copies to a device may still be reading the memory."""
        if self._pinned:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()


class Loan:
    """A buffer that the consumer uses. It becomes free once no tensor over it is alive.

    Args:
        buffer: the memory.
        lent: the loans in use. This set alone keeps a loan alive.
        free: takes the buffer when it becomes free.
    """

    def __init__(self, buffer: Buffer, lent: set[Loan], free: deque[Buffer]) -> None:
        self._buffer = buffer
        self._lent = lent
        self._free = free
        self._views: list[weakref.ref[NDArray[Any]]] = []
        lent.add(self)

    def tensors(self) -> Tensors:
        """Returns tensors over the memory.

        A tensor keeps its array alive, and so does every view of the tensor. The loan ends when the arrays are gone.
        """
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
