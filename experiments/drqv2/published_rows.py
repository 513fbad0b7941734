"""The results of `published_table` as Markdown and as a plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.drqv2 import results
from experiments.drqv2.buffers import BUFFERS
from experiments.published.formulas import average_factor

Result = Mapping[str, Any]

AVERAGE = "average"
_SCENES = {"rgb": "RGB, unmodified", "gray": "gray, unmodified", "gray_black": "gray, black floor"}
_NAMES = {
    "original": "DrQ-v2's loader",
    "disk": "`disk`",
    "half": "`half`",
    "published": "published scheme",
    "full": "`full`",
}
_TEXT = ("task", "scene", "buffer", "environment")

# "Differentially Encoded Observation Spaces", DrQ-v2: Walker, Quadruped, average.
PUBLISHED_FIGURES = [
    "Published for its Half: 9x smaller, of which 3x are grayscale; frames per second +19%, +32%, on average +27%.",
    "Published for its Full: 16.7x, 15.5x, on average 15.9x smaller; frames per second -39%, -27%, on average -32%.",
]


def _tasks(result: Result) -> list[str]:
    tasks = list(result["config"]["tasks"])
    return [*tasks, AVERAGE] if len(tasks) > 1 else tasks


def _scenes(result: Result) -> list[str]:
    present = {entry["variant"] for entry in result["sizes"]}
    return [variant for variant in _SCENES if variant in present]


def _buffers(result: Result) -> list[str]:
    present = {entry["buffer"] for entry in result["sizes"]}
    return [kind for kind in BUFFERS if kind in present]


def size(result: Result, task: str, variant: str, kind: str, key: str) -> float | None:
    """Returns a figure of a buffer, or None if there is none. For `AVERAGE` it is the mean over tasks."""
    found = [
        entry.get(key)
        for entry in result["sizes"]
        if entry["variant"] == variant and entry["buffer"] == kind and task in (entry["task"], AVERAGE)
    ]
    values = [value for value in found if value is not None]
    return statistics.fmean(values) if values and len(values) == len(found) else None


def rate(
    result: Result, task: str, variant: str, kind: str, environment: str, milliseconds: float | None
) -> float | None:
    """Returns frames per second, the median of the repeats. For `AVERAGE` it is the mean over tasks."""
    found: dict[str, list[float]] = {}
    for entry in result["speeds"]:
        if (entry["variant"], entry["buffer"], entry["environment"], entry["learner_milliseconds"]) == (
            variant, kind, environment, milliseconds,
        ) and task in (entry["task"], AVERAGE):  # fmt: skip
            found.setdefault(entry["task"], []).append(entry["frames_per_second"])
    return statistics.fmean(statistics.median(rates) for rates in found.values()) if found else None


def _base(result: Result) -> str:
    """Returns the buffer that others are compared with."""
    return "original" if "original" in _buffers(result) else "disk"


def _loops(result: Result) -> list[tuple[str, float | None]]:
    return list(dict.fromkeys((entry["environment"], entry["learner_milliseconds"]) for entry in result["speeds"]))


def _learner(milliseconds: float | None) -> str:
    return "agent" if milliseconds is None else f"learner {milliseconds:g} ms"


def _gigabytes(num_bytes: float | None) -> str:
    return "-" if num_bytes is None else f"{num_bytes / 1000:,.2f}"


def _row(result: Result, task: str, variant: str, kind: str, against: tuple[str, str]) -> dict[str, str]:
    memory = size(result, task, variant, kind, "memory_bytes")
    base = size(result, task, *against, "memory_bytes")
    row = {
        "task": task,
        "scene": _SCENES[variant],
        "buffer": _NAMES[kind],
        "replay memory, GB": _gigabytes(memory),
        "process grew, GB": _gigabytes(size(result, task, variant, kind, "grown_bytes")),
        "formula, GB": _gigabytes(size(result, task, variant, kind, "formula_bytes")),
        "factor": "-" if memory is None or base is None else f"{average_factor([base], [memory]):.2f}",
    }
    for environment, milliseconds in _loops(result):
        frames = rate(result, task, variant, kind, environment, milliseconds)
        first = rate(result, task, *against, environment, milliseconds)
        change = f" ({frames / first - 1:+.0%})" if frames and first and (variant, kind) != against else ""
        row[f"FPS, {environment} environment, {_learner(milliseconds)}"] = (
            "-" if frames is None else f"{frames:,.1f}{change}"
        )
    return row


def as_published_rows(result: Result) -> list[dict[str, str]]:
    """Returns rows that compare the original with RGB against buffers with gray frames and a black floor."""
    against = "rgb", _base(result)
    rows = []
    for task in _tasks(result):
        rows.append(_row(result, task, *against, against))
        rows += [
            _row(result, task, "gray_black", kind, against)
            for kind in ("half", "published", "full")
            if kind in _buffers(result)
        ]
    return rows


def storage_rows(result: Result) -> list[dict[str, str]]:
    """Returns rows for all buffers in each scene. Within a scene only the storage differs."""
    return [
        _row(result, task, variant, kind, (variant, _base(result)))
        for variant in _scenes(result)
        for task in _tasks(result)
        for kind in _buffers(result)
    ]


def factor_rows(result: Result) -> list[dict[str, str]]:
    """Returns rows with the factor of each step, from the bytes of observations on disk."""

    def ratio(task: str, first: tuple[str, str], second: tuple[str, str]) -> float | None:
        above, below = (size(result, task, *each, "observation_bytes_per_transition") for each in (first, second))
        return None if above is None or below is None else above / below

    rows = []
    for variant in _scenes(result):
        for task in _tasks(result):
            gray = ratio(task, ("rgb", "disk"), (variant, "disk"))
            steps = {
                "grayscale": gray,
                "one frame": ratio(task, (variant, "disk"), (variant, "half")),
                "delta": ratio(task, (variant, "half"), (variant, "published")),
                "entropy coding": ratio(task, (variant, "published"), (variant, "full")),
                "storage alone": ratio(task, (variant, "disk"), (variant, "full")),
                "with grayscale": ratio(task, ("rgb", "disk"), (variant, "full")),
            }
            numbers = {name: "-" if value is None else f"{value:.2f}" for name, value in steps.items()}
            rows.append({"task": task, "scene": _SCENES[variant], **numbers})
    return rows


def wait_rows(result: Result) -> list[dict[str, str]]:
    """Returns rows with the milliseconds that an update waits for its batch."""
    return [
        {
            "task": entry["task"],
            "scene": _SCENES[entry["variant"]],
            "environment": f"{entry['environment']}, {_learner(entry['learner_milliseconds'])}",
            "buffer": _NAMES[entry["buffer"]],
            "wait p50 ms": f"{entry['wait_milliseconds']['p50']:.2f}",
            "wait p99 ms": f"{entry['wait_milliseconds']['p99']:.2f}",
        }
        for entry in _median_entries(result["speeds"])
    ]


def pair_rows(result: Result, kind: str = "full", other: str = "half") -> list[dict[str, str]]:
    """Returns rows with the speed of a buffer's loop against another's that ran next to it: median and range."""
    names = ("task", "variant", "environment", "learner_milliseconds")
    loops: dict[Any, dict[tuple[int, str], float]] = {}
    for entry in result["speeds"]:
        rates = loops.setdefault(tuple(entry[name] for name in names), {})
        rates[entry["repeat"], entry["buffer"]] = entry["frames_per_second"]
    rows = []
    for (task, variant, environment, milliseconds), rates in loops.items():
        repeats = [repeat for repeat, buffer in rates if buffer == kind and (repeat, other) in rates]
        changes = [rates[repeat, kind] / rates[repeat, other] - 1 for repeat in repeats]
        if changes:
            rows.append(
                {
                    "task": task,
                    "scene": _SCENES[variant],
                    "environment": f"{environment}, {_learner(milliseconds)}",
                    "pairs": str(len(changes)),
                    "median": f"{statistics.median(changes):+.1%}",
                    "from": f"{min(changes):+.1%}",
                    "to": f"{max(changes):+.1%}",
                }
            )
    return rows


def _median_entries(speeds: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    names = ("task", "variant", "environment", "learner_milliseconds", "buffer")
    for entry in speeds:
        groups.setdefault(tuple(entry[name] for name in names), []).append(entry)
    return [sorted(group, key=lambda one: one["frames_per_second"])[len(group) // 2] for group in groups.values()]


def to_lines(result: Result) -> list[str]:
    """Returns the result as Markdown."""
    config, base = result["config"], _base(result)
    counts = {
        f"{entry['task']} ({_SCENES[entry['variant']]})": f"{entry['transitions']:,}" for entry in result["sizes"]
    }
    learner = (
        "The learner is the real agent on the device named below."
        if result["learner"] == "agent"
        else "There is no CUDA device, so the learner is a pause of the set time. The processor is free meanwhile, as"
        " while a GPU learns. The environment `real` renders. `recorded` gives recorded rows that take no time, so only"
        " the buffer and the pause take time."
    )
    missing = [] if base == "original" else [
        "DrQ-v2's loader was not measured (give `drqv2=PATH`). Factors and changes are against `disk`.", "",
    ]  # fmt: skip
    return [
        "Measured transitions: " + "; ".join(f"{name} {count}" for name, count in counts.items()) + ".",
        "Replay memory is given for 10^6 transitions. For a store it is the bytes of its encoded chunks, all fields, in"
        " RAM or in files. For DrQ-v2's loader it is the growth of the process. The growth of a process is its private"
        " memory with the filled buffer, minus that with a small one. It does not include the rows since a store's last"
        " full chunk, at most 1,023, which are mapped. The formula counts only observations.",
        "",
        f"{config['rows']:,} rows per loop, median of {config['repeats']}. Frames are frames of the simulator, two per"
        f" row. {learner}",
        "",
        *missing,
        "### As published: another scene for the small ones",
        "",
        f"{_NAMES[base]} with RGB and the unmodified scene, against gray and a black floor: storage and scene change.",
        "",
        *results.table(as_published_rows(result), _TEXT),
        "",
        *PUBLISHED_FIGURES,
        "",
        "### Only the storage changes",
        "",
        *results.table(storage_rows(result), _TEXT),
        "",
        "### Factors, one by one",
        "",
        "For observations on disk. Delta: one raw frame against the published scheme. Entropy coding: the published"
        " scheme against `full`.",
        "",
        *results.table(factor_rows(result), _TEXT),
        "",
        "### `full` against `half`",
        "",
        "Frames per second of `full`, divided by `half` in the loop next to it, minus one.",
        "",
        *results.table(pair_rows(result), _TEXT),
        "",
        "### Waiting for a batch",
        "",
        *results.table(wait_rows(result), _TEXT),
        "",
        results.condition_line(result["conditions"]),
    ]


def plot(result: Result) -> Figure:
    """Plots frames per second over replay memory for each timed scene, a colour per buffer and a marker per task."""
    loops = _loops(result)
    variants = [variant for variant in _SCENES if variant in result["config"]["speed_variants"]]
    figure = Figure(figsize=(4.2 * max(1, len(loops)), 3.6 * max(1, len(variants))), dpi=150, layout="constrained")
    panels = figure.subplots(max(1, len(variants)), max(1, len(loops)), squeeze=False)
    for line, variant in zip(panels, variants, strict=False):
        for axes, (environment, milliseconds) in zip(line, loops, strict=False):
            axes.grid(visible=True, which="both", color="#d9dde3", linewidth=0.6)
            for number, kind in enumerate(_buffers(result)):
                for marker, task in zip("os^D", [task for task in _tasks(result) if task != AVERAGE], strict=False):
                    memory = size(result, task, variant, kind, "memory_bytes")
                    frames = rate(result, task, variant, kind, environment, milliseconds)
                    if memory is not None and frames is not None:
                        axes.plot(
                            memory / 1000, frames, marker, color=results.COLOURS[number],
                            label=f"{_NAMES[kind].strip('`')}, {task}",
                        )  # fmt: skip
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(bottom=0)
            axes.set_title(f"{_SCENES[variant]}: {environment}, {_learner(milliseconds)}", fontsize=9, loc="left")
            axes.set_xlabel("replay memory at 10^6 transitions, GB")
            axes.set_ylabel("frames per second")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure
