"""Where what is logged goes."""

import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import TextIO, cast

import structlog

from suites.contract.liveness import read_liveness
from suites.contract.scoring_request import ScoringRequest

_VERBOSE_LOGGERS = ("httpx", "httpx2", "httpcore", "huggingface_hub", "fsspec", "datasets", "filelock")


class BestEffortStream:
    """A stream for the log. A log that has no room left, or whose reader is gone, is no reason to end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As the stream does it, if it can."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As the stream does it, if it can."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure_scoring_log() -> None:
    """Everything that is logged goes to stderr, a line each, with its time."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # a data set without a card is no news
    logging.getLogger("huggingface_hub._snapshot_download").setLevel(logging.ERROR)  # a repository without a tokenizer is refused
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", BestEffortStream(sys.stderr))),
    )


def warn_if_unwatched(request: ScoringRequest) -> None:
    """The log says when the watcher that asked for this is not there, by the same rule as ``watcher status``."""
    log = structlog.get_logger()
    if request.status is None:
        return
    try:
        liveness = read_liveness(Path(request.status), time.time())
    except (OSError, ValueError) as error:
        log.warning("the watcher's status cannot be read; is it running?", path=request.status, error=str(error))
        return
    minutes = round(liveness.age_seconds / 60)
    if liveness.verdict == "stopped":
        log.warning("the watcher was told to end; its next run sees these results", path=request.status, minutes=minutes)
    elif liveness.verdict == "stale":
        hint = "see what should run `watcher once`" if liveness.is_once_mode else "start `watcher run`"
        log.warning("nobody is watching any more", hint=hint, path=request.status, minutes=minutes)
