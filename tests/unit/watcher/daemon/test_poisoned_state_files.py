"""Files of the state folder that somebody replaced by anything else: nothing waits, and the watcher has its own again."""

import time

import pytest

from suites.common.atomic_files import move_other_kinds_aside
from suites.common.errors import UserError
from suites.contract.paths import StatePaths
from support.faults.poisoned_files import CONTENTS, KINDS_OF_FILE, POISONS, poison
from watcher.core.clock import touch_clock
from watcher.daemon.log_setup import start_daemon_log, stop_daemon_log
from watcher.daemon.setup import read_state_id
from watcher.journal.lock import DaemonLock

OTHER_KINDS = [name for name in KINDS_OF_FILE if name not in {"sparse", "dangling link", "link into a locked folder"}]


@pytest.mark.parametrize("name", POISONS)
def test_the_clock_is_read_whatever_lies_there(tmp_path, name):
    poison(tmp_path / "clock", name)
    try:
        assert abs(touch_clock(tmp_path / "clock") - time.time()) < 3600
    except OSError:
        assert name == "link into a locked folder"


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_the_log_is_a_file_again(tmp_path, name):
    poison(tmp_path / "watcher.log", name)
    log = start_daemon_log(tmp_path / "watcher.log", console=False)
    log("hello")
    stop_daemon_log()
    assert '"hello"' in (tmp_path / "watcher.log").read_text()
    assert len(list(tmp_path.glob("watcher.log.damaged.*"))) == 1


@pytest.mark.parametrize("name", POISONS)
def test_the_lock_is_taken_whatever_lies_there(tmp_path, name):
    paths = StatePaths(tmp_path)
    poison(paths.lock, name)
    lock = DaemonLock.acquire(paths, lease_seconds=60.0, server_now=time.time() + 1e6)
    assert lock.renew_heartbeat()


@pytest.mark.parametrize("name", POISONS)
def test_a_lock_that_is_damaged_while_it_is_held_is_made_again(tmp_path, name):
    paths = StatePaths(tmp_path)
    lock = DaemonLock.acquire(paths, lease_seconds=60.0, server_now=time.time())
    poison(paths.lock, name)
    assert lock.is_free()
    assert lock.recreate()
    assert lock.is_held()


@pytest.mark.parametrize("name", [name for name in POISONS if name not in {"dangling link", "link into a locked folder"}])
def test_an_id_that_is_none_is_refused_in_one_line(tmp_path, name):
    poison(tmp_path / "id", name)
    if name in {"null", "number"}:  # a name like any other
        assert read_state_id(tmp_path) in {"null", "7"}
        return
    with pytest.raises(UserError, match="is not the id of a state folder; restore it"):
        read_state_id(tmp_path)


def test_what_is_a_file_stays_where_it_is(tmp_path):
    for number, name in enumerate(CONTENTS):
        poison(tmp_path / str(number), name)
        move_other_kinds_aside(tmp_path / str(number))
    assert len(list(tmp_path.iterdir())) == len(CONTENTS)
