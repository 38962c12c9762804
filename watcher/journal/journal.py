"""The append-only journal: a JSON line an event, a file an epoch.

Each line is on disk before the effect that it announces.

A watcher that takes over opens the next file (O_EXCL, highest number + 1), so two watchers never append to one file.
The higher number fences the lower: see ``Journal.is_superseded``. A crash in mid-write leaves a torn last line: its effect
did not happen, so it is left out. A torn line further up is damage: it is copied to
``journal/quarantine.<epoch>.<line>`` with a warning, and the lines after it still count.
"""

import errno
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from suites.common.atomic_files import fsync_folder, write_atomically
from suites.common.documents import is_not_a_file, is_too_deep, open_without_blocking
from suites.contract.paths import StatePaths
from watcher.core.events import JournalEvent, Opened
from watcher.journal.replay import MAX_WARNINGS, JournalState, replay

SCHEMA = 1

MAX_LINE_BYTES = 1 << 22
"""Bytes of the longest line that is read; events have some hundreds."""

MAX_JOURNAL_BYTES = 1 << 31
"""Bytes of one epoch's file that are read: years of events have fewer."""

_EPOCH_FILE_NAME = re.compile(r"([0-9]{8,12})\.jsonl")


class JournalSuperseded(Exception):  # noqa: N818  a state of affairs: another watcher took over
    """A newer watcher took this state folder over: no effect is allowed."""


def list_epochs(paths: StatePaths) -> list[int]:
    """Numbers of all epochs, ascending; empty without a journal.

    OSError where the folder cannot be listed.
    """
    try:
        names = os.listdir(paths.journal)  # noqa: PTH208  names are all that is needed
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in map(_EPOCH_FILE_NAME.fullmatch, names) if match)


def read_journal(paths: StatePaths, *, quarantine: bool = False) -> JournalState:
    """Replay the entire journal.

    Another watcher may be appending: its unfinished line is left out. With ``quarantine``, damaged lines are copied aside;
    else they only become warnings. Raises OSError.
    """
    journal_state = JournalState()
    for epoch in list_epochs(paths):
        # An epoch's file may be empty or damaged, and its number must still not be used again.
        journal_state.epoch = max(journal_state.epoch, epoch)
        _read_epoch(journal_state, paths, epoch, quarantine=quarantine)
    return journal_state


def list_run_ids(paths: StatePaths) -> set[str]:
    """Every run id that the journal ever mentioned. OSError.

    Records remember only their newest attempt.
    """
    run_ids: set[str] = set()
    for epoch in list_epochs(paths):
        decoded = map(_decode_event, _open_epoch(paths.epoch_journal(epoch)) or ())
        run_ids |= {event["run_id"] for event in decoded if event is not None and isinstance(event.get("run_id"), str)}
    return run_ids


def _read_epoch(journal_state: JournalState, paths: StatePaths, epoch: int, *, quarantine: bool) -> None:
    path = paths.epoch_journal(epoch)
    expected_seq = 0
    lines = _open_epoch(path)
    if lines is None:
        journal_state.warn(f"journal: {path.name} is not a regular file, so it counts as empty; move it away")
        return
    if path.stat().st_size > MAX_JOURNAL_BYTES:
        journal_state.warn(f"journal: {path.name} has more than {MAX_JOURNAL_BYTES:,} bytes; the rest is left out")
    for number, line in enumerate(lines, start=1):
        if line == b"\n":
            continue  # a newline that closes a line which could not be finished
        # A reader beside a running watcher may meet a line in mid-write, so only the writer warns.
        if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
            if quarantine:
                journal_state.warn(
                    f"journal: {path.name} ends in the middle of a line; what it announced was not done, so it is left out"
                )
            continue
        event = _decode_event(line)
        # The journal must stay readable after damage: queue and disk fill most gaps.
        if event is None:
            _record_damaged_line(journal_state, paths, epoch, number, line.removesuffix(b"\n"), quarantine=quarantine)
            continue
        seq = event.get("seq")
        # A gap in the numbers shows lines that are missing without a trace.
        if isinstance(seq, int):
            if seq > expected_seq:
                journal_state.warn(f"journal: {path.name} lacks {seq - expected_seq} events before line {number}")
            expected_seq = seq + 1
        replay(journal_state, event)


def _decode_event(line: bytes) -> dict[str, Any] | None:
    try:
        event = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    is_event = isinstance(event, dict) and isinstance(event.get("event"), str)
    return event if is_event and not is_too_deep(event) else None


def _open_epoch(path: Path) -> Iterator[bytes] | None:
    """The lines of an epoch's file; None where it is no file at all. OSError.

    Events that cannot be read now would be forgotten, so only what can have none counts as empty.
    """
    try:
        return _split_lines(open_without_blocking(path))
    except OSError as error:
        if not is_not_a_file(error) and not (isinstance(error, FileNotFoundError) and path.is_symlink()):
            raise
        return None


def _split_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their newlines; one without is torn, or the beginning of one that is too long for any event."""
    with file:
        while file.tell() < MAX_JOURNAL_BYTES and (line := file.readline(MAX_LINE_BYTES)):
            yield line
            # A sparse file is one line of zeros, of which nothing but the beginning is kept.
            while len(line) == MAX_LINE_BYTES and not line.endswith(b"\n") and file.tell() < MAX_JOURNAL_BYTES:
                line = file.readline(MAX_LINE_BYTES)


def _encode_event(document: dict[str, Any]) -> bytes:
    """One journal line without its newline.

    Bytes of file names that are no UTF-8 become ``?``.
    """
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        # The name of a file may hold any bytes, and must not stop the journal.
        return json.dumps(msgspec.to_builtins(document), ensure_ascii=False).encode(errors="replace")


def _record_damaged_line(
    journal_state: JournalState, paths: StatePaths, epoch: int, number: int, line: bytes, *, quarantine: bool
) -> None:
    quarantine_file = paths.journal / f"quarantine.{epoch:08d}.{number}"
    message = f"journal: line {number} of {paths.epoch_journal(epoch).name} is damaged"
    if quarantine and len(journal_state.warnings) < MAX_WARNINGS:
        message += f", kept as {quarantine_file}" if _copy_damaged_line(quarantine_file, line) else " and cannot be copied aside"
    journal_state.warn(f"{message}; the lines after it count, the queue and the results folder say the rest")


def _copy_damaged_line(quarantine_file: Path, line: bytes) -> bool:
    try:
        write_atomically(quarantine_file, line)
    except OSError:  # a full disk must not keep the watcher from starting: the damaged line stays where it is
        return False
    return True


class Journal:
    """The open journal of one watcher; not for two threads."""

    def __init__(self, paths: StatePaths, state: JournalState, epoch: int, fd: int) -> None:
        self.state, self.epoch = state, epoch
        self._paths, self._fd = paths, fd
        self._seq = self._size_bytes = 0
        self._has_torn_line = self._has_events = False

    @classmethod
    def open(cls, paths: StatePaths) -> "Journal":
        """Read what there is and open the next epoch. Raises OSError."""
        paths.journal.mkdir(parents=True, exist_ok=True)
        # Another watcher may open the same epoch first: then its events are read before the next try.
        while True:
            journal_state = read_journal(paths, quarantine=True)
            epoch = journal_state.epoch + 1
            try:
                fd = os.open(paths.epoch_journal(epoch), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            except FileExistsError:
                continue
            # The new file must survive a power cut, else an older epoch would seem the newest.
            fsync_folder(paths.journal)
            return cls(paths, journal_state, epoch, fd)

    def append(self, event: JournalEvent, *, t: float) -> None:
        """``append_all`` of one event."""
        self.append_all([event], t=t)

    def append_all(self, batch: Sequence[JournalEvent], *, t: float) -> None:
        """Write events to disk, then replay them.

        OSError: nothing is replayed, and the next append removes what was written of them.
        """
        lines = []
        for number, event in enumerate(batch, start=self._seq):
            header = {"schema": SCHEMA, "seq": number, "epoch": self.epoch, "t": t}
            lines.append(_encode_event({**header, **msgspec.to_builtins(event)}) + b"\n")
        # State changes only after the fsync, so memory never runs ahead of the disk.
        self._write(b"".join(lines))
        self._seq += len(lines)
        self._has_events = self._has_events or not all(isinstance(event, Opened) for event in batch)
        for line in lines:
            replay(self.state, msgspec.json.decode(line))  # exactly what a reader will see

    def _write(self, content: bytes) -> None:
        # Two torn lines in one would swallow the event that follows them.
        if self._has_torn_line:
            os.ftruncate(self._fd, self._size_bytes)
            self._has_torn_line = False
        self._has_torn_line = True  # until the last line is known to be complete
        # A full disk can take a part of a line without any error.
        if os.write(self._fd, content) != len(content):
            message = f"{self._paths.epoch_journal(self.epoch)}: no room for whole lines"
            raise OSError(message)
        os.fsync(self._fd)
        self._has_torn_line = False
        self._size_bytes += len(content)

    def is_superseded(self) -> bool:
        """Whether a newer epoch exists, or ours was removed.

        It lists the folder, since file servers cache that a file is absent. Raises OSError where the folder cannot be listed
        or is missing, which proves no other watcher.
        """
        epochs = list_epochs(self._paths)
        # An unmounted folder lists as empty, which must not look like a takeover.
        if not epochs and not self._paths.journal.is_dir():
            message = "is gone (unmounted?); waiting for it"
            raise FileNotFoundError(errno.ENOENT, message, str(self._paths.journal))
        return not epochs or epochs[-1] != self.epoch

    def fence(self) -> None:
        """Raise JournalSuperseded where a newer watcher took over.

        It is called before every effect.
        """
        if self.is_superseded():
            message = f"{self._paths.journal}: a newer watcher has taken over from epoch {self.epoch}; this one stops"
            raise JournalSuperseded(message)

    def detach(self) -> int:
        """Give up the open file as a killed process does."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Close the file, and delete it where it only holds Opened.

        A cron job opens a thousand epochs a day. The number of a deleted file may be used again: no event depends on it.
        """
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if self._has_torn_line:
                os.ftruncate(fd, self._size_bytes)
        finally:
            os.close(fd)
        # Only the newest file is deleted: a lower number must not become free below a newer one.
        if not self._has_events and self._paths.journal.is_dir() and not self.is_superseded():
            self._paths.epoch_journal(self.epoch).unlink()


class DryJournal:
    """A journal in memory, for dry runs."""

    def __init__(self, state: JournalState) -> None:
        self.state, self.epoch = state, state.epoch

    def append(self, event: JournalEvent, *, t: float) -> None:
        """Replay one event."""
        replay(self.state, msgspec.json.decode(_encode_event({"t": t, **msgspec.to_builtins(event)})))
