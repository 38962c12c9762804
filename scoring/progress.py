"""How far a run is, for people (the log) and for the watcher (progress.json); and the wish to stop."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from suites.files import publish_json
from suites.paths import EvaluationPaths
from suites.problem import Exit, Problem

SCHEMA = 1
EVERY = 60.0
"""Seconds between two writings of progress.json within a part."""
SAID = ("parts_done", "parts", "tokens_per_s", "mfu", "seconds_left")

_log = structlog.get_logger()


class Stop:
    """SIGTERM and SIGUSR1 ask to stop: the batch that is running is finished, the parts that are finished are kept."""

    def __init__(self, *, parent: int | None = None) -> None:
        """``parent``: stop also where that is no longer our parent process: nobody would hear of what we do."""
        self.by: str | None = None
        self.parent = parent

    def listen(self) -> None:
        """Take the two signals from here on. Only the main thread may."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.by = signal.Signals(number).name

    def check(self) -> None:
        """Problem (temporary) where somebody asked."""
        if self.by is None and self.parent not in {None, os.getppid()}:
            self.by = "the end of the process that started it"
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

    def __init__(
        self,
        paths: EvaluationPaths,
        run_id: str,
        parts: int,
        *,
        sizes: Mapping[str, int] | None = None,
        worker: int | None = None,
    ) -> None:
        """``sizes``: about how many tokens each part has, by label. ``worker``: which of several this process is."""
        self.file = paths.progress if worker is None else paths.worker(worker)
        self.run_id, self.parts = run_id, parts
        self.sizes = dict(sizes or {})
        self.done = self.tokens = self.tokens_here = 0
        self.done_size = 0
        self.scored_size = 0  # of done_size, by this process
        self.label = ""
        self.flop = 0.0
        self.peak: float | None = None
        self.started = self.written = time.monotonic()
        self.begun: float | None = None
        """When the first batch began; what came before says nothing about how long the rest takes."""

    def begin(self, label: str) -> None:
        """A part is being scored."""
        self.label, self.tokens_here = label, 0
        _log.info("part", part=label, done=self.done, of=self.parts)

    def loaded(self, peak: float | None) -> None:
        """The model is there, on a device of so many FLOP/s: from now on time counts."""
        self.peak, self.begun = peak, time.monotonic()

    def batch(self, tokens: int, flop: float) -> None:
        """A batch of that many input tokens is done, which took so many floating-point operations."""
        self.tokens += tokens
        self.flop += flop
        self.tokens_here += tokens
        if time.monotonic() - self.written >= EVERY:
            found = self.publish()
            _log.info("progress", part=self.label, part_tokens=self.tokens_here, **{key: found[key] for key in SAID})

    def finished(self, label: str, *, here: bool) -> None:
        """A part is done, by this process or by whoever did it."""
        self.done += 1
        self.done_size += self.sizes.get(label, 0)
        if here:
            self.scored_size += self.sizes.get(label, 0)
            self.label, self.tokens_here = "", 0
            self.publish()
        _log.info("part done" if here else "part was done", part=label, done=self.done, of=self.parts, tokens_per_s=self.rate)

    @property
    def rate(self) -> float | None:
        """Input tokens a second since the model was there."""
        seconds = time.monotonic() - (self.begun or self.started)
        return round(self.tokens / seconds, 1) if seconds > 0 else None

    def document(self) -> dict[str, Any]:
        """progress.json."""
        here = min(self.tokens_here, self.sizes.get(self.label, 0))
        size, done, rate = sum(self.sizes.values()), self.done_size + here, self.rate
        seconds = time.monotonic() - (self.begun or self.started)
        speed = (self.scored_size + here) / seconds if seconds > 0 else 0.0
        return {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "at": time.time(),
            "parts_done": self.done,
            "parts": self.parts,
            "part": self.label,
            "part_tokens": self.tokens_here,
            "tokens": self.tokens,
            "tokens_per_s": rate,
            "mfu": mfu(self.flop, seconds, self.peak),
            "size": size,
            "size_done": done,
            "size_per_s": round(speed, 1),
            "seconds_left": round((size - done) / speed) if speed > 0 else None,
        }

    def publish(self) -> dict[str, Any]:
        """Write progress.json; its content."""
        self.written = time.monotonic()
        document = self.document()
        publish_progress(self.file, document)
        return document


def joined(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """progress.json of several workers that share one evaluation."""
    newest = max(documents, key=lambda each: each["at"])
    done, speed = max(each["size_done"] for each in documents), sum(each["size_per_s"] for each in documents)
    mfus = [each["mfu"] for each in documents if each["mfu"] is not None]
    return {
        **newest,
        "parts_done": max(each["parts_done"] for each in documents),
        "part": ", ".join(each["part"] for each in documents if each["part"]),
        "part_tokens": sum(each["part_tokens"] for each in documents),
        "tokens": sum(each["tokens"] for each in documents),
        "tokens_per_s": round(sum(each["tokens_per_s"] or 0.0 for each in documents), 1),
        "mfu": round(sum(mfus) / len(mfus), 4) if mfus else None,
        "size_done": done,
        "size_per_s": round(speed, 1),
        "seconds_left": round((newest["size"] - done) / speed) if speed > 0 else None,
        "workers": len(documents),
    }


def publish_progress(file: Path, document: dict[str, Any]) -> None:
    """Write it, or say in the log why not."""
    try:
        publish_json(file, document)
    except OSError as error:
        _log.warning("progress.json cannot be written", path=str(file), error=str(error))


def mfu(flop: float, seconds: float, most: float | None) -> float | None:
    """Share of ``most`` FLOP/s; None where that is not known."""
    return None if most is None or seconds <= 0 else round(flop / seconds / most, 4)
