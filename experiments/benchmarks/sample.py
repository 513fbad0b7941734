"""Batches from your own stores beside other replay buffers.

    python -m experiments.benchmarks.sample STORE... [--drqv2 PATH] [--drqv2-compress PATH] [--plot FILE]

Other buffers hold transitions of the first STORE. They come with `pip install -e '.[peers]'`, but for DrQ-v2 and
drqv2_compress, of which a checkout is needed. Everything is measured in turn, in one process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from replaystore.cli.options import AT_LEAST_1, EXISTING_DIRECTORY, list_of
from replaystore.cli.output import progress_bar
from replaystore.cli.sample_command import sample_options, show_sample
from replaystore.errors import ReplayStoreError
from replaystore.runtime.extras import needs

with needs("experiments.benchmarks.sample", "peers", in_command=__name__ == "__main__"):
    import torch  # noqa: F401 - first, so that what is missing is named with the extra that has all of it

    from experiments.benchmarks.beside_peers import run_beside_peers
    from experiments.benchmarks.peers.registry import PEERS, candidates


def _several_peers(value: str | tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    return () if value == "none" else list_of(click.Choice(PEERS), "peer")(value)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@sample_options
@click.option(
    "--peers", type=_several_peers, default=",".join(PEERS), metavar="NAMES", show_default=True,
    help="Other buffers to compare with, or none; the table says of those that are not installed what is missing.",
)  # fmt: skip
@click.option("--transitions", type=AT_LEAST_1, default=4000, show_default=True, help="That other buffers hold.")
@click.option("--drqv2", "drqv2_path", type=EXISTING_DIRECTORY, help="Your checkout of facebookresearch/drqv2.")
@click.option(
    "--drqv2-compress", "drqv2_compress_path", type=EXISTING_DIRECTORY,
    help="Your checkout of A2R-Lab/drqv2_compress.",
)  # fmt: skip
@click.option("--work-dir", type=EXISTING_DIRECTORY, help="For files of other buffers. Default: a temporary one.")
def main(
    stores: tuple[Path, ...], peers: tuple[str, ...], drqv2_path: Path | None, drqv2_compress_path: Path | None,
    as_json: bool, json_file: Path | None, plot_file: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Times batches and shows the result."""
    found = candidates(peers, drqv2_path=drqv2_path, drqv2_compress_path=drqv2_compress_path)
    try:
        with progress_bar("sampling") as progress:
            result = run_beside_peers(stores, found, progress=progress, **options)
    except (ReplayStoreError, OSError) as err:
        raise click.ClickException(str(err)) from err
    show_sample(result, as_json=as_json, json_file=json_file, plot_file=plot_file)


if __name__ == "__main__":
    main()
