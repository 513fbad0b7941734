"""Figure 2 of Just Round: the memory of training, in its convention and measured in buffers that are full."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.drqv2 import results
from experiments.just_round.tasks import ALGORITHMS, DECIMALS, TASKS
from experiments.kept_files import kept
from experiments.published.formulas import JUST_ROUND_DIMS, JUST_ROUND_FACTORS, just_round_bytes, packed_bits

ARMS = ("original", "published", "auto")
"""The buffer of stable-baselines3, ours with the rounding of Just Round, and ours with bounds from the data."""

_MIB = 1 << 20
_TEXT = ("task", "algorithm")


def published_rows() -> list[dict[str, Any]]:
    """Returns the sizes in the convention of the paper, one entry per task and algorithm. Bytes are of training."""
    rows = []
    for algorithm in ALGORITHMS:
        for task in TASKS:
            dims, actions = JUST_ROUND_DIMS[task]
            bits = packed_bits(DECIMALS[algorithm], -127.0, 127.0)
            plain, networks = just_round_bytes(algorithm, dims, actions, 64)
            rounded, _ = just_round_bytes(algorithm, dims, actions, bits)
            rows.append(
                {
                    "algorithm": algorithm,
                    "task": task,
                    "bits": bits,
                    "buffer_bytes": plain,
                    "network_bytes": networks,
                    "rounded_buffer_bytes": rounded,
                    "factor": (plain + networks) / (rounded + networks),
                    "published_factor": JUST_ROUND_FACTORS[algorithm][task],
                }
            )
    return rows


def measure_buffers(directory: Path, sac_rows: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Fills buffers in processes of their own. Returns what `fill_buffer` measured, one entry per buffer.

    Args:
        directory: directory of the measurements, which are kept.
        sac_rows: transitions in buffers of SAC.
        tell: called with a line of text for each buffer.
    """
    found = []
    for algorithm in ALGORITHMS:
        for task in TASKS:
            for arm in ARMS:
                rows = 2048 if algorithm == "ppo" else sac_rows
                path = directory / f"memory_{algorithm}_{task}_{arm}_{rows}.json"
                asked = {"algorithm": algorithm, "task": task, "arm": arm, "rows": rows}
                found.append(kept(path, lambda asked=asked: _in_a_process(asked)))
                tell(f"{task}, {algorithm}, {arm}: {found[-1]['observation_bytes'] / _MIB:,.2f} MiB of observations")
    return found


def _in_a_process(asked: dict[str, Any]) -> dict[str, Any]:
    with TemporaryDirectory(prefix="just-round-") as scratch:
        answer = Path(scratch, "answer.json")
        command = [sys.executable, "-m", "experiments.just_round.fill_buffer", json.dumps(asked), scratch, str(answer)]
        subprocess.run(command, check=True)
        return {**asked, **json.loads(answer.read_text())}


def lines_of(published: Sequence[dict[str, Any]], measured: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the generated part of the page."""
    rows = [
        {
            "algorithm": entry["algorithm"].upper(),
            "task": entry["task"],
            "bits per value": str(entry["bits"]),
            "buffer, MiB": f"{entry['buffer_bytes'] / _MIB:,.2f}",
            "networks, MiB": f"{entry['network_bytes'] / _MIB:,.2f}",
            "rounded buffer, MiB": f"{entry['rounded_buffer_bytes'] / _MIB:,.2f}",
            "factor": f"{entry['factor']:.2f}",
            "published": f"{entry['published_factor']:.2f}",
        }
        for entry in published
    ]
    lines = ["### In the convention of the paper", "", *results.table(rows, _TEXT), ""]
    by = {(entry["algorithm"], entry["task"], entry["arm"]): entry for entry in measured}
    rows = []
    for algorithm, task in dict.fromkeys((entry["algorithm"], entry["task"]) for entry in measured):
        original, fixed, auto = (by[algorithm, task, arm] for arm in ARMS)
        rows.append(
            {
                "algorithm": algorithm.upper(),
                "task": f"{task}-v5",
                "rows": f"{original['rows']:,}",
                "original: observations, all, process grew": _three(original),
                "ours, +-127": _three(fixed),
                "ours, auto": _three(auto),
                "observations, factor": f"{_factor(original, fixed):.1f} / {_factor(original, auto):.1f}",
                "clamped": f"{fixed['clamped_share']:.2%} / {auto['clamped_share']:.2%}",
            }
        )
    return [
        *lines,
        "### Buffers of stable-baselines3, measured", "",
        "MiB of the observations, of all arrays or files, and what the process grew by. Factors and clamped values are"
        " of +-127 / auto.", "",
        *results.table(rows, _TEXT),
    ]  # fmt: skip


def _three(entry: dict[str, Any]) -> str:
    return " / ".join(f"{entry[name] / _MIB:,.2f}" for name in ("observation_bytes", "num_bytes", "grown_bytes"))


def _factor(original: dict[str, Any], ours: dict[str, Any]) -> float:
    return float(original["observation_bytes"] / ours["observation_bytes"])


def plot(published: Sequence[dict[str, Any]]) -> Any:
    """Returns the bars of figure 2: buffer and networks, without and with rounding, one panel per algorithm."""
    figure, axes = results.new_axes(9.0, 4.6)
    labels = [f"{entry['algorithm'].upper()}\n{entry['task']}" for entry in published]
    places = np.arange(len(published))
    for offset, name, label, colour in (
        (-0.2, "buffer_bytes", "float64", results.COLOURS[0]),
        (0.2, "rounded_buffer_bytes", "rounded", results.COLOURS[1]),
    ):
        networks = np.array([entry["network_bytes"] for entry in published]) / _MIB
        buffers = np.array([entry[name] for entry in published]) / _MIB
        axes.bar(places + offset, buffers + networks, 0.38, label=f"{label}, buffer", color=colour)
        axes.bar(
            places + offset, networks, 0.38, color=colour, edgecolor="black", hatch="//", label=f"{label}, networks"
        )
    axes.set_yscale("log")
    axes.set_xticks(places, labels, fontsize=8)
    axes.set_ylabel("memory of training, MiB")
    axes.legend(fontsize=8)
    return figure
