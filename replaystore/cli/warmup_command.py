"""`warmup`: compiles all kernels, so that the first batch does not wait for them."""

from __future__ import annotations

import click

from replaystore.cli.options import as_json
from replaystore.cli.output import note, print_json, print_table


@click.command()
@as_json
@click.pass_context
def warmup(context: click.Context, as_json: bool) -> None:
    """Compile everything that storing and sampling use, and keep it in numba's cache.

    For container images, and before a measurement. Set NUMBA_CACHE_DIR to choose the directory of the cache. The same
    directory must exist and be writable when the kernels are used. If no directory can be written, the exit code is 1.
    """
    from replaystore.bench.warmup import warm_up

    done = warm_up()
    if as_json:
        print_json(done.to_json())
    else:
        if done.compiled:
            rows = [["  " * entry.depth + entry.kernel, f"{entry.seconds:.2f}"] for entry in done.compiled]
            print_table("compiled, indented: for the kernel below", ("kernel", "seconds"), rows)
        click.echo(
            f"{len(done.compiled)} kernels compiled in {done.seconds:.1f} s, cache: {done.cache_directory or 'none'}"
        )
    if done.trouble is not None:
        note(f"replaystore: error: nothing was kept: {done.trouble}; set NUMBA_CACHE_DIR to a directory to write")
        context.exit(1)
