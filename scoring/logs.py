"""Where what is logged goes."""

import logging
import sys

import structlog

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
