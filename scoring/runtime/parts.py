"""The unit of work: a slice, or a range of items.

A part is keyed by everything that its numbers depend on. Leases only save work: they expire, and two workers that score the
same part write the same file.
"""

import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from scoring import SCORER_VERSION
from scoring.runtime.leases import StaleLeaseCleaner
from suites.common.atomic_files import write_atomically
from suites.common.errors import ExitCode, UserError, classify_write_error
from suites.contract.encoding import canonical_digest
from suites.contract.paths import EvaluationPaths

PART_SCHEMA = 1

ITEMS_PER_PART = 1000

PART_LEASE_SECONDS = 60.0
"""Seconds without a heartbeat after which another host may take a lease. A dead owner's is free at once on its own host."""

_META_KEY = b"part"

_log = structlog.get_logger()


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What the numbers of all parts of a run depend on."""

    fingerprint: str
    tokenizer: str
    """Digest."""
    seq_len: int
    dtype: str
    backend: str
    padded_vocab: str
    assume: dict[str, str] = msgspec.field(default_factory=dict)
    """Key of model_config.json that is not implemented -> what it was taken for."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One slice, or the items start .. stop-1 of a task."""

    tier: str
    name: str
    start: int = 0
    stop: int | None = None
    """None: the entire slice."""
    key: str
    """sha256 (hex)."""

    @property
    def label(self) -> str:
        """Name for logs: ``mmlu[0:1000]``."""
        return self.name if self.stop is None else f"{self.name}[{self.start}:{self.stop}]"

    def result_path(self, paths: EvaluationPaths) -> Path:
        """File of the finished part.

        Parquet, with the figures as JSON in its metadata: one file is complete or absent.
        """
        return paths.parts / f"{self.name}.{self.key[:16]}.parquet"

    def lease_path(self, paths: EvaluationPaths) -> Path:
        """File that exists while a process scores this part."""
        return self.result_path(paths).with_suffix(".lease")


class FinishedPart(msgspec.Struct, frozen=True):
    """A scored part."""

    part: Part
    meta: dict[str, Any]
    """``entry`` (a slice's figures; null for tasks), ``tokens`` put in, ``seconds``, ``run_id``, ``host``, ``at``."""
    rows: pa.Table


def plan_parts(
    tier: str,
    name: str,
    definition: dict[str, Any],
    data_key: str,
    identity: RunIdentity,
    *,
    items: int | None = None,
    get_range_key: Callable[[int, int], str] | None = None,
) -> list[Part]:
    """Divide one slice (``items`` is None) or task into parts.

    The same data always give the same parts. ``get_range_key`` gives the data key of items start .. stop-1, so that only the
    ranges that gain items are scored again. Without it, ``data_key`` is that of all ranges.
    """
    if items is None:
        return [build_part(tier, name, definition, data_key, identity, start=0, stop=None)]
    # Ranges of equal length: items that are added at the end change the last range only.
    planned = []
    for start in range(0, items, ITEMS_PER_PART):
        stop = min(start + ITEMS_PER_PART, items)
        key = data_key if get_range_key is None else get_range_key(start, stop)
        planned.append(build_part(tier, name, definition, key, identity, start=start, stop=stop))
    return planned


def build_part(
    tier: str, name: str, definition: dict[str, Any], data_key: str, identity: RunIdentity, *, start: int, stop: int | None
) -> Part:
    """Return one part. Its key covers all arguments and SCORER_VERSION."""
    key_fields = {**msgspec.to_builtins(identity), "definition": definition, "data_key": data_key, "scorer": SCORER_VERSION}
    key = canonical_digest({**key_fields, "tier": tier, "name": name, "start": start, "stop": stop})
    return Part(tier=tier, name=name, start=start, stop=stop, key=key)


def write_part(paths: EvaluationPaths, finished: FinishedPart, identity: RunIdentity) -> None:
    """Publish a part.

    Raises UserError: CANNOT_WRITE, or TEMPORARY where the disk is full.
    """
    # The key is repeated in the file: its name has only 16 digits of it.
    meta = {
        "schema": PART_SCHEMA,
        **finished.meta,
        "key": finished.part.key,
        "name": finished.part.name,
        "fingerprint": identity.fingerprint,
    }
    with convert_write_errors(paths.parts):
        write_atomically(
            finished.part.result_path(paths),
            encode_parquet(finished.rows.replace_schema_metadata({_META_KEY: json.dumps(meta, allow_nan=False)})),
        )


def encode_parquet(table: pa.Table) -> bytes:
    """Return a table as the content of a parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def read_part(paths: EvaluationPaths, part: Part) -> FinishedPart | None:
    """Return a finished part, or None.

    A part that cannot be read counts as missing, with a warning in the log.
    """
    path = part.result_path(paths)
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
        meta = json.loads((table.schema.metadata or {})[_META_KEY])
    except FileNotFoundError:
        return None
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        _log.warning("a part cannot be read and is scored again", path=str(path), error=str(error))
        return None
    return FinishedPart(part, meta, table.replace_schema_metadata(None)) if meta.get("key") == part.key else None


def find_parts_by_fingerprint(paths: EvaluationPaths, fingerprint: str) -> Iterator[Path]:
    """Yield the files of finished parts of another content of the checkpoint."""
    for path in sorted(paths.parts.glob("*.parquet")):
        try:
            meta = json.loads((pq.read_schema(path).metadata or {})[_META_KEY])
        except (pa.ArrowException, ValueError, KeyError, OSError):
            continue  # unreadable: it may belong to the current content
        if meta.get("fingerprint") == fingerprint:
            yield path


class TakenPart(NamedTuple):
    """What came of the attempt to score a part."""

    finished: FinishedPart | None
    """None: another worker scores it."""
    is_ours: bool
    """This worker scored it."""


class PartWorker(msgspec.Struct, kw_only=True):
    """Takes parts that are free and scores them.

    Sleeping, stopping and counting are the caller's: they are callbacks.
    """

    paths: EvaluationPaths
    identity: RunIdentity
    score_part: Callable[[Part], FinishedPart]
    before_part: Callable[[], None]
    """Called before each part. Raises to stop."""
    sleep: Callable[[float], None]
    """Sleeps for so many seconds. Raises to stop."""
    after_part: Callable[[FinishedPart, bool], None] = lambda finished, is_ours: None  # noqa: ARG005  the default ignores them
    """Called once for each part, with whether this worker scored it."""
    lease_seconds: float = PART_LEASE_SECONDS

    def score_parts(self, parts: Iterable[Part]) -> list[FinishedPart]:
        """Score parts until none is missing. Returns all, in order.

        Waits for the parts that other workers score.
        """
        all_parts = list(parts)
        # By key: a part that is planned twice is one file.
        done: dict[str, FinishedPart] = {}
        # Leases live from round to round: they judge another owner's heartbeat by what they observed before.
        leases: dict[str, filelock.SoftFileLease] = {}
        lease_cleaner = StaleLeaseCleaner(self.lease_seconds)
        while True:
            has_progressed = False
            for part in all_parts:
                if part.key in done:
                    continue
                finished, is_ours = read_part(self.paths, part), False
                if finished is None:
                    self.before_part()
                    finished, is_ours = self._score_if_free(part, leases, lease_cleaner)
                if finished is not None:
                    done[part.key] = finished
                    has_progressed = True
                    self.after_part(finished, is_ours)
            if len(done) == len({part.key for part in all_parts}):
                return [done[part.key] for part in all_parts]
            # Other workers hold all leases: look again soon, but not so often that a file server notices.
            if not has_progressed:
                self.sleep(min(2.0, self.lease_seconds / 4))

    def _score_if_free(
        self, part: Part, leases: dict[str, filelock.SoftFileLease], lease_cleaner: StaleLeaseCleaner
    ) -> TakenPart:
        """Score a part unless another worker scores or finished it."""
        lease = leases.setdefault(
            part.key, filelock.SoftFileLease(part.lease_path(self.paths), lease_duration=self.lease_seconds, timeout=0)
        )
        with hold_lease(lease) as is_acquired:
            if not is_acquired:
                lease_cleaner.remove_if_stale(part.lease_path(self.paths))
                return TakenPart(None, is_ours=False)
            earlier = read_part(self.paths, part)  # the last owner may just have finished it
            if earlier is not None:
                return TakenPart(earlier, is_ours=False)
            # Published before the lease ends, so that no other worker begins the part in between.
            started = time.monotonic()
            finished = self.score_part(part)
            provenance = {
                "seconds": round(time.monotonic() - started, 3),
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "at": time.time(),
            }
            finished = FinishedPart(part, {**finished.meta, **provenance}, finished.rows)
            write_part(self.paths, finished, self.identity)
            return TakenPart(finished, is_ours=True)


@contextmanager
def hold_lease(lease: filelock.SoftFileLease) -> Iterator[bool]:
    """Yield whether the part may be scored now.

    On a file system without leases it always may: only work is lost.
    """
    try:
        lease.acquire()
    except filelock.Timeout:
        yield False
        return
    # Some file systems know no hard links or no exclusive creation; the mismatch is of a job with another duration.
    except (OSError, filelock.LeaseSettingsMismatch) as error:
        _log.warning("this file system gives no lease; scoring without one", path=str(lease.lock_file), error=str(error))
        yield True
        return
    try:
        yield True
    finally:
        try:
            lease.release()
        except OSError as error:
            _log.warning("a lease cannot be released; it will expire", path=str(lease.lock_file), error=str(error))


@contextmanager
def convert_write_errors(path: Path) -> Iterator[None]:
    """Raise UserError for an OSError of this block, which writes below ``path``."""
    try:
        yield
    except OSError as error:
        message = f"cannot be written ({error.strerror or error})"
        code = classify_write_error(error)
        hint = "make room, then retry" if code is ExitCode.TEMPORARY else "make it writable, then retry"
        raise UserError(message, location=error.filename or path, hint=hint, code=code) from error
