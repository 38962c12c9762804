"""One watcher per state folder."""

import os
import subprocess
import sys

import msgspec
import pytest

from suites.common.errors import ExitCode, UserError
from suites.contract.paths import StatePaths
from watcher.journal.lock import DaemonLock, LockOwner, is_owner_gone, make_lock_owner


@pytest.fixture
def paths(tmp_path):
    return StatePaths(tmp_path)


def write(paths, **changes):
    owner = msgspec.structs.replace(make_lock_owner(), token="another", **changes)  # noqa: S106  whose lock it is, not a secret
    paths.lock.write_bytes(msgspec.json.encode(owner))
    return owner


def acquire(paths, *, later=0.0):
    server_now = paths.lock.stat().st_mtime + later if paths.lock.exists() else 0.0
    return DaemonLock.acquire(paths, lease_seconds=600, server_now=server_now)


def test_a_live_second_watcher_is_named_with_host_and_pid(paths):
    me = write(paths)
    with pytest.raises(
        UserError, match=rf"a watcher already runs here: pid {me.pid} on {me.host}, last heartbeat 0 s ago"
    ) as caught:
        acquire(paths)
    assert caught.value.code is ExitCode.TEMPORARY


def test_a_dead_owner_on_this_host_is_taken_over_at_once(paths):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    write(paths, pid=int(child.stdout))
    assert acquire(paths).is_held()


def test_a_pid_that_is_another_process_by_now_is_taken_over(paths):
    write(paths, pid=os.getpid(), start=1)
    assert acquire(paths).is_held()


def test_a_zombie_is_dead(paths):
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    write(paths, pid=child.pid, start=None)
    assert acquire(paths).is_held()
    child.wait()


def test_an_owner_before_a_reboot_is_gone():
    me = make_lock_owner()
    assert is_owner_gone(msgspec.structs.replace(me, boot="another boot"), me)


@pytest.mark.parametrize(("later", "taken"), [(0.0, False), (599.0, False), (601.0, True)])
def test_an_owner_on_another_host_has_its_lease(paths, later, taken):
    write(paths, host="login02")
    if taken:
        assert acquire(paths, later=later).is_held()
    else:
        with pytest.raises(UserError, match="on login02"):
            acquire(paths, later=later)


def test_a_lock_that_cannot_be_read_is_nobodys(paths):
    paths.lock.write_text("")
    assert acquire(paths).is_held()


def test_who_lost_the_lock_learns_it_from_the_next_beat_and_does_not_take_it_away(paths):
    first = acquire(paths)
    write(paths, pid=1)
    assert not first.renew_heartbeat()
    first.release()
    assert paths.lock.exists()
    assert msgspec.json.decode(paths.lock.read_bytes(), type=LockOwner).token == "another"  # noqa: S105  no secret


def test_release_and_epoch(paths):
    lock = acquire(paths)
    lock.write_epoch(7)
    assert lock.renew_heartbeat()
    assert msgspec.json.decode(paths.lock.read_bytes(), type=LockOwner).epoch == 7
    lock.release()
    assert not paths.lock.exists()
