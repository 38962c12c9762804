"""Reads that hang: their callers go on, late results are kept, errors come through."""

import threading
import time

import pytest

from watcher.core import bounded_reads
from watcher.core.bounded_reads import BoundedReads, HangingRead


@pytest.fixture
def reads(monkeypatch):
    monkeypatch.setattr(bounded_reads, "TICK_SECONDS", (0.05, 0.05))
    monkeypatch.setattr(bounded_reads, "MIN_READ_SECONDS", 0.05)
    return BoundedReads(60.0, lambda: 1_700_000_000.0)


class HeldRead:
    """A read that ends when it is told to."""

    def __init__(self, result=None):
        self.result, self.count, self.may_end = result, 0, threading.Event()

    def __call__(self):
        self.count += 1
        self.may_end.wait(60)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def await_result(reads, key, read):
    """The late result."""
    read.may_end.set()
    end = time.monotonic() + 60
    while True:
        try:
            return reads.run(key, "/there", read)
        except HangingRead:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), TimeoutError(110, "timed out"), KeyError("x")])
def test_results_and_errors_come_through(reads, error):
    assert reads.run("a", "/a", lambda: 7) == 7

    def fail():
        raise error

    with pytest.raises(type(error)) as raised:
        reads.run("a", "/a", fail)
    assert raised.value is error
    assert reads.run("a", "/a", lambda: 8) == 8


def test_what_hangs_is_named_with_its_time_and_does_not_stop_the_others(reads):
    held = HeldRead("late")
    for _ in range(3):
        with pytest.raises(HangingRead, match=r"no answer since .*: a file server that hangs") as raised:
            reads.run("held", "/held", held)
        assert raised.value.filename == "/held"
        assert reads.run("other", "/other", lambda: "at once") == "at once"
    assert held.count == 1, "it is not begun again while it hangs"
    assert await_result(reads, "held", held) == "late"
    assert held.count == 1
    assert await_result(reads, "held", held) == "late"
    assert held.count == 2, "a late result is used once"


def test_a_late_error_is_that_of_the_next_call(reads):
    held = HeldRead(PermissionError(13, "Permission denied"))
    with pytest.raises(HangingRead):
        reads.run("held", "/held", held)
    with pytest.raises(PermissionError):
        await_result(reads, "held", held)


def test_a_process_ends_although_a_read_hangs(reads):
    held = HeldRead()
    with pytest.raises(HangingRead):
        reads.run("held", "/held", held)
    hanging = [thread for thread in threading.enumerate() if thread.name == "reads"]
    assert hanging
    assert all(thread.daemon for thread in hanging)
    held.may_end.set()
