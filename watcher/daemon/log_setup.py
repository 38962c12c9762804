"""The daemon's log: console (pretty or JSON) and a rotating JSON file."""

import contextlib
import logging
import logging.handlers
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from suites.common.atomic_files import move_other_kinds_aside

MAX_DAEMON_LOG_BYTES = 5_000_000

KEPT_LOG_FILES = 3

_LOGGER_NAME = "watcher"


def start_daemon_log(path: Path, *, console: bool) -> Callable[..., None]:
    """Set the log up; returns the function that writes a line.

    A log that cannot be written (a full disk) never stops the daemon: that line is lost.
    """
    # The logging module would print a traceback for each line on a full disk.
    logging.raiseExceptions = False
    logger = logging.getLogger(_LOGGER_NAME)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    stop_daemon_log()
    processors: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # A person reads colours on a terminal; systemd and files get JSON.
    is_terminal = sys.stderr.isatty()
    console_handler = logging.StreamHandler(sys.stderr)
    console_renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if is_terminal
        else structlog.processors.JSONRenderer()
    )
    console_handler.setFormatter(_make_formatter(processors, console_renderer))
    if console:
        logger.addHandler(console_handler)
    with contextlib.suppress(OSError):  # then each line is lost, as on a full disk
        move_other_kinds_aside(path)
    file_handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=MAX_DAEMON_LOG_BYTES, backupCount=KEPT_LOG_FILES, encoding="utf-8", delay=True
    )
    file_handler.setFormatter(_make_formatter(processors, structlog.processors.JSONRenderer()))
    logger.addHandler(file_handler)
    structured_logger = structlog.wrap_logger(
        logger,
        processors=[*processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
    )

    def log(event: str, **facts: object) -> None:
        structured_logger.info(event, **facts)

    return log


def stop_daemon_log() -> None:
    """Close the log's files."""
    logger = logging.getLogger(_LOGGER_NAME)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def _make_formatter(processors: list[structlog.typing.Processor], renderer: structlog.typing.Processor) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=processors,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info, renderer],
    )
