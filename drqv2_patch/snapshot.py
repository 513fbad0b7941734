"""Snapshots of a run, as plain tensors and JSON. A snapshot is written whole or not at all. Loading runs no code."""

from __future__ import annotations

import io
import json
import pickle
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drqv2_patch.errors import RunError
from replaystore.runtime.durable_files import replacement
from replaystore.runtime.extras import needs

with needs("drqv2_patch", "drqv2"):
    import torch

PATCHED = "drqv2_patch 1"  # the format of snapshots of a patched checkout


def write_snapshot(path: Path, payload: Mapping[str, Any], form: str = PATCHED) -> None:
    """Writes a snapshot of the format `form`. A kill meanwhile leaves the one before."""
    with replacement(path, sync=True) as file:
        torch.save({"format": form, **payload}, file)


def read_snapshot(
    path: Path, form: str = PATCHED, remedy: str = "start a new run, or restore the checkout that wrote it"
) -> dict[str, Any]:
    """Reads a snapshot of the format `form`, with its tensors on the CPU.

    Raises:
        RunError: the file is damaged, or has another format. The message ends in `remedy`.
    """
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about the pickle of a foreign file
            payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, TypeError, ValueError, KeyError) as err:
        reason = str(err).splitlines()[0][:120] if str(err) else type(err).__name__
        raise RunError(
            f"{path}: expected a snapshot of format {form!r}, found what does not load ({reason}); {remedy}"
        ) from err
    found = payload.get("format") if isinstance(payload, dict) else None
    if found != form:
        raise RunError(f"{path}: expected a snapshot of format {form!r}, found {found!r}; {remedy}")
    return dict(payload)


def agent_state(agent: Any) -> dict[str, Any]:
    """Returns the states of an agent's modules, optimizers and tensors, by attribute. Other attributes are settings."""
    state: dict[str, Any] = {}
    for name, value in vars(agent).items():
        if isinstance(value, torch.Tensor):
            state[name] = value.detach()
        elif callable(getattr(value, "state_dict", None)):
            state[name] = value.state_dict()
    return state


def load_agent_state(agent: Any, state: Mapping[str, Any]) -> None:
    """Restores what `agent_state` returned.

    Raises:
        RunError: the agent has other parts, or parts of other sizes.
    """
    present = set(agent_state(agent))
    if present != set(state):
        raise RunError(
            f"snapshot of the agent: expected the parts {sorted(present)}, found {sorted(state)}; resume with the agent"
            " that wrote it"
        )
    for name, value in state.items():
        part = getattr(agent, name)
        try:
            if isinstance(part, torch.Tensor):
                with torch.no_grad():
                    part.copy_(value)
            else:
                part.load_state_dict(value)
        except (RuntimeError, ValueError, KeyError) as err:
            reason = " ".join(str(err).split())[:200]
            raise RunError(
                f"snapshot of agent.{name}: expected it to fit the agent of this configuration, found {reason}; resume"
                " with the task and settings that wrote it"
            ) from err


def random_state(environments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the state of the generators of PyTorch, NumPy and Python, and of the environments that have one."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
        "numpy": _to_json(np.random.get_state(legacy=False)),  # noqa: NPY002 - the agent draws from this one
        "python": json.dumps(random.getstate()),
        "environments": {
            name: _to_json(generator.get_state(legacy=False))
            for name, environment in environments.items()
            if (generator := _generator(environment)) is not None
        },
    }


def load_random_state(state: Mapping[str, Any], environments: Mapping[str, Any]) -> None:
    """Restores what `random_state` returned. A generator that no longer exists is left out."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(_from_json(state["numpy"]))  # noqa: NPY002
    version, numbers, gauss = json.loads(state["python"])
    random.setstate((version, tuple(numbers), gauss))
    for name, kept in state["environments"].items():
        generator = _generator(environments.get(name))
        if generator is not None:
            generator.set_state(_from_json(kept))


def _generator(environment: Any) -> np.random.RandomState | None:
    """Returns the generator of a dm_control environment: a task's in the suite, its own in manipulation."""
    for owner, name in ((getattr(environment, "task", None), "random"), (environment, "random_state")):
        generator = getattr(owner, name, None)
        if isinstance(generator, np.random.RandomState):
            return generator
    return None


def _to_json(state: Any) -> str:
    return json.dumps(state, default=lambda array: array.tolist())


def _from_json(text: str) -> Any:
    state = json.loads(text)
    state["state"]["key"] = np.array(state["state"]["key"], np.uint32)
    return state
