"""Experiment: the latency of updates in a training loop whose buffer outgrows the memory.

    python -m experiments.drqv2.latency episodes=DIR drqv2=PATH_TO_CHECKOUT

Each buffer runs in its own process, in a memory control group. The process appends recorded episodes until the raw
stacks reach a multiple of the limit. Then it runs the loop. The loop adds rows, and makes an update after every other
row. An update waits for its batch and for a learner of a set time. Then the process grows to the next size, until the
kernel kills it.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from replaystore.errors import SpecError
from replaystore.runtime.extras import needs

with needs("experiments.drqv2.latency", "bench", "dmc", "drqv2", in_command=__name__ == "__main__"):
    from matplotlib.figure import Figure

    from experiments.drqv2 import results
    from experiments.drqv2.buffers import BUFFERS, ORIGINAL, PUBLISHED, BufferConfig, check_checkout, link_episodes
    from experiments.drqv2.commands import run
    from experiments.drqv2.measuring import run_child
    from experiments.drqv2.recordings import Recording
    from replaystore.bench.conditions import git_commit
    from replaystore.bench.memory_limit import MIN_LIMIT_BYTES, memory_group
    from replaystore.bench.paging_stores import drop_page_cache

_NAMES = {ORIGINAL: "DrQ-v2's loader", "disk": "`disk`", "half": "`half`", "full": "`full`"}
_TEXT = ("buffer", "status")


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """What is measured. Settings that are not listed are those of training.

    Attributes:
        episodes: directory of episode files, which are appended again and again.
        drqv2: a checkout of DrQ-v2, for the buffer `original`, or None to leave that one out.
        buffers: the buffers to compare.
        limit_bytes: memory limit of each process and its children, page cache included.
        sizes: sizes of the raw stacks, as ascending multiples of the limit.
        margin_bytes: bytes that a store's budget leaves free, besides 550 MB for Python and torch.
        learner_milliseconds: length of the pause that stands for learning in an update.
        rows: rows of a timed loop.
        warm_rows: rows of the loop before timing starts.
        workers: threads of a store, or worker processes of the original.
        output_dir: directory for stores and results.
        docs: page to write the results into, or None.
    """

    episodes: str
    drqv2: str | None
    buffers: tuple[str, ...]
    limit_bytes: int
    sizes: tuple[float, ...]
    margin_bytes: int
    learner_milliseconds: float
    rows: int
    warm_rows: int
    update_every_steps: int
    workers: int
    batch_size: int
    n_step: int
    discount: float
    seed: int
    output_dir: str
    docs: str | None

    def check(self) -> None:
        """Raises `SpecError`, with the remedy, for a value that cannot work."""
        unknown = sorted(set(self.buffers) - set(BUFFERS) | set(self.buffers) & {PUBLISHED})
        if unknown or not self.buffers:
            raise SpecError(f"buffers: expected some of {', '.join(_NAMES)}, got {list(self.buffers)}")
        if not self.sizes or list(self.sizes) != sorted(self.sizes) or self.sizes[0] <= 0:
            raise SpecError(f"sizes: expected ascending multiples of the limit, got {list(self.sizes)}")
        for name in ("rows", "update_every_steps", "workers", "batch_size", "n_step"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.limit_bytes < MIN_LIMIT_BYTES:
            raise SpecError(f"limit_bytes: expected at least {MIN_LIMIT_BYTES}, got {self.limit_bytes}")
        check_checkout(self.drqv2)


_PROCESS_BYTES = 550_000_000  # Python, torch, kernels and batches in flight


def transitions_of(config: LatencyConfig, recording: Recording) -> list[int]:
    """Returns the number of transitions whose raw stacks take each size."""
    return [math.ceil(size * config.limit_bytes / math.prod(recording.image_shape)) for size in config.sizes]


def measure(config: LatencyConfig, kind: str, recording: Recording, work_dir: Path) -> dict[str, Any]:
    """Measures one buffer, from the smallest size to the largest or until it is killed."""
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    replay, stages = work_dir / "replay", work_dir / "stages.jsonl"
    replay.mkdir()
    if kind == ORIGINAL:
        # One for each worker, which cannot start without.
        link_episodes([recording.files[number % len(recording.files)] for number in range(config.workers)], replay)
    buffer = BufferConfig(
        kind=kind,
        directory=str(replay),
        checkout=config.drqv2,
        image_shape=recording.image_shape,
        frame_stack=recording.frame_stack,
        num_actions=recording.num_actions,
        capacity=100_000_000,
        batch_size=config.batch_size,
        n_step=config.n_step,
        discount=config.discount,
        seed=config.seed,
        workers=config.workers,
        residency="auto" if kind == "full" or kind == "half" else "mapped",
        budget_bytes=max(1, config.limit_bytes - _PROCESS_BYTES - config.margin_bytes),
    )
    request = {
        "job": "growth", "buffer": asdict(buffer), "episodes": str(recording.files[0].parent.resolve()),
        "stages": str(stages), "transitions": transitions_of(config, recording),
        "learner_milliseconds": config.learner_milliseconds, "rows": config.rows, "warm_rows": config.warm_rows,
        "update_every_steps": config.update_every_steps,
    }  # fmt: skip
    drop_page_cache(work_dir)
    with memory_group(config.limit_bytes) as group:
        answer, done = run_child(request, group)
        limited, reason = group.limited, group.reason
    lines = stages.read_text().splitlines() if stages.exists() else []
    shutil.rmtree(replay, ignore_errors=True)
    return {
        "buffer": kind,
        "killed": answer is None,
        "limited": limited,
        "limit_reason": reason,
        "peak_bytes": None if done.memory is None else done.memory.peak_bytes,
        "seconds": done.wall_seconds,
        "stages": [json.loads(line) for line in lines],
    }


def latency(config: LatencyConfig, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measures every buffer. It keeps measurements of earlier runs of the same commit with the same settings.

    Raises:
        SpecError: a value cannot work.
        MeasurementFailed: a process failed for another reason than the limit.
    """
    config.check()
    recording = Recording.find(config.episodes)
    root = Path(config.output_dir)
    settings = {key: value for key, value in asdict(config).items() if key not in ("buffers", "docs")}
    settings |= {"commit": git_commit()}
    measured = []
    for kind in config.buffers:
        if kind == ORIGINAL and config.drqv2 is None:
            tell(f"{kind}: left out, drqv2=PATH names no checkout")
            continue
        path = root / "measured" / f"{kind}.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        if found.get("settings") != json.loads(json.dumps(settings)):
            tell(f"{kind}: measuring")
            found = {"settings": settings, "result": measure(config, kind, recording, root / "work" / kind)}
            results.write_json(path, found)
        measured.append(found["result"])
    return {
        "config": asdict(config),
        "conditions": results.stated_conditions(root),
        "row_bytes": math.prod(recording.image_shape),
        "source_transitions": recording.num_transitions(),
        "measured": measured,
    }


def to_lines(result: Mapping[str, Any]) -> list[str]:
    """Returns the result as Markdown."""
    config, measured = result["config"], result["measured"]
    rows = []
    for entry in measured:
        stages = entry["stages"]
        for number, size in enumerate(config["sizes"]):
            stage = stages[number] if number < len(stages) else None
            if stage is None and number > len(stages):
                continue  # it has ended before
            rows.append(
                {
                    "raw data": f"{size:g}x",
                    "buffer": _NAMES[entry["buffer"]],
                    "transitions": "-" if stage is None else f"{stage['transitions']:,}",
                    "in RAM, MiB": _mebibytes(stage and stage["held_bytes"]),
                    "update p50 ms": "-" if stage is None else f"{stage['update_milliseconds']['p50']:.2f}",
                    "update p99 ms": "-" if stage is None else f"{stage['update_milliseconds']['p99']:.1f}",
                    "update mean ms": "-" if stage is None else f"{stage['update_milliseconds']['mean']:.2f}",
                    "status": "ok" if stage is not None else "killed at the limit" if entry["killed"] else "-",
                }
            )
    rows.sort(key=lambda row: float(row["raw data"][:-1]))
    limited = all(entry["limited"] for entry in measured)
    force = (
        f"Memory limit {config['limit_bytes'] / (1 << 30):.2f} GiB for a process and its children, page cache included."
        if limited
        else f"No memory limit was in force: {next(each['limit_reason'] for each in measured if not each['limited'])}"
    )
    return [
        f"{force} Raw data are stacks of {result['row_bytes']:,} bytes, in multiples of the limit; "
        f"{result['source_transitions']:,} recorded transitions, appended again and again. Loops of"
        f" {config['rows']:,} rows after {config['warm_rows']:,}, an update every {config['update_every_steps']} rows,"
        f" batches of {config['batch_size']}, n-step {config['n_step']}, a learner of"
        f" {config['learner_milliseconds']:g} ms. {config['workers']} threads, or worker processes of DrQ-v2's loader,"
        " whose episode files are put into its directory as links, since compressing them takes long.",
        "",
        *results.table(rows, _TEXT),
        "",
        results.condition_line(result["conditions"]),
    ]


def _mebibytes(num_bytes: int | None) -> str:
    return "-" if num_bytes is None else f"{num_bytes / (1 << 20):,.0f}"


def plot(result: Mapping[str, Any]) -> Figure:
    """Plots update latency over size: p50 with markers, p99 dotted, and a cross where a process was killed."""
    figure, axes = results.new_axes()
    sizes = result["config"]["sizes"]
    for number, entry in enumerate(result["measured"]):
        colour, stages = results.COLOURS[number], entry["stages"]
        label = _NAMES[entry["buffer"]].strip("`")
        for percentile, style in (("p50", "o-"), ("p99", ":")):
            values = [stage["update_milliseconds"][percentile] for stage in stages]
            axes.plot(sizes[: len(values)], values, style, color=colour, label=f"{label}, {percentile}")
        if entry["killed"] and len(stages) < len(sizes):
            axes.axvline(sizes[len(stages)], color=colour, linestyle="--", linewidth=1, label=f"{label}: killed")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_xlabel("raw stacks, multiples of the memory limit")
    axes.set_ylabel("update, milliseconds")
    axes.legend(fontsize=8)
    return figure


def main(config: LatencyConfig) -> None:
    """Measures, prints and writes."""
    result = latency(config, lambda line: print(line, file=sys.stderr, flush=True))
    lines = to_lines(result)
    results.save_result("latency", Path(config.output_dir), result, lines, plot(result), config.docs)
    print("\n".join(lines))


if __name__ == "__main__":
    run("latency", LatencyConfig, main)
