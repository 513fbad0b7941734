"""The commands of the package. An interrupted command goes on when it is started again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from replaystore.cli.options import AT_LEAST_1, DIRECTORY
from replaystore.cli.output import note
from replaystore.runtime.extras import needs

with needs("experiments.just_round", "sb3", "humanoid", "bench", in_command=True):
    import torch

    from experiments.drqv2 import results
    from experiments.just_round import learning as just_round_learning
    from experiments.just_round import memory as just_round_memory
    from experiments.just_round import open_questions as just_round_open
    from experiments.just_round import speed as just_round_speed
    from experiments.just_round.tasks import ALGORITHMS, TASKS

_docs = click.option("--docs", type=click.Path(path_type=Path), help="Page to write the results into.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Just Round: memory, time and learning of PPO and SAC with rounded observations."""
    torch.set_num_threads(1)


def _save(name: str, directory: Path, data: Any, lines: Sequence[str], figure: Any, docs: Path | None) -> None:
    stated = results.stated_conditions(directory)
    whole = [*lines, "", results.condition_line(stated)]
    page = None if docs is None else str(docs)
    results.save_result(name, directory, {"results": data, "conditions": stated}, whole, figure, page, section=True)


@main.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--sac-rows", type=AT_LEAST_1, default=100_000, show_default=True, help="Transitions of SAC's buffers.")
@_docs
def memory(directory: Path, sac_rows: int, docs: Path | None) -> None:
    """Figure 2: the memory of training, as published and measured."""
    published = just_round_memory.published_rows()
    measured = just_round_memory.measure_buffers(directory, sac_rows, note)
    data = {"published": published, "measured": measured}
    lines = just_round_memory.lines_of(published, measured)
    _save("just_round_memory", directory, data, lines, just_round_memory.plot(published), docs)


@main.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--algorithms", multiple=True, type=click.Choice(ALGORITHMS), default=ALGORITHMS, show_default=True)
@click.option("--blocks", type=click.IntRange(min=2), default=10, show_default=True, help="Pairs of blocks.")
@_docs
def speed(directory: Path, algorithms: Any, blocks: int, docs: Path | None) -> None:
    """Table I: milliseconds per step, in pairs of blocks."""
    speeds = just_round_speed.run(directory, algorithms, blocks, note)
    data = [entry.to_json() for entry in speeds]
    _save("just_round_speed", directory, data, just_round_speed.lines_of(speeds), None, docs)


@main.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--algorithm", type=click.Choice(ALGORITHMS), default="ppo", show_default=True)
@click.option("--tasks", multiple=True, type=click.Choice(TASKS), default=TASKS, show_default=True, help="Repeatable.")
@click.option("--arms", multiple=True, type=click.Choice(just_round_learning.ARMS), default=just_round_learning.ARMS,
              show_default=True, help="Repeatable.")  # fmt: skip
@click.option("--seeds", type=AT_LEAST_1, default=3, show_default=True, help="Number of seeds. Published: 10.")
@click.option("--steps", type=AT_LEAST_1, default=100_000, show_default=True, help="Steps per run. Published: 10^6.")
@_docs
def learning(
    directory: Path, algorithm: Any, tasks: tuple[str, ...], arms: tuple[str, ...], seeds: int, steps: int,
    docs: Path | None,
) -> None:  # fmt: skip
    """Figure 4: learning with and without rounding, the same seeds in both."""
    runs = just_round_learning.run(algorithm, tasks, arms, range(seeds), steps, directory, note)
    data = [{"final": entry.final, **vars(entry)} for entry in runs]
    lines = just_round_learning.lines_of(runs, steps)
    _save(f"just_round_learning_{algorithm}", directory, data, lines, just_round_learning.plot(runs, steps), docs)


@main.command("open-questions")
@click.argument("directory", type=DIRECTORY)
@click.option("--rows", type=AT_LEAST_1, default=20_000, show_default=True, help="Rows per task.")
@_docs
def open_questions(directory: Path, rows: int, docs: Path | None) -> None:
    """What the paper leaves open: other 16-bit numbers, bounds of one's own, rows that become equal."""
    measured = just_round_open.run(directory, rows, note)
    _save("just_round_open_questions", directory, measured, just_round_open.lines_of(measured), None, docs)


if __name__ == "__main__":
    main()
