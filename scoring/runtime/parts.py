"""The unit of work: a slice, or a stretch of a long task. Finished parts are files; what is missing is what is left to do.

A part is keyed by everything that its numbers depend on, written atomically, and leased while it is being
scored. Leases only save work: they expire, and two workers that score the same part write the same file.
"""

import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
"""Seconds without a heartbeat after which another host may take a lease; on the same host a dead owner's is taken at once."""

_META_KEY = b"part"

_log = structlog.get_logger()


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What every part of a run has in common."""

    fingerprint: str
    tokenizer: str
    """Digest."""
    seq_len: int
    dtype: str
    backend: str
    padded_vocab: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One slice, or items start .. stop-1 of a task."""

    tier: str
    name: str
    start: int = 0
    stop: int | None = None
    """None: all of it."""
    key: str
    """sha256 (hex)."""

    @property
    def label(self) -> str:
        """For logs: ``mmlu[0:1000]``."""
        return self.name if self.stop is None else f"{self.name}[{self.start}:{self.stop}]"

    def result_path(self, paths: EvaluationPaths) -> Path:
        """Rows as parquet, the rest as JSON in its metadata: one file, so that it is there whole or not at all."""
        return paths.parts / f"{self.name}.{self.key[:16]}.parquet"

    def lease_path(self, paths: EvaluationPaths) -> Path:
        """Exists while somebody scores this part."""
        return paths.parts / f"{self.name}.{self.key[:16]}.lease"


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
    """The parts of one slice (``items`` is None) or task. The same questions always give the same parts.

    ``get_range_key``: what items start .. stop-1 are known by, so that a task that gains items owes the stretch that they are in;
    without it, all are known by ``data_key``.
    """
    if items is None:
        return [build_part(tier, name, definition, data_key, identity, start=0, stop=None)]
    ranges = [(start_item, min(start_item + ITEMS_PER_PART, items)) for start_item in range(0, items, ITEMS_PER_PART)]
    keys = [data_key if get_range_key is None else get_range_key(start, stop) for start, stop in ranges]
    return [
        build_part(tier, name, definition, key, identity, start=start, stop=stop)
        for key, (start, stop) in zip(keys, ranges, strict=True)
    ]


def build_part(
    tier: str, name: str, definition: dict[str, Any], data_key: str, identity: RunIdentity, *, start: int, stop: int | None
) -> Part:
    """One part, keyed by all of this."""
    key_fields = {**msgspec.to_builtins(identity), "definition": definition, "data_key": data_key, "scorer": SCORER_VERSION}
    key = canonical_digest({**key_fields, "tier": tier, "name": name, "start": start, "stop": stop})
    return Part(tier=tier, name=name, start=start, stop=stop, key=key)


def write_part(paths: EvaluationPaths, finished: FinishedPart, identity: RunIdentity) -> None:
    """Publish a part. Problem (cannot write) where that cannot be done."""
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
    """A table as a file."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def read_part(paths: EvaluationPaths, part: Part) -> FinishedPart | None:
    """A finished part; None where there is none. One that cannot be read is as good as none, and the log says so."""
    path = part.result_path(paths)
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
        meta = json.loads((table.schema.metadata or {})[_META_KEY])
    except FileNotFoundError:
        return None
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        _log.warning("part cannot be read and is scored again", path=str(path), error=str(error))
        return None
    return FinishedPart(part, meta, table.replace_schema_metadata(None)) if meta.get("key") == part.key else None


def find_parts_by_fingerprint(paths: EvaluationPaths, fingerprint: str) -> Iterator[Path]:
    """Finished parts of another content of the checkpoint, to be kept with its results."""
    for path in sorted(paths.parts.glob("*.parquet")):
        try:
            meta = json.loads((pq.read_schema(path).metadata or {})[_META_KEY])
        except (pa.ArrowException, ValueError, KeyError, OSError):
            continue  # not to be read, so not known to be that one's
        if meta.get("fingerprint") == fingerprint:
            yield path


class PartWorker(msgspec.Struct, kw_only=True):
    """How one worker takes its share. Everything that waits or fails is the caller's."""

    paths: EvaluationPaths
    identity: RunIdentity
    score_part: Callable[[Part], FinishedPart]
    before_part: Callable[[], None]
    """Called before each part; raises to stop."""
    sleep: Callable[[float], None]
    """Sleeps; raises to stop."""
    after_part: Callable[[FinishedPart, bool], None] = lambda finished, scored: None  # noqa: ARG005  nobody has to listen
    """Called once for every part, with whether it was scored here."""
    lease_seconds: float = PART_LEASE_SECONDS

    def score_parts(self, parts: Iterable[Part]) -> list[FinishedPart]:
        """Take parts until none is missing, and wait for those that others score. All of them, in order."""
        all_parts = list(parts)
        done: dict[str, FinishedPart] = {}
        # Kept from round to round: a lease judges another's heartbeat by what it saw before.
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
            if not has_progressed:
                self.sleep(min(2.0, self.lease_seconds / 4))

    def _score_if_free(
        self, part: Part, leases: dict[str, filelock.SoftFileLease], lease_cleaner: StaleLeaseCleaner
    ) -> tuple[FinishedPart | None, bool]:
        lease = leases.setdefault(
            part.key, filelock.SoftFileLease(part.lease_path(self.paths), lease_duration=self.lease_seconds, timeout=0)
        )
        with hold_lease(lease) as is_acquired:
            if not is_acquired:
                lease_cleaner.remove_if_stale(part.lease_path(self.paths))
                return None, False
            earlier = read_part(self.paths, part)  # its last owner may just have finished it
            if earlier is not None:
                return earlier, False
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
            return finished, True


@contextmanager
def hold_lease(lease: filelock.SoftFileLease) -> Iterator[bool]:
    """Whether the part may be scored now. Where a file system knows no such leases, it may: then only work is lost."""
    try:
        lease.acquire()
    except filelock.Timeout:
        yield False
        return
    except (OSError, filelock.LeaseSettingsMismatch) as error:
        _log.warning("no lease to be had; going on without", path=str(lease.lock_file), error=str(error))
        yield True
        return
    try:
        yield True
    finally:
        try:
            lease.release()
        except OSError as error:
            _log.warning("lease cannot be released; it will expire", path=str(lease.lock_file), error=str(error))


@contextmanager
def convert_write_errors(path: Path) -> Iterator[None]:
    """Failures to write below ``path`` as one clear line."""
    try:
        yield
    except OSError as error:
        message = f"cannot be written ({error.strerror or error})"
        code = classify_write_error(error)
        hint = "make room; it is tried again" if code is ExitCode.TEMPORARY else "make it writable, then retry"
        raise UserError(message, location=error.filename or path, hint=hint, code=code) from error
