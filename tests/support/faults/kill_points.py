"""Kills a watcher after its k-th effect: in the middle of or after a line of the journal, a published file, a call.

After one effect is before the next: the disk is the same.
"""

import watcher.actions.claims
import watcher.actions.submission
import watcher.daemon.setup
import watcher.journal.journal
import watcher.journal.lock


class ProcessKilled(BaseException):
    """The process is gone; nothing catches this."""


class KillPoint:
    """Counts effects and blows at one of them. ``kill_at`` None: it only counts."""

    def __init__(self, monkeypatch, executor, kill_at=None):
        self.kill_at, self.count = kill_at, 0
        self.effect_names = ""
        executor.on_effect = self.record_effect
        for module, names in (
            (watcher.actions.claims, ("create_once",)),
            (watcher.actions.submission, ("write_atomically",)),
            (watcher.journal.lock, ("write_atomically", "create_once")),
            (watcher.daemon.setup, ("create_once",)),
        ):
            for name in names:
                monkeypatch.setattr(module, name, self._around(name, getattr(module, name)))
        monkeypatch.setattr(watcher.journal.journal.os, "write", self._torn(watcher.journal.journal.os.write))

    def record_effect(self, effect):
        """An effect is about to be, or has been."""
        if self.count == self.kill_at:
            self.kill_at = None
            self.effect_names = effect
            raise ProcessKilled(effect)
        self.count += 1

    def _around(self, name, real):
        def call(path, data):
            given = real(path, data)
            self.record_effect(f"{name} {path}: after")
            return given

        return call

    def _torn(self, real):
        def write(fd, data):
            if not bytes(data[:10]).startswith(b'{"schema"') or b'"seq"' not in bytes(data[:40]):
                return real(fd, data)
            if self.count == self.kill_at:
                real(fd, bytes(data)[: len(data) // 2])
            self.record_effect(f"journal {bytes(data)!r}: in the middle")
            given = real(fd, data)
            self.record_effect(f"journal {bytes(data)!r}: after")
            return given

        return write


def kill_around_event(monkeypatch, journal, event_name, *, before):
    """The process ends right before this journal first takes an event of that name, or right after."""
    append_all = journal.append_all
    killed = False

    def append_or_die(batch, *, t):
        nonlocal killed
        names = [event.name for event in batch]
        if killed or event_name not in names:
            return append_all(batch, t=t)
        killed = True
        if written := batch[: names.index(event_name) + (not before)]:
            append_all(written, t=t)
        raise ProcessKilled(event_name)

    monkeypatch.setattr(journal, "append_all", append_or_die)


def tick_until_settled(watched, kill_point):
    """Tick until all is settled; wherever the fuse blows, a new daemon takes over."""
    killed = False
    for _ in range(60):
        try:
            watched.tick()
        except ProcessKilled:
            killed = True
            watched.kill_daemon()
            watched.executor.advance_jobs()
            continue
        if watched.is_settled() and not watched.executor.live():
            return killed
    message = f"not settled: {watched.list_states()} {watched.list_reasons()} after {kill_point.effect_names}"
    raise AssertionError(message)
