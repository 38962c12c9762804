"""Kills a watcher after its k-th effect: in the middle of or after a line of the journal, a published file, a call.

After one effect is before the next: the disk is the same.
"""

import watcher.actions.actor
import watcher.actions.submission
import watcher.daemon.setup
import watcher.journal.journal
import watcher.journal.lock


class Killed(BaseException):
    """The process is gone; nothing catches this."""


class Fuse:
    """Counts effects and blows at one of them. ``blow_at`` None: it only counts."""

    def __init__(self, monkeypatch, executor, blow_at=None):
        self.blow_at, self.count = blow_at, 0
        self.where = ""
        executor.on_effect = self.point
        for module, names in (
            (watcher.actions.actor, ("create_once",)),
            (watcher.actions.submission, ("publish",)),
            (watcher.journal.lock, ("publish", "create_once")),
            (watcher.daemon.setup, ("create_once",)),
        ):
            for name in names:
                monkeypatch.setattr(module, name, self._around(name, getattr(module, name)))
        monkeypatch.setattr(watcher.journal.journal.os, "write", self._torn(watcher.journal.journal.os.write))

    def point(self, what):
        """An effect is about to be, or has been."""
        if self.count == self.blow_at:
            self.blow_at = None
            self.where = what
            raise Killed(what)
        self.count += 1

    def _around(self, name, real):
        def call(path, data):
            given = real(path, data)
            self.point(f"{name} {path}: after")
            return given

        return call

    def _torn(self, real):
        def write(fd, data):
            if not bytes(data[:10]).startswith(b'{"schema"') or b'"seq"' not in bytes(data[:40]):
                return real(fd, data)
            if self.count == self.blow_at:
                real(fd, bytes(data)[: len(data) // 2])
            self.point(f"journal {bytes(data)!r}: in the middle")
            given = real(fd, data)
            self.point(f"journal {bytes(data)!r}: after")
            return given

        return write


def live_out(watched, fuse):
    """Tick until all is settled; wherever the fuse blows, a new daemon takes over."""
    killed = False
    for _ in range(60):
        try:
            watched.tick()
        except Killed:
            killed = True
            watched.kill()
            watched.executor.step()
            continue
        if watched.settled() and not watched.executor.live():
            return killed
    message = f"not settled: {watched.states()} {watched.reasons()} after {fuse.where}"
    raise AssertionError(message)
