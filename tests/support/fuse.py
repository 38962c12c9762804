"""Kills a watcher after its k-th effect: in the middle of or after a line of the journal, a published file, a call.

After one effect is before the next: the disk is the same.
"""

import watcher.act
import watcher.daemon
import watcher.ledger
import watcher.lock
import watcher.submissions


class Killed(BaseException):
    """The process is gone; nothing catches this."""


class Fuse:
    """Counts effects and blows at one of them. ``blow_at`` None: it only counts."""

    def __init__(self, monkeypatch, executor, blow_at=None):
        self.blow_at, self.count = blow_at, 0
        self.where = ""
        executor.on_effect = self.point
        for module, names in (
            (watcher.act, ("create_once",)),
            (watcher.submissions, ("publish",)),
            (watcher.lock, ("publish", "create_once")),
            (watcher.daemon, ("create_once",)),
        ):
            for name in names:
                monkeypatch.setattr(module, name, self._around(name, getattr(module, name)))
        monkeypatch.setattr(watcher.ledger.os, "write", self._torn(watcher.ledger.os.write))

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
