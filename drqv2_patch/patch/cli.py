"""`python -m drqv2_patch`: patches a checkout of DrQ-v2, and restores it.

The exit code is 0 if it worked or there was nothing to do. It is 2 if it failed, and one line on stderr says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from drqv2_patch.errors import PatchError
from drqv2_patch.patch.checkout import Checkout, unified_diff
from drqv2_patch.patch.config_edits import ReplayOptions
from replaystore.cli.options import MODES, RESIDENCIES, size

_REFUSED = 2


class _OneLineGroup(click.Group):
    """A group whose errors are one line each."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
        except click.UsageError as err:
            text = err.format_message()
        except PatchError as err:
            text = str(err)
        except OSError as err:
            text = f"{err}; check the path, its permissions and the space left"
        else:
            return result
        click.echo(f"drqv2_patch: error: {' '.join(text.split())}", err=True)
        return ctx.exit(_REFUSED)


def _budget(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        size(value)
    return value


@click.group("drqv2_patch", cls=_OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Patches a checkout of facebookresearch/drqv2 to train on a replay store, on today's packages."""


@cli.command()
@click.argument("checkout", type=click.Path(path_type=Path))
@click.option("--mode", type=click.Choice(MODES), default="full", show_default=True, help="How images are stored.")
@click.option(
    "--residency", type=click.Choice(RESIDENCIES), default="auto", show_default=True, help="Where the bytes live."
)
@click.option("--budget", callback=_budget, metavar="SIZE", help="The most bytes in memory, as in 16GiB.")
@click.option("--dry-run", is_flag=True, help="Show what would change, as a diff, and write nothing.")
def apply(checkout: Path, mode: str, residency: str, budget: str | None, dry_run: bool) -> None:
    """Patches CHECKOUT. The options become the defaults in its configuration.

    On a patched checkout it changes those defaults, or does nothing if they are the same.
    """
    options = ReplayOptions(mode, residency, budget)
    target = Checkout(checkout)
    if dry_run:
        changes = target.plan(options)
        click.echo(unified_diff(changes), nl=False)
        click.echo(_summary(changes) if changes else f"{checkout}: already applied, mode {mode}", err=True)
        return
    patched = target.manifest() is not None
    if not target.apply(options):
        click.echo(f"{checkout}: already applied, mode {mode}")
    elif patched:
        click.echo(f"{checkout}: applied before; its options are now mode {mode}, residency {residency}")
    else:
        click.echo(f"{checkout}: applied, mode {mode}; undo: python -m drqv2_patch revert {checkout}")


@cli.command()
@click.argument("checkout", type=click.Path(path_type=Path))
@click.option("--discard-edits", is_flag=True, help="Also restore files that were edited after the patch.")
def revert(checkout: Path, discard_edits: bool) -> None:
    """Restores the files of CHECKOUT byte for byte."""
    if Checkout(checkout).revert(discard_edits=discard_edits):
        click.echo(f"{checkout}: restored")
    else:
        click.echo(f"{checkout}: not patched, nothing to restore")


def _summary(changes: dict[str, tuple[bytes, bytes]]) -> str:
    return f"{len(changes)} files would change: {', '.join(changes)}; nothing was written"


def main() -> None:
    """Runs the command line of this process."""
    cli(prog_name="python -m drqv2_patch")
