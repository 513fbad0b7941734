"""`bench stages`: shows where the time of a batch goes, on one thread, stage by stage.

A stage is timed by leaving out the stages after it. The kernel that decodes groups runs again on the groups of a batch:
once writing every frame, once writing only the first and last frame of each group, and once decoding only the
compressed blocks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.bench.conditions import conditions
from replaystore.errors import SpecError
from replaystore.kernels.block_decoders import zstd_create, zstd_free
from replaystore.kernels.compiled import kernel
from replaystore.kernels.frame_groups import decode_groups
from replaystore.kernels.frame_layout import FORM_BLOCK, FORM_RAW_BLOCK
from replaystore.kernels.group_blocks import decode_block
from replaystore.kernels.row_copies import copy_windows
from replaystore.runtime.trace import Call, Trace
from replaystore.sampling.sampler import Sampler
from replaystore.store import ReplayStore

I64 = NDArray[np.int64]

_WARM_UP_BATCHES = 3


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Median milliseconds per batch, by stage. The stages add up to `total`.

    Attributes:
        store: path of the store.
        mode: mode of the store.
        total: the whole batch.
        draw: choosing transitions.
        lookup: limits of episodes, rows of the windows, small fields, and finding the groups.
        blocks: decoding LZ4 or zstd blocks of whole groups.
        differences: decoding spans and blocks of single frames, and adding differences.
        write: writing observations. Without frame differences it is all of the copying.
        groups: groups decoded per batch.
        compressed_bytes: compressed bytes of those groups.
        written_bytes: bytes of observations written.
    """

    store: str
    mode: str
    total: float
    draw: float
    lookup: float
    blocks: float
    differences: float
    write: float
    groups: float
    compressed_bytes: float
    written_bytes: int


@dataclass(frozen=True, kw_only=True)
class StagesResult:
    """What `run_stages` measured.

    Attributes:
        stores: the stages of each store.
        conditions: conditions of the measurement, by name.
    """

    stores: tuple[Stages, ...]
    conditions: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)


def run_stages(
    store_paths: Sequence[str | os.PathLike[str]],
    *,
    batch_size: int = 256,
    n_step: int = 3,
    num_batches: int = 50,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> StagesResult:
    """Times the stages of batches from stores in RAM, on one thread. Each store makes a batch in turn.

    Args:
        store_paths: the stores, at least one.
        batch_size: transitions per batch.
        n_step: steps of the return.
        num_batches: batches to time per store.
        seed: seed of the draws.
        progress: called with (rounds done, rounds in all).

    Raises:
        SpecError: there is no store, or a number is below 1.
        BudgetError: a store does not fit RAM.
    """
    if not store_paths or min(batch_size, n_step, num_batches) < 1:
        raise SpecError("stages: expected a store, and batch_size, n_step and num_batches from 1 on")
    stores = [ReplayStore.open(path, read_only=True, residency="ram", num_threads=1) for path in store_paths]
    try:
        rngs = [np.random.default_rng(seed) for _ in stores]
        rounds: list[list[dict[str, float]]] = [[] for _ in stores]
        for number in range(_WARM_UP_BATCHES + num_batches):
            if progress is not None:
                progress(number, _WARM_UP_BATCHES + num_batches)
            for store, rng, found in zip(stores, rngs, rounds, strict=True):
                found.append(_batch(store, rng, batch_size, n_step))
        measured = [
            _medians(path, store, found[_WARM_UP_BATCHES:], batch_size)
            for path, store, found in zip(store_paths, stores, rounds, strict=True)
        ]
    finally:
        for store in stores:
            store.close()
    stated = {"batch_size": batch_size, "n_step": n_step, "num_batches": num_batches, "threads": 1, "seed": seed}
    return StagesResult(stores=tuple(measured), conditions={**stated, **conditions(Path(store_paths[0]))})


def _medians(
    path: str | os.PathLike[str], store: ReplayStore, rounds: Sequence[Mapping[str, float]], batch_size: int
) -> Stages:
    middle = {name: float(np.median([entry[name] for entry in rounds])) for name in rounds[0]}
    layout = store.allocate(batch_size)
    images = [spec.name for spec in store.spec.fields if spec.is_image and spec.role == "observation"]
    written = sum(layout[name].nbytes + layout[f"next_{name}"].nbytes for name in images)
    lookup = middle["total"] - middle["draw"] - middle["copy"] - middle["decode"]
    return Stages(
        store=str(path), mode=store.spec.mode, total=middle["total"], draw=middle["draw"], lookup=lookup,
        blocks=middle["blocks"], differences=max(0.0, middle["bare"] - middle["blocks"]),
        write=middle["copy"] + max(0.0, middle["decode"] - middle["bare"]), groups=middle["groups"],
        compressed_bytes=middle["compressed_bytes"], written_bytes=written,
    )  # fmt: skip


def _batch(store: ReplayStore, rng: np.random.Generator, batch_size: int, n_step: int) -> dict[str, float]:
    """Returns milliseconds and counts of one batch. `bare` is decoding that writes only two frames per group."""
    batch = store.allocate(batch_size)
    sampler = Sampler(n_step=n_step)
    start = time.perf_counter()
    rows = store.draw(sampler, rng, batch_size)
    drawn = time.perf_counter()
    store.gather(rows, n_step=n_step, out=batch)
    total = time.perf_counter()
    found = {"draw": 1000 * (drawn - start), "total": 1000 * (total - start)}
    trace = Trace()
    with trace.recording():
        store.gather(rows, n_step=n_step, out=batch)
    found["copy"] = sum(call.milliseconds for call in trace.calls if call.kernel is copy_windows)
    decodes = [call for call in trace.calls if call.kernel is decode_groups]
    found["decode"] = sum(call.milliseconds for call in decodes)
    found["bare"] = sum(_decode_bare(call) for call in decodes)
    found["blocks"] = sum(_decode_blocks(call) for call in decodes)
    requests = [call.arguments[0] for call in decodes]
    found["groups"] = float(sum(len(request.places) for request in requests))
    found["compressed_bytes"] = float(sum(request.lengths.sum() for request in requests))
    return found


def _decode_bare(call: Call) -> float:
    """Milliseconds for the same groups decoded as far, writing only the first and the last frame of each."""
    request, first, stop, depth, layout, out = call.arguments
    bounds = request.bounds
    ends = np.stack((bounds[:-1], bounds[1:] - 1), axis=1).reshape(-1)
    same = np.zeros(len(ends), np.int64)
    bare = request._replace(
        bounds=np.arange(0, len(ends) + 1, 2), row_in_group=request.row_in_group[ends], targets=same, slots=same
    )
    start = time.perf_counter()
    decode_groups(bare, first, stop, depth, layout, out)
    return 1000 * (time.perf_counter() - start)


def _decode_blocks(call: Call) -> float:
    """Milliseconds for only the blocks of whole groups, as far as they are needed."""
    request, _, _, _, layout, _ = call.arguments
    is_block = (request.forms == FORM_BLOCK) | (request.forms == FORM_RAW_BLOCK)
    if not is_block.any():
        return 0.0
    wanted = (request.row_in_group[request.bounds[1:] - 1] + 1) * layout.frame_bytes
    capacities = request.num_rows * layout.frame_bytes
    scratch = np.empty(int(capacities.max()) + 64, np.uint8)
    start = time.perf_counter()
    _blocks(
        layout.entropy, request.places[is_block], request.lengths[is_block], wanted[is_block], capacities[is_block],
        scratch,
    )  # fmt: skip
    return 1000 * (time.perf_counter() - start)


@kernel
def _blocks(
    entropy: int, addresses: I64, lengths: I64, wanted: I64, capacities: I64, scratch: NDArray[np.uint8]
) -> int:
    decoded = 0
    context = zstd_create()
    for g in range(addresses.size):
        target = np.int64(scratch.ctypes.data)
        decoded += decode_block(entropy, context, addresses[g], lengths[g], target, wanted[g], capacities[g])
    zstd_free(context)
    return decoded
