"""Removes lease files that an owner left empty when it was killed."""

import time
from pathlib import Path
from typing import NamedTuple


class LeaseFileId(NamedTuple):
    """Identity of a lease file. A later file has another."""

    inode: int
    mtime_ns: int


def identify_empty_lease(path: Path) -> LeaseFileId | None:
    """Return the identity of an empty lease file, or None.

    An owner that is killed between creating the file and writing its name leaves it empty. Such a lease has no heartbeat that
    could stop, so it would stay for ever.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return LeaseFileId(status.st_ino, status.st_mtime_ns) if status.st_size == 0 else None


class StaleLeaseCleaner:
    """Removes lease files that stay empty for ``max_age_seconds`` of our own clock."""

    def __init__(self, max_age_seconds: float) -> None:
        self._max_age_seconds = max_age_seconds
        self._first_observed: dict[tuple[Path, LeaseFileId], float] = {}

    def remove_if_stale(self, path: Path) -> None:
        """Call this each time that a lease is not free."""
        identity = identify_empty_lease(path)
        if identity is None:
            return
        # By our own clock: the file server's may differ from it by minutes.
        first_observed = self._first_observed.setdefault((path, identity), time.monotonic())
        if time.monotonic() - first_observed > self._max_age_seconds:
            path.unlink(missing_ok=True)
