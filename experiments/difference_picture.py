"""Draws two neighbouring frames, their difference, and the bytes that an observation takes in each mode.

python -m experiments.difference_picture docs/images/difference.png
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import numpy as np

from experiments import RECORDED
from replaystore.datasets.drqv2_npz import list_episode_files, read_episode
from replaystore.datasets.fields import fields_from_episode
from replaystore.runtime.extras import needs

with needs("experiments.difference_picture", "bench", in_command=__name__ == "__main__"):
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    from replaystore import FrameDelta
    from replaystore.bench.frame_example import frame_example


def main(target: Path) -> None:
    """Draws the picture from the recorded episodes."""
    mpl.use("Agg")
    files = [entry.path for entry in list_episode_files(RECORDED)]
    episodes = [read_episode(path) for path in files]
    spec = next(field for field in fields_from_episode(episodes[0]) if field.name == "observation")
    example = frame_example(spec, episodes[0]["observation"], files[0].name)
    codec = FrameDelta(frame_shape=spec.shape, channels="first")
    newest = -spec.shape[0]  # channels of the newest frame of each stack
    frames = [np.ascontiguousarray(episode["observation"][:, newest:]) for episode in episodes]
    encoded = sum(len(codec.encode_frames(array)) for array in frames) / sum(map(len, frames))

    figure, axes = plt.subplots(1, 4, figsize=(12, 3.1), width_ratios=(1, 1, 1, 1.5), layout="constrained")
    pictures = (
        (example.previous_png, f"row {example.row - 1}"),
        (example.current_png, f"row {example.row}"),
        (example.difference_png, f"difference, x{example.difference_gain:g}"),
    )
    for axis, (png, title) in zip(axes, pictures, strict=False):
        axis.imshow(plt.imread(io.BytesIO(base64.b64decode(png))), interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
    names = ("disk", "half", "full")
    sizes = np.array((example.stack_bytes, example.frame_bytes, encoded))
    bars = axes[3].barh(names, sizes, color=("#d55e00", "#0072b2", "#009e73"))
    axes[3].bar_label(bars, [f"{size:,.0f} B" for size in sizes], padding=4)
    axes[3].set_xlim(0, 1.3 * sizes.max())
    axes[3].invert_yaxis()
    axes[3].set_title("an observation takes")
    axes[3].xaxis.set_visible(False)
    axes[3].spines[["top", "right", "bottom"]].set_visible(False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
