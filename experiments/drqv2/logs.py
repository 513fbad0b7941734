"""The logs of a run: event files for TensorBoard, evaluations, printed lines and a progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from drqv2_patch.progress import Pulse
from replaystore.errors import MissingDependency
from replaystore.runtime.compilation import show_compilation
from replaystore.runtime.durable_files import replace_file

EVALUATIONS = "evaluations.jsonl"


def read_evaluations(directory: Path) -> list[dict[str, Any]]:
    """Returns the evaluations of a run so far, oldest first. It leaves out a torn last line."""
    path = directory / EVALUATIONS
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


class RunLog:
    """Logs of the run in `directory`. Use it in a `with` statement.

    Args:
        tensorboard: whether to write event files.
        total_frames: frame at which the progress bar ends.
        frame: frame at which the run starts. Later evaluations of a killed run are dropped.

    Raises:
        MissingDependency: `tensorboard` is not installed.
    """

    def __init__(self, directory: Path, *, tensorboard: bool, total_frames: int, frame: int) -> None:
        self._directory = directory
        self._writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as err:
                raise MissingDependency(
                    f"tensorboard=true: expected the package tensorboard, found {err};"
                    " pip install 'replaystore[drqv2]', or pass tensorboard=false"
                ) from err
            self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=frame)
        kept = [entry for entry in read_evaluations(directory) if entry["frame"] < frame]
        text = "".join(json.dumps(entry) + "\n" for entry in kept)
        replace_file(directory / EVALUATIONS, text, sync=False)
        self._console = Console(file=sys.stderr, width=None if sys.stderr.isatty() else 160)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._pulse, self._total_frames = Pulse(), total_frames
        self._progress = Progress(*columns, console=self._console, disable=not sys.stderr.isatty())
        self._bar = self._progress.add_task("frames", total=total_frames, completed=frame, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        self._shown = show_compilation(self._tell_compilation)
        self._shown.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._shown.__exit__(None, None, None)
        self._progress.stop()
        if self._writer is not None:
            self._writer.close()

    def advance(self, frame: int, learning: str = "") -> None:
        """Moves the bar. Without a terminal it prints the position of the run now and then.

        Args:
            learning: how many updates there were, or when the first update comes.
        """
        self._progress.update(self._bar, completed=frame)
        if self._progress.disable and self._pulse.due():
            self.tell(f"frame {frame:,} of {self._total_frames:,}  {learning}")

    def evaluating(self, frame: int, number: int, episodes: int, rows: int) -> None:
        """Prints now and then that an evaluation is at row `rows` of episode `number` of `episodes`."""
        if self._pulse.due():
            self.tell(f"evaluation at frame {frame:,}: episode {number + 1:,} of {episodes:,}, row {rows:,}")

    def tell(self, line: str) -> None:
        """Prints a line of text."""
        self._console.print(line, highlight=False, markup=False)

    def _tell_compilation(self, line: str | None) -> None:
        self._progress.update(self._bar, note=line or "")
        if line is not None and self._progress.disable:
            self.tell(line)

    def scalars(self, group: str, frame: int, values: Mapping[str, float]) -> None:
        """Writes numbers at a frame."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, frame)

    def episode(self, frame: int, values: Mapping[str, float]) -> None:
        """Logs the end of an episode of training."""
        self.scalars("train", frame, values)
        text = "  ".join(f"{name} {value:,.4g}" for name, value in values.items())
        self._progress.update(self._bar, note=text)
        if self._progress.disable:
            self.tell(f"frame {frame:,}  {text}")

    def evaluation(self, entry: Mapping[str, float]) -> None:
        """Appends an evaluation. Its values include `frame` and `reward`."""
        with open(self._directory / EVALUATIONS, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(entry)) + "\n")
        self.scalars("eval", int(entry["frame"]), entry)
        self.tell(f"evaluation at frame {entry['frame']:,}: reward {entry['reward']:.1f}")
