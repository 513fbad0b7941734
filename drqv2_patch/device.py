"""The device that a run computes on, chosen before anything is made for the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from replaystore.errors import SpecError
from replaystore.runtime.extras import needs

if TYPE_CHECKING:
    import torch

AUTO = "auto"
_KEY = "device"


def choose_device(name: str) -> torch.device:
    """Returns the device of that name.

    Args:
        name: `auto`, or a name that torch knows. `auto` is CUDA if torch finds a GPU, otherwise the CPU.

    Raises:
        SpecError: torch does not know the name, or finds no such CUDA device.
        MissingDependency: torch is not installed.
    """
    with needs("drqv2_patch", "drqv2"):
        import torch  # here, so that the guard of a checkout does not wait for it

    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as err:
        raise SpecError(f"device: expected auto, cpu, cuda or cuda:NUMBER, found {name!r}; pass device=auto") from err
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise SpecError("device: expected a CUDA device that torch can use, found none; pass device=cpu")
        if (device.index or 0) >= count:
            raise SpecError(f"device: expected one of {count} CUDA devices, found {name}; pass device=cuda:{count - 1}")
    return device


def describe_device(name: str, device: torch.device) -> str:
    """Returns for example `cpu (auto: torch finds no CUDA device)`, for the first line of a run."""
    if name != AUTO:
        return str(device)
    if device.type == "cpu":
        return "cpu (auto: torch finds no CUDA device)"
    import torch

    return f"{device} (auto: {torch.cuda.get_device_name(device)})"


def check_device_argument(arguments: Sequence[str], config: Path | None = None) -> None:
    """Checks that the CUDA device exists that the command line asks for, or else `config`.

    Hydra makes the directory of a run before the run can check anything, so this reads the arguments themselves. It
    does not check sweeps over devices. Nor does it check calls with options, which may run elsewhere or only show the
    configuration.

    Args:
        arguments: the arguments of the command line.
        config: the Hydra configuration, read if the command line names no device.

    Raises:
        SpecError: torch finds no such CUDA device.
        MissingDependency: torch or PyYAML is not installed.
    """
    if any(argument.startswith("-") for argument in arguments):
        return
    chosen = [argument.partition("=")[2] for argument in arguments if argument.lstrip("+").startswith(f"{_KEY}=")]
    name = chosen[-1].strip("'\"") if chosen else _configured(config)
    if name.startswith("cuda") and "," not in name:
        choose_device(name)


def _configured(config: Path | None) -> str:
    if config is None:
        return ""
    with needs("drqv2_patch", "drqv2"):
        import yaml  # type: ignore[import-untyped]
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return ""  # Hydra reports it
    return str(found.get(_KEY, "")) if isinstance(found, dict) else ""
