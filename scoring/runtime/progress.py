"""Progress of a run: progress.json for watchers, log lines for people."""

import itertools
import time
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from suites.common.atomic_files import write_json_atomically
from suites.common.documents import read_json_object_if_readable
from suites.contract.paths import EvaluationPaths

PROGRESS_SCHEMA = 1

PROGRESS_INTERVAL_SECONDS = 60.0
"""Seconds between two writings of progress.json within a part."""

STALE_SECONDS = 3 * PROGRESS_INTERVAL_SECONDS
"""Seconds without news after which a worker or task counts as idle."""

_NO_PARTS: Mapping[str, int] = types.MappingProxyType({})

LOGGED_KEYS = ("parts_done", "parts", "tokens_per_s", "mfu", "seconds_left")

_log = structlog.get_logger()


class JobProgress:
    """Counts parts and input tokens, and writes progress.json.

    A failure to write stops nothing: it is only logged.
    """

    def __init__(
        self,
        paths: EvaluationPaths,
        run_id: str,
        parts: int,
        *,
        part_sizes: Mapping[str, int] | None = None,
        worker: int | None = None,
        array_task: str | None = None,
    ) -> None:
        """Start with no part done.

        Args:
            paths: of the evaluation.
            run_id: of the request.
            parts: how many parts the evaluation has.
            part_sizes: label of a part -> about how many tokens it has.
            worker: number of this process among the workers of a job.
            array_task: number of this job among the tasks of an array.
        """
        self.paths, self.worker, self.array_task = paths, worker, array_task
        self.run_id, self.parts = run_id, parts
        self.part_sizes = dict(part_sizes or {})
        self.tokens = self.part_tokens = 0
        self.parts_done: dict[str, int] = {}
        """Name of each finished part, whoever scored it -> its size in tokens."""
        self.scored_tokens = 0
        """Size of those that this process scored."""
        self.label = ""
        self.flop = 0.0
        self.peak_flops: float | None = None
        self.started = self.last_written = time.monotonic()
        """``started`` is reset when the model is loaded: the time before says nothing about the time that is left."""

    @property
    def path(self) -> Path:
        """File that only this process writes."""
        if self.worker is not None:
            return self.paths.worker_json(self.worker, self.array_task)
        return self.paths.progress_json if self.array_task is None else self.paths.task_progress_json(self.array_task)

    def begin_part(self, label: str) -> None:
        """Note that a part is being scored."""
        self.label, self.part_tokens = label, 0
        _log.info("part", part=label, done=len(self.parts_done), of=self.parts)

    def start_timing(self, peak_flops: float | None) -> None:
        """Count time from now on: the model is loaded.

        ``peak_flops``: FLOP/s of its device.
        """
        self.peak_flops, self.started = peak_flops, time.monotonic()

    def finish_batch(self, tokens: int, flop: float) -> None:
        """Count a batch of so many input tokens and floating-point operations."""
        self.tokens += tokens
        self.flop += flop
        self.part_tokens += tokens
        if time.monotonic() - self.last_written >= PROGRESS_INTERVAL_SECONDS:
            document = self.publish()
            _log.info("progress", part=self.label, part_tokens=self.part_tokens, **{key: document[key] for key in LOGGED_KEYS})

    def finish_part(self, label: str, *, is_ours: bool) -> None:
        """Count a finished part. ``is_ours``: this process scored it."""
        self.parts_done = add_parts([label], self.part_sizes, self.parts_done)
        if is_ours:
            self.scored_tokens += self.part_sizes.get(label, 0)
            self.label, self.part_tokens = "", 0
            self.publish()
        event = "part done" if is_ours else "part was done"
        _log.info(event, part=label, done=len(self.parts_done), of=self.parts, tokens_per_s=self.tokens_per_second)

    @property
    def tokens_per_second(self) -> float | None:
        """Input tokens per second since the model was loaded."""
        seconds = time.monotonic() - self.started
        return round(self.tokens / seconds, 1) if seconds > 0 else None

    def build_document(self) -> dict[str, Any]:
        """Return the progress of this process, as progress.json has it."""
        seconds = time.monotonic() - self.started
        # A batch may count more tokens than were estimated: a part is never more than done.
        part_done = min(self.part_tokens, self.part_sizes.get(self.label, 0))
        # Sizes are estimates of tokens to compute, the same for all processes: time left follows from them.
        size, size_done = sum(self.part_sizes.values()), sum(self.parts_done.values()) + part_done
        size_per_second = (self.scored_tokens + part_done) / seconds if seconds > 0 else 0.0
        return {
            "schema": PROGRESS_SCHEMA,
            "run_id": self.run_id,
            "at": time.time(),
            "parts_done": len(self.parts_done),
            "parts": self.parts,
            "part": self.label,
            "part_tokens": self.part_tokens,
            "tokens": self.tokens,
            "tokens_per_s": self.tokens_per_second,
            "mfu": compute_mfu(self.flop, seconds, self.peak_flops),
            "size": size,
            "size_done": size_done,
            "size_per_s": round(size_per_second, 1),
            "seconds_left": round((size - size_done) / size_per_second) if size_per_second > 0 else None,
            "done": self.parts_done,
            "in_progress": {self.label: part_done} if self.label else {},
        }

    def publish(self) -> dict[str, Any]:
        """Write the progress of this process, and return it."""
        self.last_written = time.monotonic()
        document = self.build_document()
        self.publish_document(document)
        return document

    def publish_document(self, document: dict[str, Any]) -> None:
        """Write the progress of this process or its workers.

        A task of an array also writes that of all tasks to progress.json.
        """
        # Every task joins what all wrote: whoever writes last has the newest of each.
        _write_progress(self.path, document)
        if self.array_task is None or self.worker is not None:
            return
        documents = [document]
        for other_path in self.paths.list_task_progress():
            other = read_json_object_if_readable(other_path) if other_path != self.path else {}
            if other.get("run_id") == self.run_id and "done" in other:
                documents.append(other)
        _write_progress(self.paths.progress_json, merge_progress(documents))

    def build_ended_document(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return the progress of a worker that has ended.

        ``report`` is its run.json. What it did counts, but it has no speed.
        """
        # Its speed is zero by now, and no part of it is half done.
        idle_fields = {"part": "", "part_tokens": 0, "tokens_per_s": 0.0, "mfu": None, "size_per_s": 0.0, "in_progress": {}}
        labels = [*report["parts"]["scored"], *report["parts"]["reused"]]
        done = add_parts(labels, self.part_sizes)
        return {**self.build_document(), **idle_fields, "at": report["ended"], "tokens": report["tokens"], "done": done}


def add_parts(labels: Iterable[str], sizes: Mapping[str, int], counted_parts: Mapping[str, int] = _NO_PARTS) -> dict[str, int]:
    """Return ``counted_parts`` and the parts of these labels: name -> size.

    A slice and a task may have one label. The second one's name is then numbered.
    """
    sizes_by_name = dict(counted_parts)
    for label in labels:
        names = itertools.chain([label], (f"{label} ({number})" for number in itertools.count(2)))
        sizes_by_name[next(name for name in names if name not in sizes_by_name)] = sizes.get(label, 0)
    return sizes_by_name


def merge_progress(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the progress of several workers or tasks of one evaluation.

    A part that any of them knows to be finished is finished. Only those with recent news count for the speed.
    """
    # A process that is silent for three intervals waits or is dead; its finished parts still count.
    newest = max(documents, key=lambda document: document["at"])
    recent = [document for document in documents if document["at"] > newest["at"] - STALE_SECONDS]
    done: dict[str, int] = {}
    for document in documents:
        done |= document["done"]
    # Two may score one part where leases are not to be had: the one that is further counts.
    in_progress: dict[str, int] = {}
    for document in recent:
        for label, size in document["in_progress"].items():
            in_progress[label] = max(size, in_progress.get(label, 0))
    size_done = sum(done.values()) + sum(size for label, size in in_progress.items() if label not in done)
    size_per_second = sum(document["size_per_s"] for document in recent)
    mfus = [document["mfu"] for document in recent if document["mfu"] is not None]
    return {
        **newest,
        "parts_done": len(done),
        "part": ", ".join(dict.fromkeys(document["part"] for document in recent if document["part"])),
        "part_tokens": sum(document["part_tokens"] for document in recent),
        "tokens": sum(document["tokens"] for document in documents),
        "tokens_per_s": round(sum(document["tokens_per_s"] or 0.0 for document in recent), 1),
        "mfu": round(sum(mfus) / len(mfus), 4) if mfus else None,
        "size_done": size_done,
        "size_per_s": round(size_per_second, 1),
        "seconds_left": round(max(0, newest["size"] - size_done) / size_per_second) if size_per_second > 0 else None,
        "workers": sum(document.get("workers", 1) for document in recent),
        "done": done,
        "in_progress": in_progress,
    }


def _write_progress(file: Path, document: dict[str, Any]) -> None:
    try:
        write_json_atomically(file, document)
    except OSError as error:
        _log.warning("progress.json cannot be written", path=str(file), error=str(error))


def compute_mfu(flop: float, seconds: float, peak_flops: float | None) -> float | None:
    """Return the used share of ``peak_flops`` (FLOP/s), where that is known."""
    return None if peak_flops is None or seconds <= 0 else round(flop / seconds / peak_flops, 4)
