"""The unit of work: a slice, or a stretch of a long task. Finished parts are files; what is missing is what is left to do.

A part is keyed by everything that its numbers depend on, written atomically, and leased while it is being
scored. Leases only save work: they expire, and two workers that score the same part write the same file.
"""

import hashlib
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
from scoring.runtime.leases import Nameless
from suites.common.atomic_files import publish
from suites.common.errors import Exit, Problem, of_writing
from suites.contract.encoding import canonical
from suites.contract.paths import EvaluationPaths

SCHEMA = 1

ITEMS_A_PART = 1000

LEASE = 60.0
"""Seconds without a heartbeat after which another host may take a lease; on the same host a dead owner's is taken at once."""

_META = b"part"

_log = structlog.get_logger()


class Identity(msgspec.Struct, frozen=True, kw_only=True):
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

    def file(self, paths: EvaluationPaths) -> Path:
        """Rows as parquet, the rest as JSON in its metadata: one file, so that it is there whole or not at all."""
        return paths.parts / f"{self.name}.{self.key[:16]}.parquet"

    def lease(self, paths: EvaluationPaths) -> Path:
        """Exists while somebody scores this part."""
        return paths.parts / f"{self.name}.{self.key[:16]}.lease"


class Finished(msgspec.Struct, frozen=True):
    """A scored part."""

    part: Part
    meta: dict[str, Any]
    """``entry`` (a slice's figures; null for tasks), ``tokens`` put in, ``seconds``, ``run_id``, ``host``, ``at``."""
    rows: pa.Table


def plan(
    tier: str,
    name: str,
    definition: dict[str, Any],
    data_key: str,
    identity: Identity,
    *,
    items: int | None = None,
    key_of: Callable[[int, int], str] | None = None,
) -> list[Part]:
    """The parts of one slice (``items`` is None) or task. The same questions always give the same parts.

    ``key_of``: what items start .. stop-1 are known by, so that a task that gains items owes the stretch that they are in;
    without it, all are known by ``data_key``.
    """
    if items is None:
        return [part_of(tier, name, definition, data_key, identity, start=0, stop=None)]
    cuts = [(n, min(n + ITEMS_A_PART, items)) for n in range(0, items, ITEMS_A_PART)]
    keys = [data_key if key_of is None else key_of(start, stop) for start, stop in cuts]
    return [
        part_of(tier, name, definition, key, identity, start=start, stop=stop)
        for key, (start, stop) in zip(keys, cuts, strict=True)
    ]


def part_of(
    tier: str, name: str, definition: dict[str, Any], data_key: str, identity: Identity, *, start: int, stop: int | None
) -> Part:
    """One part, keyed by all of this."""
    depends = {**msgspec.to_builtins(identity), "definition": definition, "data_key": data_key, "scorer": SCORER_VERSION}
    words = canonical({**depends, "tier": tier, "name": name, "start": start, "stop": stop})
    return Part(tier=tier, name=name, start=start, stop=stop, key=hashlib.sha256(words.encode()).hexdigest())


def write(paths: EvaluationPaths, finished: Finished, identity: Identity) -> None:
    """Publish a part. Problem (cannot write) where that cannot be done."""
    meta = {
        "schema": SCHEMA,
        **finished.meta,
        "key": finished.part.key,
        "name": finished.part.name,
        "fingerprint": identity.fingerprint,
    }
    with writing(paths.parts):
        publish(
            finished.part.file(paths), parquet(finished.rows.replace_schema_metadata({_META: json.dumps(meta, allow_nan=False)}))
        )


def parquet(table: pa.Table) -> bytes:
    """A table as a file."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def read(paths: EvaluationPaths, part: Part) -> Finished | None:
    """A finished part; None where there is none. One that cannot be read is as good as none, and the log says so."""
    path = part.file(paths)
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
        meta = json.loads((table.schema.metadata or {})[_META])
    except FileNotFoundError:
        return None
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        _log.warning("part cannot be read and is scored again", path=str(path), error=str(error))
        return None
    return Finished(part, meta, table.replace_schema_metadata(None)) if meta.get("key") == part.key else None


def of_fingerprint(paths: EvaluationPaths, fingerprint: str) -> Iterator[Path]:
    """Finished parts of another content of the checkpoint, to be kept with its results."""
    for path in sorted(paths.parts.glob("*.parquet")):
        try:
            meta = json.loads((pq.read_schema(path).metadata or {})[_META])
        except (pa.ArrowException, ValueError, KeyError, OSError):
            continue  # not to be read, so not known to be that one's
        if meta.get("fingerprint") == fingerprint:
            yield path


class Workers(msgspec.Struct, kw_only=True):
    """How one worker takes its share. Everything that waits or fails is the caller's."""

    paths: EvaluationPaths
    identity: Identity
    score: Callable[[Part], Finished]
    before: Callable[[], None]
    """Called before each part; raises to stop."""
    wait: Callable[[float], None]
    """Sleeps; raises to stop."""
    after: Callable[[Finished, bool], None] = lambda finished, scored: None  # noqa: ARG005  nobody has to listen
    """Called once for every part, with whether it was scored here."""
    lease_seconds: float = LEASE

    def run(self, parts: Iterable[Part]) -> list[Finished]:
        """Take parts until none is missing, and wait for those that others score. All of them, in order."""
        wanted = list(parts)
        done: dict[str, Finished] = {}
        # Kept from round to round: a lease judges another's heartbeat by what it saw before.
        leases: dict[str, filelock.SoftFileLease] = {}
        left_over = Nameless(self.lease_seconds)
        while True:
            progressed = False
            for part in wanted:
                if part.key in done:
                    continue
                found, here = read(self.paths, part), False
                if found is None:
                    self.before()
                    found, here = self._take(part, leases, left_over)
                if found is not None:
                    done[part.key] = found
                    progressed = True
                    self.after(found, here)
            if len(done) == len({part.key for part in wanted}):
                return [done[part.key] for part in wanted]
            if not progressed:
                self.wait(min(2.0, self.lease_seconds / 4))

    def _take(self, part: Part, leases: dict[str, filelock.SoftFileLease], left_over: Nameless) -> tuple[Finished | None, bool]:
        lease = leases.setdefault(
            part.key, filelock.SoftFileLease(part.lease(self.paths), lease_duration=self.lease_seconds, timeout=0)
        )
        with held(lease) as ours:
            if not ours:
                left_over.look(part.lease(self.paths))
                return None, False
            found = read(self.paths, part)  # its last owner may just have finished it
            if found is not None:
                return found, False
            started = time.monotonic()
            finished = self.score(part)
            about = {
                "seconds": round(time.monotonic() - started, 3),
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "at": time.time(),
            }
            finished = Finished(part, {**finished.meta, **about}, finished.rows)
            write(self.paths, finished, self.identity)
            return finished, True


@contextmanager
def held(lease: filelock.SoftFileLease) -> Iterator[bool]:
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
def writing(where: Path) -> Iterator[None]:
    """Failures to write below ``where`` as one clear line."""
    try:
        yield
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        code = of_writing(error)
        todo = "make room; it is tried again" if code is Exit.TEMPORARY else "make it writable, then retry"
        raise Problem(what, where=error.filename or where, todo=todo, code=code) from error
