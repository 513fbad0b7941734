"""Shows the log lines of the package on stderr for `--verbose`."""

from __future__ import annotations

import logging
import sys

import click

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _StderrHandler(logging.Handler):
    """Writes to the current `sys.stderr`. A progress bar replaces it, to keep lines apart from the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def show_logs(context: click.Context, verbosity: int) -> None:
    """Shows log lines until `context` is closed.

    Args:
        context: context of the command.
        verbosity: 0 shows warnings, 1 shows INFO too, 2 and more show DEBUG too.
    """
    logger, handler = logging.getLogger("replaystore"), _StderrHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(_LEVELS[min(verbosity, len(_LEVELS) - 1)])

    def undo() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    context.call_on_close(undo)
