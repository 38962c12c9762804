"""Where what is logged goes."""

import logging
import sys
import time
from pathlib import Path

import structlog

from suites.contract import Request

ABANDONED = 900.0
"""Seconds without a new status.json after which the log says that nobody is watching."""
_CHATTY = ("httpx", "httpx2", "httpcore", "huggingface_hub", "fsspec", "datasets", "filelock")


def say_it_in_the_log() -> None:
    """Everything that is logged goes to stderr, a line each, with its time."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # a data set without a card is no news
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


def say_if_abandoned(request: Request) -> None:
    """The log says when the watcher that asked for this has not been heard of for a while."""
    log = structlog.get_logger()
    if request.status is None:
        return
    try:
        age = time.time() - Path(request.status).stat().st_mtime
    except OSError as error:
        log.warning("the watcher's status cannot be read; is it running?", path=request.status, error=str(error))
        return
    if age > ABANDONED:
        log.warning("nobody is watching any more: start `watcher run`", path=request.status, minutes=round(age / 60))
