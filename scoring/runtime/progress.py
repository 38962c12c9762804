"""How far a run is, for people (the log) and for the watcher (progress.json); and the wish to stop."""

import itertools
import time
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from suites.common.atomic_files import publish_json, read_json
from suites.contract.paths import EvaluationPaths

SCHEMA = 1

EVERY = 60.0
"""Seconds between two writings of progress.json within a part."""

LATELY = 3 * EVERY
"""Seconds without a word after which a worker or task counts as one that does nothing any more."""

_NONE: Mapping[str, int] = types.MappingProxyType({})

SAID = ("parts_done", "parts", "tokens_per_s", "mfu", "seconds_left")

_log = structlog.get_logger()


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
        task: str | None = None,
    ) -> None:
        """``sizes``: about how many tokens each part has, by label. ``worker``, ``task``: which of several this process is."""
        self.paths, self.worker, self.task = paths, worker, task
        self.run_id, self.parts = run_id, parts
        self.sizes = dict(sizes or {})
        self.tokens = self.tokens_here = 0
        self.parts_done: dict[str, int] = {}
        """Name of each part that is done, by whomever -> its size."""
        self.scored_size = 0  # of them, by this process
        self.label = ""
        self.flop = 0.0
        self.peak: float | None = None
        self.started = self.written = time.monotonic()
        self.begun: float | None = None
        """When the first batch began; what came before says nothing about how long the rest takes."""

    @property
    def done(self) -> int:
        """Parts that this process knows to be done."""
        return len(self.parts_done)

    @property
    def file(self) -> Path:
        """What this process alone writes."""
        if self.worker is not None:
            return self.paths.worker(self.worker, self.task)
        return self.paths.progress if self.task is None else self.paths.progress_of_task(self.task)

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
        self.parts_done = counted([label], self.sizes, self.parts_done)
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
        """What this process says of itself."""
        here = min(self.tokens_here, self.sizes.get(self.label, 0))
        size, done, rate = sum(self.sizes.values()), sum(self.parts_done.values()) + here, self.rate
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
            "done": self.parts_done,
            "under_way": {self.label: here} if self.label else {},
        }

    def publish(self) -> dict[str, Any]:
        """Write progress.json; what this process says of itself."""
        self.written = time.monotonic()
        document = self.document()
        self.tell(document)
        return document

    def tell(self, document: dict[str, Any]) -> None:
        """Write what this process, or those that it started, say; a task of an array joins it with what the others said."""
        publish_progress(self.file, document)
        if self.task is None or self.worker is not None:
            return
        own, tasks = self.file, [document]
        for file in self.paths.progress_of_tasks():
            said = _read(file)
            if file != own and said is not None and said.get("run_id") == self.run_id and "done" in said:
                tasks.append(said)
        publish_progress(self.paths.progress, joined(tasks))

    def of_ended(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """What a process that has ended did, from what it says of its run."""
        nothing = {"part": "", "part_tokens": 0, "tokens_per_s": 0.0, "mfu": None, "size_per_s": 0.0, "under_way": {}}
        labels = [*report["parts"]["scored"], *report["parts"]["kept"]]
        done = counted(labels, self.sizes)
        return {**self.document(), **nothing, "at": report["ended"], "tokens": report["tokens"], "done": done}


def counted(labels: Iterable[str], sizes: Mapping[str, int], before: Mapping[str, int] = _NONE) -> dict[str, int]:
    """Name of each part -> its size. A slice and a task may have one name: then it is numbered."""
    found = dict(before)
    for label in labels:
        number = next(number for number in itertools.count(1) if _name(label, number) not in found)
        found[_name(label, number)] = sizes.get(label, 0)
    return found


def _name(label: str, number: int) -> str:
    return label if number == 1 else f"{label} ({number})"


def joined(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What several workers or tasks that share one evaluation say, as one: a part that any of them knows to be done is done.

    Speed is of those that said something lately: who has ended, or waits for others, adds nothing to it.
    """
    newest = max(documents, key=lambda each: each["at"])
    live = [each for each in documents if each["at"] > newest["at"] - LATELY]
    done: dict[str, int] = {}
    under_way: dict[str, int] = {}
    for each in documents:
        done |= each["done"]
    for each in live:
        for label, size in each["under_way"].items():
            under_way[label] = max(size, under_way.get(label, 0))
    size_done = sum(done.values()) + sum(size for label, size in under_way.items() if label not in done)
    speed = sum(each["size_per_s"] for each in live)
    mfus = [each["mfu"] for each in live if each["mfu"] is not None]
    return {
        **newest,
        "parts_done": len(done),
        "part": ", ".join(dict.fromkeys(each["part"] for each in live if each["part"])),
        "part_tokens": sum(each["part_tokens"] for each in live),
        "tokens": sum(each["tokens"] for each in documents),
        "tokens_per_s": round(sum(each["tokens_per_s"] or 0.0 for each in live), 1),
        "mfu": round(sum(mfus) / len(mfus), 4) if mfus else None,
        "size_done": size_done,
        "size_per_s": round(speed, 1),
        "seconds_left": round(max(0, newest["size"] - size_done) / speed) if speed > 0 else None,
        "workers": sum(each.get("workers", 1) for each in live),
        "done": done,
        "under_way": under_way,
    }


def _read(file: Path) -> dict[str, Any] | None:
    try:
        said = read_json(file)
    except (OSError, ValueError):  # no news
        return None
    return said if isinstance(said, dict) else None


def publish_progress(file: Path, document: dict[str, Any]) -> None:
    """Write it, or say in the log why not."""
    try:
        publish_json(file, document)
    except OSError as error:
        _log.warning("progress.json cannot be written", path=str(file), error=str(error))


def mfu(flop: float, seconds: float, most: float | None) -> float | None:
    """Share of ``most`` FLOP/s; None where that is not known."""
    return None if most is None or seconds <= 0 else round(flop / seconds / most, 4)
