"""Hashes local data files, a bounded number of bytes a tick."""

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from suites.common.atomic_files import write_atomically
from suites.common.documents import DamagedDocument, read_struct
from suites.common.errors import UserError
from suites.contract.scoring_request import FileDigest, SuiteInRequest
from suites.definitions.local_data import FileHasher, bind_data_digests, expand_patterns, get_local_patterns

DataFileStamp = tuple[str, int, int, int]
"""Path, inode, bytes, mtime in ns."""

MAX_BYTES_PER_TICK = 1 << 29
"""Bytes that a daemon reads in one tick: they take a few seconds, in which nothing else happens."""

RACY_WINDOW_NS = 2_000_000_000
"""Nanoseconds after a write in which a second write may leave the same mtime."""


class HashedDataFiles(msgspec.Struct, frozen=True):
    """Paths and globs of one slice or task, with their last stamps."""

    patterns: tuple[str, ...]
    files: tuple[tuple[DataFileStamp, FileDigest], ...]


class DataNotReadyError(UserError):
    """Data files are not hashed yet; the next poll tries again."""


class DataBeingWrittenError(DataNotReadyError):
    """Data that changed a moment ago."""


class DataBeingHashedError(DataNotReadyError):
    """More data than one tick reads."""


def read_stamps(patterns: Sequence[str]) -> tuple[DataFileStamp, ...] | None:
    """A stat for each file; None where a pattern matches nothing."""
    try:
        return tuple(_read_stamp(path) for path in expand_patterns(patterns))
    except (UserError, OSError):
        return None


def _read_stamp(path: Path) -> DataFileStamp:
    stats = os.stat(path)  # noqa: PTH116  part of a poll
    return str(path), stats.st_ino, stats.st_size, stats.st_mtime_ns


class LocalDataHashes:
    """Remembers hashes of files while inode, size and mtime stay.

    ``cache_file`` keeps them between starts, and may be deleted at any time; it is written only with ``can_write``.
    ``bytes_per_tick``: bytes read between two calls of ``new_tick``, at most. A file that is read in part goes on in the
    next tick.
    """

    def __init__(self, cache_file: Path | None = None, *, can_write: bool = False, bytes_per_tick: float = math.inf) -> None:
        self._cache_file, self._can_write = cache_file, can_write
        self._bytes_per_tick = self._bytes_left = bytes_per_tick
        self._reading: tuple[DataFileStamp, FileHasher] | None = None
        self._uncached_hashes: dict[DataFileStamp, FileDigest] = {}
        """Of finished files whose slice or task has unfinished ones."""
        self._cached: dict[tuple[str, ...], HashedDataFiles] | None = None

    def new_tick(self) -> None:
        """Reset the bytes that may be read."""
        self._bytes_left = self._bytes_per_tick

    def add_data_hashes(self, suite: SuiteInRequest, *, settle_seconds: float = 0.0, now: float = 0.0) -> SuiteInRequest:
        """The suite with hashes of its local files.

        Files that were never seen are left out: the job reports them. Raises DataBeingWrittenError where one changed in the last
        ``settle_seconds`` before ``now``. Raises DataBeingHashedError where more bytes are left than a tick reads, and UserError
        where known files are gone or unreadable.
        """
        data = {}
        for name, patterns in get_local_patterns(suite).items():
            hashes = self._hash_files(f"{suite.name}/{name}", patterns, settle_seconds, now)
            if hashes is not None:
                data[name] = hashes
        return bind_data_digests(suite, data)

    def _hash_files(
        self, label: str, patterns: tuple[str, ...], settle_seconds: float, now: float
    ) -> tuple[FileDigest, ...] | None:
        cached = self._load_cache().get(patterns)
        stamps = read_stamps(patterns)
        # A job on a GPU node may see files that this node does not.
        if stamps is None and cached is None:
            return None
        # Known files that are gone would change the digest, and thereby score everything again.
        if stamps is None:
            hint = "restore them or fix data_files; until then this stage submits nothing"
            raise UserError("its data files are gone", location=f"{label}: {', '.join(patterns)}", hint=hint)
        newest_mtime = max(mtime for *_, mtime in stamps) / 1e9
        # A half-written file has a digest too, and a wrong one.
        if 0 <= now - newest_mtime < settle_seconds:
            path = max(stamps, key=lambda stamp: stamp[3])[0]
            raise DataBeingWrittenError(
                "is being written", location=path, hint=f"it is read once unchanged for {settle_seconds:g} s"
            )
        if cached is not None and tuple(stamp for stamp, _ in cached.files) == stamps:
            return tuple(mark for _, mark in cached.files)
        if (
            self._bytes_per_tick < math.inf and 0 <= now - newest_mtime < RACY_WINDOW_NS / 1e9
        ):  # read in pieces, which needs unchanging files
            raise DataBeingWrittenError("was just written", location=label, hint="the next poll reads it")
        # Of many files usually one is new, and hashing is the expensive part.
        known_hashes = self._uncached_hashes | ({} if cached is None else dict(cached.files))
        hashes = tuple(known_hashes[stamp] if stamp in known_hashes else self._hash_file(stamp) for stamp in stamps)
        self._uncached_hashes = {stamp: mark for stamp, mark in self._uncached_hashes.items() if stamp not in stamps}
        # The hash must be of the files that the stamps describe.
        if read_stamps(patterns) != stamps:
            raise DataBeingWrittenError("changed while it was read", location=label, hint="the next poll reads it")
        # A second write in the same tick of the clock leaves equal stamps.
        if not 0 <= now * 1e9 - newest_mtime * 1e9 < RACY_WINDOW_NS:
            self._remember(HashedDataFiles(patterns, tuple(zip(stamps, hashes, strict=True))))
        return hashes

    def _hash_file(self, stamp: DataFileStamp) -> FileDigest:
        path = stamp[0]
        hint = "this stage submits nothing before; each poll continues"
        unfinished = DataBeingHashedError(f"its {stamp[2]:,} bytes are being hashed", location=path, hint=hint)
        if self._bytes_left <= 0:
            raise unfinished
        # A file that changed between two ticks begins anew.
        if self._reading is None or self._reading[0] != stamp:
            self._reading = stamp, FileHasher(Path(path))
        reading = self._reading[1]
        size_before = reading.bytes_read
        try:
            data_file = reading.read_more(self._bytes_left)
        except OSError as error:
            message = f"cannot be read ({error.strerror or error})"
            raise UserError(message, location=path, hint="make it readable, or fix data_files") from error
        self._bytes_left -= reading.bytes_read - size_before
        if data_file is None:
            raise unfinished
        self._reading = None
        self._uncached_hashes[stamp] = data_file.digest
        return data_file.digest

    def _load_cache(self) -> dict[tuple[str, ...], HashedDataFiles]:
        if self._cached is None:
            self._cached = {}
            if self._cache_file is not None:
                try:
                    records = read_struct(self._cache_file, list[HashedDataFiles])
                    self._cached = {record.patterns: record for record in records}
                except (OSError, DamagedDocument):  # nothing remembered: hash everything
                    self._cached = {}
        return self._cached

    def _remember(self, record: HashedDataFiles) -> None:
        self._load_cache()[record.patterns] = record
        if self._cache_file is not None and self._can_write:
            with contextlib.suppress(OSError):  # unsaved hashes are computed again after the next start
                write_atomically(self._cache_file, msgspec.json.encode(list(self._load_cache().values())))
