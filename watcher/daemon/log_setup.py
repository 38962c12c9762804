"""The daemon's log: to the console, pretty on a terminal and JSON otherwise, and to a rotating file as JSON."""

import logging
import logging.handlers
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

LARGEST = 5_000_000

KEPT = 3

_NAME = "watcher"


def start(file: Path, *, console: bool) -> Callable[..., None]:
    """Set the log up and give what writes to it: ``say(what, **facts)``.

    A log that cannot be written (a full disk) never stops the daemon: the line is lost and the next one is tried.
    """
    logging.raiseExceptions = False
    logger = logging.getLogger(_NAME)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    stop()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    pretty = sys.stderr.isatty()
    terminal = logging.StreamHandler(sys.stderr)
    rendered: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if pretty
        else structlog.processors.JSONRenderer()
    )
    terminal.setFormatter(_formatter(shared, rendered))
    if console:
        logger.addHandler(terminal)
    rotating = logging.handlers.RotatingFileHandler(file, maxBytes=LARGEST, backupCount=KEPT, encoding="utf-8", delay=True)
    rotating.setFormatter(_formatter(shared, structlog.processors.JSONRenderer()))
    logger.addHandler(rotating)
    bound = structlog.wrap_logger(
        logger,
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
    )

    def say(what: str, **facts: object) -> None:
        bound.info(what, **facts)

    return say


def stop() -> None:
    """Close the log's files."""
    logger = logging.getLogger(_NAME)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def _formatter(shared: list[structlog.typing.Processor], renderer: structlog.typing.Processor) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info, renderer],
    )
