"""Snapshots of a run: written whole or not at all, read without executing anything."""

from __future__ import annotations

import io
import os
import pickle
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from replaystore.errors import DamageError, SpecError

VERSION = 1


def save_snapshot(path: Path, state: Mapping[str, Any]) -> None:
    """Replaces the snapshot at `path`; after a kill at any moment it is the old or the new one.

    Args:
        state: tensors, numbers, text, and dicts and lists of them. The states of torch's generators are added.
    """
    whole: dict[str, Any] = {**state, "version": VERSION, "torch_generator": torch.get_rng_state()}
    if torch.cuda.is_available():
        whole["cuda_generators"] = torch.cuda.get_rng_state_all()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(whole, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load_snapshot(path: Path, device: torch.device) -> dict[str, Any]:
    """What `save_snapshot` wrote.

    Raises:
        DamageError: the file is not a snapshot. SpecError: it is one of another version.
    """
    content = path.read_bytes()
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        version = state["version"]
    except (RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise DamageError(
            f"{path}: expected a snapshot, found {reason}; delete it to start from the replay data"
        ) from err
    if version != VERSION:
        raise SpecError(
            f"{path}: expected a snapshot of version {VERSION}, found version {version}; use the release it is from"
        )
    return state


def restore_generators(state: Mapping[str, Any]) -> None:
    """Puts torch's generators into the state of the snapshot."""
    torch.set_rng_state(state["torch_generator"].cpu())
    if torch.cuda.is_available() and "cuda_generators" in state:
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda_generators"]])
