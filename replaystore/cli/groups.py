"""The root group. It keeps the order of commands and turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from replaystore.errors import ReplayStoreError, SpecError
from replaystore.runtime.compilation import show_status

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130


class ReportingGroup(click.Group):
    """A group whose commands may raise the errors of this package and `OSError`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the commands in the order in which they were added."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command. An error becomes one line on stderr, unless `--debug` asks for the traceback."""
        try:
            with contextlib.nullcontext() if ctx.params.get("progress") is False else show_status():
                return super().invoke(ctx)
        except (ReplayStoreError, OSError, KeyboardInterrupt) as err:
            if isinstance(err, BrokenPipeError) or (ctx.params.get("debug") and not isinstance(err, KeyboardInterrupt)):
                raise
            if isinstance(err, KeyboardInterrupt):
                click.echo("replaystore: interrupted", err=True)
                ctx.exit(INTERRUPTED)
            click.echo(f"replaystore: error: {_one_line(err)}", err=True)
            ctx.exit(WRONG_USE if isinstance(err, SpecError) else FAILED)


def _one_line(err: Exception) -> str:
    text = " ".join(str(err).split()) or type(err).__name__
    if isinstance(err, ReplayStoreError):
        return text
    return f"{text}; check the path, its permissions and the space left"
