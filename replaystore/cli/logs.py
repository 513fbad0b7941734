"""What `--verbose` shows: the log lines of the package, on stderr."""

from __future__ import annotations

import logging
import sys

import click

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at the time: a progress bar replaces it to keep lines apart from itself."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def show_logs(context: click.Context, verbosity: int) -> None:
    """Shows warnings, with a verbosity of 1 INFO too, from 2 on DEBUG, until `context` is closed."""
    logger, handler = logging.getLogger("replaystore"), _StderrHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(_LEVELS[min(verbosity, len(_LEVELS) - 1)])

    def undo() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    context.call_on_close(undo)
