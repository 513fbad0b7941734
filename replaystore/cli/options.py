"""Types of options, and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# Copies of those in `replaystore.spec`, which takes long to import. A test compares them.
MODES = ("disk", "half", "full")
DURABILITIES = ("process", "power")
RESIDENCIES = ("mapped", "files", "ram", "auto")
ROLES = ("observation", "action", "reward", "discount", "extra")
REFERENCES = ("inward", "previous", "keyframe")
CONTENDERS = (
    "disk", "half", "full", "half-mapped", "full-mapped", "disk-files", "half-files", "full-files", "memmap", "drqv2",
)  # fmt: skip
ENTROPIES = ("packed", "lz4", "zstd", "spans", "points", "none")


def size(value: str | int) -> int:
    """Returns a number of bytes, at least 1, from text such as `16GiB`, `500MB`, `1.5 GB` or `1048576`.

    >>> size("1.5KiB")
    1536

    Raises:
        click.BadParameter: the text is no such size.
    """
    from replaystore.runtime.numbers import byte_size

    try:
        return byte_size(value, "size")
    except ValueError as err:
        raise click.BadParameter(f"{value!r} is not a size such as 16GiB, 500MB or 1048576") from err


def list_of(item: Any, name: str) -> Callable[[str], tuple[Any, ...]]:
    """Returns a click type for several values with commas between them.

    Args:
        item: click type of one value.
        name: name of a value in the help.
    """
    item_type = click.types.convert_type(item)

    def convert(value: str | tuple[Any, ...]) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(item_type.convert(part.strip(), None, None) for part in value.split(","))

    convert.__name__ = f"{name},..."
    return convert


def pair(left: str, right: str, choices: tuple[str, ...] = ()) -> Callable[[str], tuple[str, str]]:
    """Returns a click type for text such as `goal=extra`.

    Args:
        left: name of the part before the sign, in the help.
        right: name of the part behind it.
        choices: what the part behind it may be. Nothing: any text.
    """
    allowed = f"; a {right.lower()} is one of {', '.join(choices)}" if choices else ""

    def convert(value: str | tuple[str, str]) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, _, other = value.partition("=")
        if not name or not other or (choices and other not in choices):
            raise click.BadParameter(f"{value!r} is not {left}={right}{allowed}")
        return name, other

    convert.__name__ = f"{left}={right}"
    return convert


AT_LEAST_1 = click.IntRange(min=1)
EXISTING_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, writable=True, path_type=Path)

batch_size_option = click.option(
    "--batch-size", type=AT_LEAST_1, default=256, show_default=True, help="Transitions per batch."
)
n_step_option = click.option("--n-step", type=AT_LEAST_1, default=3, show_default=True, help="Steps of the return.")
threads_option = click.option(
    "--threads", type=AT_LEAST_1, default=2, show_default=True, help="Threads that work on a batch."
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
frame_stack_option = click.option(
    "--frame-stack", type=AT_LEAST_1, help="Frames in an observation. Default: derived from the first episode."
)


def frame_delta_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the image codec of mode `full`."""
    options = (
        click.option("--keyframe-interval", type=AT_LEAST_1, help="Most frames per group."),
        click.option("--reference", type=click.Choice(REFERENCES), help="The frame that a frame is the difference to."),
        click.option("--entropy", type=click.Choice(ENTROPIES), help="How differences are compressed."),
        click.option("--level", type=int, help="Level of the compressor."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chosen_frame_delta(**options: Any) -> dict[str, Any] | None:
    """Returns the options that were given. None if there are none."""
    return {name: value for name, value in options.items() if value is not None} or None
