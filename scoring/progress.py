"""How far a run is, for people (the log) and for the watcher (progress.json); and the wish to stop."""

import signal
import time
from types import FrameType
from typing import Any

import structlog

from suites.files import publish_json
from suites.paths import EvaluationPaths
from suites.problem import Exit, Problem

SCHEMA = 1
EVERY = 60.0
"""Seconds between two writings of progress.json within a part."""

_log = structlog.get_logger()


class Stop:
    """SIGTERM and SIGUSR1 ask to stop: the batch that is running is finished, the parts that are finished are kept."""

    def __init__(self) -> None:
        self.by: str | None = None

    def listen(self) -> None:
        """Take the two signals from here on. Only the main thread may."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.by = signal.Signals(number).name

    def check(self) -> None:
        """Problem (temporary) where somebody asked."""
        if self.by is not None:
            todo = "start it again: finished parts are kept"
            raise Problem(f"stopped by {self.by}", where="scoring", todo=todo, code=Exit.TEMPORARY)

    def wait(self, seconds: float) -> None:
        """Sleep, but not through a wish to stop."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.2))
        self.check()


class Progress:
    """Counts parts and input tokens. A progress.json that cannot be written is said in the log, and no reason to stop."""

    def __init__(self, paths: EvaluationPaths, run_id: str, parts: int) -> None:
        self.paths, self.run_id, self.parts = paths, run_id, parts
        self.done = self.tokens = self.tokens_here = 0
        self.label = ""
        self.started = self.written = time.monotonic()

    def begin(self, label: str) -> None:
        """A part is being scored."""
        self.label, self.tokens_here = label, 0
        _log.info("part", part=label, done=self.done, of=self.parts)

    def batch(self, tokens: int) -> None:
        """A batch of that many input tokens is done."""
        self.tokens += tokens
        self.tokens_here += tokens
        if time.monotonic() - self.written >= EVERY:
            self.publish()
            _log.info("progress", part=self.label, part_tokens=self.tokens_here, tokens_per_s=self.rate)

    def finished(self, label: str, *, here: bool) -> None:
        """A part is done, by this process or by whoever did it."""
        self.done += 1
        if here:
            self.publish()
        _log.info("part done" if here else "part was done", part=label, done=self.done, of=self.parts, tokens_per_s=self.rate)

    @property
    def rate(self) -> float | None:
        """Input tokens a second since the start, loading included."""
        seconds = time.monotonic() - self.started
        return round(self.tokens / seconds, 1) if seconds > 0 else None

    def publish(self) -> None:
        """Write progress.json."""
        self.written = time.monotonic()
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "at": time.time(),
            "parts_done": self.done,
            "parts": self.parts,
            "part": self.label,
            "part_tokens": self.tokens_here,
            "tokens": self.tokens,
            "tokens_per_s": self.rate,
        }
        try:
            publish_json(self.paths.progress, document)
        except OSError as error:
            _log.warning("progress.json cannot be written", path=str(self.paths.progress), error=str(error))
