"""What Just Round leaves open: other ways to spend the bits, bounds of one's own, and rows that become equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.drqv2 import results
from experiments.just_round.tasks import BOUND, TASKS, random_rows
from experiments.kept_files import kept
from replaystore import RoundClamp
from replaystore.codecs.round_clamp.bounds import tight_bounds

DECIMALS = (1, 2, 3)
_LEAST_DEVIATION = 1e-6
_TEXT = ("task", "scheme")


def errors(task: str, num_rows: int) -> list[dict[str, Any]]:
    """Measures what each way to store the observations of a task changes, with random actions.

    Args:
        task: name of the task.
        num_rows: rows to measure.
    """
    rows = random_rows(task, num_rows)
    values = rows["observations"].reshape(num_rows, -1)
    deviation = values.std(axis=0)
    moving = deviation > _LEAST_DEVIATION
    found = []
    for name, bits, decoded in _schemes(values):
        error = np.abs(decoded - values)
        found.append(
            {
                "task": task,
                "scheme": name,
                "rows": num_rows,
                "bits": bits,
                "rms_error": float(np.sqrt((error**2).mean())),
                "share_of_deviation": float(np.median(np.sqrt((error**2).mean(axis=0))[moving] / deviation[moving])),
                "max_error": float(error.max()),
                "equal_rows": equal_rows(decoded, rows["actions"], rows["rewards"], _decimals_of(name)),
            }
        )
    return found


def _decimals_of(scheme: str) -> int | None:
    return next((decimals for decimals in DECIMALS if scheme.startswith(f"{decimals} decimal")), None)


def _schemes(values: NDArray[np.float64]) -> Iterator[tuple[str, float, NDArray[np.float64]]]:
    """Yields the name, the bits per value and the decoded values of each scheme."""
    low, high = (bound.tolist() for bound in tight_bounds(values))
    for decimals in DECIMALS:
        word = "decimal" if decimals == 1 else "decimals"
        for name, bounds in (("+-127", (-BOUND, BOUND)), ("own bounds", (low, high))):
            codec = RoundClamp(
                decimals=decimals, low=bounds[0], high=bounds[1], dtype="float64", row_size=values.shape[1]
            )
            packed, _ = codec.encode_rows(values)
            yield f"{decimals} {word}, {name}", float(np.mean(codec.bits)), codec.decode_rows(packed)
    tensor = torch.from_numpy(values)
    for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        yield name, 16.0, tensor.to(dtype).to(torch.float64).numpy()


def equal_rows(
    observations: NDArray[Any], actions: NDArray[Any], rewards: NDArray[Any], decimals: int | None
) -> float | None:
    """Returns the share of rows with the observation and action of another row, and another reward.

    Args:
        observations: (rows, values), decoded.
        actions: (rows, values), rounded here to as many decimals.
        rewards: (rows,).
        decimals: decimals of actions. None: the scheme has none, and nothing is counted.
    """
    if decimals is None:
        return None
    keys = np.concatenate([observations, np.round(actions, decimals)], axis=1)
    _, groups = np.unique(keys, axis=0, return_inverse=True)
    groups = groups.reshape(-1)
    low, high = np.full(groups.max() + 1, np.inf), np.full(groups.max() + 1, -np.inf)
    np.minimum.at(low, groups, rewards)
    np.maximum.at(high, groups, rewards)
    return float((low < high)[groups].mean())


def run(directory: Path, num_rows: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Makes the missing measurements, and returns all.

    Args:
        directory: directory of the measurements, which are kept.
        num_rows: rows per task.
        tell: called with a line of text for each task.
    """
    found: list[dict[str, Any]] = []
    for task in TASKS:
        found += kept(directory / f"errors_{task}_{num_rows}.json", lambda task=task: errors(task, num_rows))
        tell(f"{task}: {num_rows:,} rows")
    return found


def lines_of(measured: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the generated part of the page."""
    rows = [
        {
            "task": f"{entry['task']}-v5",
            "scheme": entry["scheme"],
            "bits per value": f"{entry['bits']:.1f}",
            "RMS error": f"{entry['rms_error']:.2g}",
            "of the deviation": f"{entry['share_of_deviation']:.2g}",
            "largest error": f"{entry['max_error']:.2g}",
            "rows that become equal": "-" if entry["equal_rows"] is None else f"{entry['equal_rows']:.2%}",
        }
        for entry in measured
    ]
    return [
        *results.table(rows, _TEXT),
        "",
        f"{measured[0]['rows']:,} rows of each task with random actions. Of the deviation: the RMS error of a value"
        " divided by its deviation over the rows, the median over values that change. Rows that become equal have the"
        " rounded observation and action of another row, and another reward.",
    ]
