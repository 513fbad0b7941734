"""Experiment: the published plot of the theoretical compression factor, with measured points.

    python -m experiments.drqv2.theoretical_factor +recordings.walker_walk_gray=DIR

The plot in "Differentially Encoded Observation Spaces" shows the factor over the frame stack f and over phi. Every f-th
frame is a keyframe, and phi is the share of pixels of a frame that differ from its keyframe. This experiment measures
phi and the bytes of real frames for several f. If more than a quarter of its pixels changed, a frame is stored raw, and
counts as a quarter. Each colour plane counts as a frame, because the formula has no colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.published.formulas import published_observation_factor, simplified_observation_factor
from replaystore.datasets.drqv2_npz import read_episode
from replaystore.errors import SpecError
from replaystore.runtime.extras import needs

with needs("experiments.drqv2.theoretical_factor", "bench", "dmc", "drqv2", in_command=__name__ == "__main__"):
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullFormatter

    from experiments.drqv2 import results
    from experiments.drqv2.commands import run
    from experiments.drqv2.recordings import Recording
    from replaystore import FrameDelta

Frames = npt.NDArray[np.uint8]

_TEXT = ("data",)


@dataclass(frozen=True, kw_only=True)
class TheoreticalFactorConfig:
    """What is measured.

    Attributes:
        recordings: directories of episode files, by name.
        frame_stacks: the frame stacks, each at least 2.
        max_episodes: most episodes per recording, or None for all.
        output_dir: directory for the results.
        docs: page to write the results into, or None.
    """

    recordings: dict[str, str]
    frame_stacks: tuple[int, ...]
    max_episodes: int | None
    output_dir: str
    docs: str | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """A recording at one frame stack. Factors are against raw stacks.

    Attributes:
        frames: number of measured frames in all episodes.
        changed_pixels: mean changed pixels of a plane that is not a keyframe, at most a quarter of the plane.
        phi: `changed_pixels` as a share of the plane.
        simplified: factor of equation 5 at `changed_pixels`, with the term that is missing in print.
        as_printed: factor of equation 5 as printed.
        counted: factor of equation 4 for these frames.
        published: factor of the codec `FrameDelta.published`, from real bytes.
        full: factor of the default codec, from real bytes.
    """

    recording: str
    frame_stack: int
    frames: int
    changed_pixels: float
    phi: float
    simplified: float
    as_printed: float
    counted: float
    published: float
    full: float


def newest_frames(observations: Frames, frame_stack: int) -> Frames:
    """Returns one frame per row, (row, channel, height, width)."""
    channels = observations.shape[1] // frame_stack
    return np.ascontiguousarray(observations[:, -channels:])


def count_changed(frames: Frames, frame_stack: int) -> tuple[int, int, int]:
    """Counts keyframes, other planes, and the pixels in which these differ from their keyframe.

    A plane counts for at most a quarter of its pixels.

    Args:
        frames: frames of one episode, (row, channel, height, width). Every `frame_stack`-th is a keyframe.
    """
    rows, channels, height, width = frames.shape
    keyframe = np.arange(rows) // frame_stack * frame_stack
    changed = (frames != frames[keyframe]).sum(axis=(2, 3))
    others = np.arange(rows) != keyframe
    limited = np.minimum(changed[others], height * width // 4)
    return int((~others).sum()) * channels, int(others.sum()) * channels, int(limited.sum())


def measure(name: str, episodes: Sequence[Frames], frame_stack: int) -> Point:
    """Measures frames of episodes, each (row, channel, height, width).

    Raises:
        SpecError: the episodes are too short for this frame stack.
    """
    shape = episodes[0].shape[1:]
    plane = shape[1] * shape[2]
    counts = np.array([count_changed(frames, frame_stack) for frames in episodes])
    keyframes, others, pixels = (int(count) for count in counts.sum(axis=0))
    if others == 0:
        raise SpecError(f"recording {name}: expected episodes of more than one row, found none; record longer ones")
    rows, side = sum(len(frames) for frames in episodes), math.isqrt(plane)
    if side * side != plane:
        raise SpecError(f"recording {name}: expected square frames, as the formula has them, found {shape}")
    changed = pixels / others
    raw_stacks = rows * frame_stack * math.prod(shape)

    def factor(codec: FrameDelta) -> float:
        return raw_stacks / sum(len(codec.encode_frames(frames)) for frames in episodes)

    return Point(
        recording=name,
        frame_stack=frame_stack,
        frames=rows,
        changed_pixels=changed,
        phi=changed / plane,
        simplified=simplified_observation_factor(changed, frame_stack, frame_side=side),
        as_printed=simplified_observation_factor(
            changed,
            frame_stack,
            frame_side=side,
            as_printed=True,
        ),
        counted=published_observation_factor(
            num_rows=rows * shape[0],
            frame_stack=frame_stack,
            stored_pixels=pixels,
            frame_side=side,
            num_keyframes=keyframes,
        ),
        published=factor(FrameDelta.published(frame_shape=shape, frame_stack=frame_stack)),
        full=factor(FrameDelta(frame_shape=shape)),
    )


def theoretical_factor(config: TheoreticalFactorConfig) -> dict[str, Any]:
    """Measures every recording at every frame stack."""
    if not config.recordings or not config.frame_stacks or min(config.frame_stacks) < 2:
        raise SpecError("expected at least one recording, and frame_stacks of at least 2")
    if config.max_episodes is not None and config.max_episodes < 1:
        raise SpecError(f"max_episodes: expected at least 1 or null, got {config.max_episodes}")
    points = []
    for name, directory in config.recordings.items():
        recording = Recording.find(directory)
        episodes = [
            newest_frames(read_episode(path)["observation"], recording.frame_stack)
            for path in recording.files[: config.max_episodes]
        ]
        points += [measure(name, episodes, frame_stack) for frame_stack in config.frame_stacks]
    return {
        "config": asdict(config),
        "conditions": results.stated_conditions(Path(config.output_dir)),
        "points": [asdict(point) for point in points],
    }


def plot(points: Iterable[Mapping[str, Any]]) -> Figure:
    """Plots the formula over frame stack and phi on the left, and formula and bytes over frame stack on the right."""
    points = list(points)
    most = max(8, *(point["frame_stack"] for point in points))
    figure = Figure(figsize=(11, 4.8), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    stacks, shares = np.linspace(1, most, 120), np.linspace(0, 0.25, 120)
    surface = np.array([[simplified_observation_factor(share * 84**2, stack) for stack in stacks] for share in shares])
    levels = [level for level in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if level <= surface.max()]
    filled = left.contourf(stacks, shares, surface, levels=[*levels, surface.max()], cmap="Greys", alpha=0.55)
    left.clabel(left.contour(stacks, shares, surface, levels=levels, colors="#555555", linewidths=0.6), fmt="%g")
    figure.colorbar(filled, ax=left, label="theoretical factor")
    left.set_xlabel("frame stack f")
    left.set_ylabel("phi: share of pixels that differ from the keyframe")
    left.set_title("Formula, with measured points; numbers: real factor of mode full", loc="left", fontsize=10)
    for number, name in enumerate(dict.fromkeys(point["recording"] for point in points)):
        own = [point for point in points if point["recording"] == name]
        colour = results.COLOURS[number % len(results.COLOURS)]
        x = [point["frame_stack"] for point in own]
        left.plot(x, [point["phi"] for point in own], "o-", color=colour, label=name, linewidth=1)
        for point in own:
            left.annotate(
                f"{point['full']:.0f}x", (point["frame_stack"], point["phi"]), xytext=(3, 4),
                textcoords="offset points", fontsize=7, color=colour,
            )  # fmt: skip
        right.plot(x, [point["full"] for point in own], "D-", color=colour, label=f"{name}: mode full")
        right.plot(x, [point["published"] for point in own], "o-", color=colour, markerfacecolor="none",
                   label=f"{name}: published scheme")  # fmt: skip
        right.plot(x, [point["simplified"] for point in own], "--", color="black", linewidth=0.8, zorder=4)
        right.plot(x, [point["as_printed"] for point in own], ":", color="black", linewidth=0.8, zorder=4)
    left.set_xlim(1, most + 0.5)
    left.set_ylim(0, 0.265)
    left.legend(fontsize=7, loc="lower left")
    right.set_yscale("log")
    right.yaxis.set_major_locator(FixedLocator([2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96]))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter(NullFormatter())
    right.grid(visible=True, which="both", color="#d9dde3", linewidth=0.7)
    right.set_xlabel("frame stack f")
    right.set_ylabel("factor against raw stacks")
    right.set_title("Dashed: formula. Dotted: as printed, without its last term", loc="left", fontsize=10)
    right.legend(fontsize=7)
    return figure


def to_lines(result: Mapping[str, Any]) -> list[str]:
    """Returns the result as Markdown."""
    rows = [
        {
            "data": point["recording"],
            "f": str(point["frame_stack"]),
            "frames": f"{point['frames']:,}",
            "phi": f"{point['phi']:.4f}",
            "formula": f"{point['simplified']:.2f}",
            "as printed": f"{point['as_printed']:.2f}",
            "formula, counted": f"{point['counted']:.2f}",
            "published scheme": f"{point['published']:.2f}",
            "mode `full`": f"{point['full']:.2f}",
        }
        for point in result["points"]
    ]
    return [*results.table(rows, _TEXT), "", results.condition_line(result["conditions"])]


def main(config: TheoreticalFactorConfig) -> None:
    """Measures, prints and writes."""
    result = theoretical_factor(config)
    lines = to_lines(result)
    results.save_result(
        "theoretical_factor", Path(config.output_dir), result, lines, plot(result["points"]), config.docs
    )
    print("\n".join(lines))


if __name__ == "__main__":
    run("theoretical_factor", TheoreticalFactorConfig, main)
