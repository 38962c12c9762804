"""The journal: one line of JSON per event, one file per take-over, each line on disk before the deed that it announces.

Whoever takes the watcher over opens the next file (O_EXCL, highest number + 1), so two watchers never append to
one file, and the higher number fences the lower: see ``Journal.superseded``. A torn last line is what a crash in
mid-write leaves: its deed was not done, so it is left out. A torn line further up is damage: it is copied to
``journal/quarantine.<epoch>.<line>`` and said loudly, and the lines after it still count.
"""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec

from suites.common.atomic_files import publish, sync_folder
from suites.contract.paths import StatePaths
from watcher.journal.replay import Ledger, apply

SCHEMA = 1

OPENED = "opened"
"""The event with which a watcher says who it is."""

_EPOCH = re.compile(r"(\d{8,})\.jsonl")


class Superseded(Exception):  # noqa: N818  a state of affairs: another watcher took over
    """Another watcher has taken this state folder over: nothing may be done in its name any more."""


def epochs(paths: StatePaths) -> list[int]:
    """The numbers of all take-overs, ascending. Empty where there is no journal; raises OSError where it cannot be listed."""
    try:
        names = os.listdir(paths.journal)  # noqa: PTH208  names are all that is needed
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in map(_EPOCH.fullmatch, names) if match)


def read(paths: StatePaths, *, quarantine: bool = False) -> Ledger:
    """Everything that was journaled. Another watcher may be appending meanwhile: its unfinished line is left out.

    With ``quarantine``, damaged lines are copied aside; else they are only noted. Raises OSError.
    """
    ledger = Ledger()
    for epoch in epochs(paths):
        ledger.epoch = max(ledger.epoch, epoch)
        _read_epoch(ledger, paths, epoch, quarantine=quarantine)
    return ledger


def run_ids(paths: StatePaths) -> set[str]:
    """Every attempt that the journal ever mentioned; records remember only the newest of theirs. Raises OSError."""
    found: set[str] = set()
    for epoch in epochs(paths):
        for line in paths.epoch(epoch).read_bytes().split(b"\n"):
            event = _decode(line)
            if event is not None and isinstance(event.get("run_id"), str):
                found.add(event["run_id"])
    return found


def _read_epoch(ledger: Ledger, paths: StatePaths, epoch: int, *, quarantine: bool) -> None:
    path = paths.epoch(epoch)
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()  # empty where the last line is whole
    if torn and quarantine:
        ledger.notes.append(
            f"journal: {path.name} ends in the middle of a line; what it announced was not done, so it is left out"
        )
    expected = 0
    for number, line in enumerate(lines, start=1):
        if not line:
            continue  # a newline that closes a line which could not be finished
        event = _decode(line)
        if event is None:
            _damaged(ledger, paths, epoch, number, line, quarantine=quarantine)
            continue
        seq = event.get("seq")
        if isinstance(seq, int):
            if seq > expected:
                ledger.notes.append(f"journal: {path.name} lacks {seq - expected} events before line {number}")
            expected = seq + 1
        apply(ledger, event)


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        event = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _encode(document: dict[str, Any]) -> bytes:
    """One line of the journal, without its end. A file's name need not be UTF-8: what is none becomes ``?``."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(document), ensure_ascii=False).encode(errors="replace")


def _damaged(ledger: Ledger, paths: StatePaths, epoch: int, number: int, line: bytes, *, quarantine: bool) -> None:
    aside = paths.journal / f"quarantine.{epoch:08d}.{number}"
    words = f"journal: line {number} of {paths.epoch(epoch).name} is damaged"
    if quarantine:
        words += f", kept as {aside}" if _copied(aside, line) else " and cannot be copied aside"
    ledger.notes.append(f"{words}; the lines after it count, the queue and the results folder say the rest")


def _copied(aside: Path, line: bytes) -> bool:
    try:
        publish(aside, line)
    except OSError:  # a full disk must not keep the watcher from starting: the damaged line stays where it is
        return False
    return True


class Journal:
    """The open journal of one watcher: what was, and where to write what is. Not for two threads."""

    def __init__(self, paths: StatePaths, ledger: Ledger, epoch: int, fd: int) -> None:
        self.ledger, self.epoch = ledger, epoch
        self._paths, self._fd = paths, fd
        self._seq = self._size = 0
        self._torn = self._eventful = False

    @classmethod
    def open(cls, paths: StatePaths) -> "Journal":
        """Read what there is and open the next epoch. Raises OSError."""
        paths.journal.mkdir(parents=True, exist_ok=True)
        while True:
            ledger = read(paths, quarantine=True)
            epoch = ledger.epoch + 1
            try:
                fd = os.open(paths.epoch(epoch), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            except FileExistsError:
                continue
            sync_folder(paths.journal)
            return cls(paths, ledger, epoch, fd)

    def append(self, event: str, key: str = "", /, *, t: float, **fields: Any) -> None:
        """Make one event durable, then fold it. Raises OSError with nothing folded and the file healed or to be healed."""
        document: dict[str, Any] = {"schema": SCHEMA, "seq": self._seq, "epoch": self.epoch, "t": t, "event": event}
        if key:
            document["evaluation"] = key
        document.update(fields)
        line = _encode(document)
        self._write(line + b"\n")
        self._seq += 1
        self._eventful = self._eventful or event != OPENED
        apply(self.ledger, msgspec.json.decode(line))  # what a reader will see, and nothing else

    def _write(self, line: bytes) -> None:
        if self._torn:
            os.ftruncate(self._fd, self._size)
            self._torn = False
        self._torn = True  # until it is known to be whole
        if os.write(self._fd, line) != len(line):
            message = f"{self._paths.epoch(self.epoch)}: no room for a whole line"
            raise OSError(message)
        os.fsync(self._fd)
        self._torn = False
        self._size += len(line)

    def superseded(self) -> bool:
        """Whether somebody opened a newer epoch, or removed ours. Lists the folder: file servers remember that a file is absent.

        Raises OSError where the folder cannot be listed, or is not there: that tells of no other watcher.
        """
        found = epochs(self._paths)
        if not found and not self._paths.journal.is_dir():
            words = "is gone, perhaps with its file system; it is waited for"
            raise FileNotFoundError(errno.ENOENT, words, str(self._paths.journal))
        return not found or found[-1] != self.epoch

    def fence(self) -> None:
        """Raises Superseded where a newer watcher has taken over; to be asked before every deed."""
        if self.superseded():
            message = f"{self._paths.journal}: a newer watcher has taken over from epoch {self.epoch}; this one stops"
            raise Superseded(message)

    def forget(self) -> int:
        """Give the open file up as a process that is killed does; its number, for who closes it."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Close the file. One in which nothing was journaled but its opening goes: cron runs a thousand such a day.

        Its number may then be given again, which fences nobody off wrongly: what an earlier watcher knew still holds.
        """
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if self._torn:
                os.ftruncate(fd, self._size)
        finally:
            os.close(fd)
        if not self._eventful and self._paths.journal.is_dir() and not self.superseded():
            self._paths.epoch(self.epoch).unlink()


class DryJournal:
    """The same, and nothing is written: what would be journaled lasts as long as this object."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.epoch = ledger, ledger.epoch

    def append(self, event: str, key: str = "", /, *, t: float, **fields: Any) -> None:
        """Fold one event."""
        document = {"t": t, "event": event, "evaluation": key, **fields}
        apply(self.ledger, msgspec.json.decode(_encode(document)))
