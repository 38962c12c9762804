"""The log of a scoring process; warns if no watcher runs."""

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
    """A stream that ignores write errors.

    A full disk or a closed pipe behind the log must not end a job.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text`` where the stream takes it."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush where the stream can."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure_scoring_log() -> None:
    """Send all log lines to stderr, with their time."""
    # stdout is for results; libraries log through logging, our modules through structlog.
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # warns of a data set without a card
    logging.getLogger("huggingface_hub._snapshot_download").setLevel(logging.ERROR)  # we refuse a repository without a tokenizer
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", BestEffortStream(sys.stderr))),
    )


def warn_if_unwatched(request: ScoringRequest) -> None:
    """Warn in the log where the request's watcher does not run.

    The rule is that of ``watcher status``.
    """
    log = structlog.get_logger()
    if request.status is None:
        return
    try:
        liveness = read_liveness(Path(request.status), time.time())
    except (OSError, ValueError) as error:
        log.warning("the watcher's status cannot be read; check that it runs", path=request.status, error=str(error))
        return
    minutes = round(liveness.age_seconds / 60)
    if liveness.verdict == "stopped":
        log.warning("the watcher was stopped; its next run picks up these results", path=request.status, minutes=minutes)
    elif liveness.verdict == "stale":
        hint = "check the cron job or timer of watcher once" if liveness.is_once_mode else "start watcher run"
        log.warning("the watcher does not run any more", hint=hint, path=request.status, minutes=minutes)
