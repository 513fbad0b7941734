"""The `replaystore` command. Figures go to stdout, everything else to stderr.

Exit codes: 0 for success, 1 if the data, the store or the check failed, 2 if the command or its options make no sense,
130 if interrupted. Importing this package and showing help loads only click. Commands import what they need when they
run.
"""

from __future__ import annotations

import click

from replaystore.cli.bench_commands import bench
from replaystore.cli.collect_command import collect
from replaystore.cli.groups import ReportingGroup
from replaystore.cli.logs import show_logs
from replaystore.cli.plan_command import plan
from replaystore.cli.store_commands import convert, export, info, repack, verify
from replaystore.cli.warmup_command import warmup

__all__ = ["cli", "main"]


@click.group("replaystore", cls=ReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="replaystore", prog_name="replaystore")
@click.option("--debug", is_flag=True, help="Show where an error was raised.")
@click.option("-v", "--verbose", count=True, help="Show what happens on stderr; -vv shows more.")
@click.option("--progress/--no-progress", default=None, help="Show progress bars. Default: if stderr is a terminal.")
@click.pass_context
def cli(context: click.Context, debug: bool, verbose: int, progress: bool | None) -> None:
    """Replay stores: experience for reinforcement learning in one directory, small and bit-exact."""
    context.ensure_object(dict).update(debug=debug, progress=progress)
    show_logs(context, verbose)


for _command in (collect, convert, export, repack, info, verify, plan, bench, warmup):
    cli.add_command(_command)


def main() -> None:
    """Runs the command line of this process.

    That is `replaystore` or `python -m replaystore`. Messages name the one that was used.
    """
    cli()
