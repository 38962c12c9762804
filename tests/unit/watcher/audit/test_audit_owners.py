"""An audit by a queue that cannot list the jobs of another owner."""

import os
from collections import deque

import msgspec
import pytest

from support.fakes.executor import FakeExecutor
from support.runs.watched_run import make_watched_fixture
from watcher.audit.audit import run_audit
from watcher.daemon.setup import read_state_id

KEY = "stage1/step_100"

watched = make_watched_fixture(steps=(100,), checkpoints=(100,))


@pytest.fixture
def unseen(watched):
    """The job of ada runs for ever; the audit is bob's, hours later."""
    watched.executor.endings[KEY] = deque(["hang"])
    watched.tick(2)
    watched.close_daemon()
    owner = watched.executor.owner
    watched.executor = FakeExecutor(watched.clock)
    watched.executor.owner = msgspec.structs.replace(owner, uid=1002, user="bob")
    watched.clock.at += 7200.0
    return watched


def look(watched):
    state_id = read_state_id(watched.config.state)
    return run_audit(watched.config, watched.executor, state_id, {}, now=watched.clock(), alive=False).differences


def test_a_job_that_this_queue_cannot_list_is_no_difference(unseen):
    assert look(unseen) == ()
    unseen.executor.owner = msgspec.structs.replace(unseen.executor.owner, uid=1001)
    assert [difference.key for difference in look(unseen)] == [KEY]  # its own queue lacks it


def test_an_attempt_that_may_wait_in_another_queue_is_not_removed(unseen):
    """The journal is gone, the attempt's folder is not, and nobody claimed it yet."""
    (run_id,) = unseen.run_ids()
    for path in unseen.config.paths.journal.iterdir():
        path.unlink()
    attempt = unseen.config.paths.attempt(run_id)
    attempt.claim.unlink()
    os.utime(attempt.folder, (unseen.clock() - 7200.0,) * 2)
    assert not [difference for difference in look(unseen) if difference.path_to_remove is not None]
    unseen.executor.owner = msgspec.structs.replace(unseen.executor.owner, uid=1001)
    assert [difference.path_to_remove for difference in look(unseen)] == [attempt.folder]


@pytest.mark.parametrize("age_seconds", [10.0, 9999.0])
def test_files_of_a_run_that_shows_life_are_no_leftovers(unseen, age_seconds):
    for path in unseen.config.paths.journal.iterdir():
        path.unlink()
    paths = unseen.get_evaluation_paths(KEY)
    paths.parts.mkdir(parents=True)
    lease = paths.parts / "web.0123.lease"
    for path in (lease, paths.progress_json):
        path.write_text('{"run_id": "another"}')
        os.utime(path, (unseen.clock() - 9999.0,) * 2)
    os.utime(paths.progress_json, (unseen.clock() - age_seconds,) * 2)
    removed = [difference.path_to_remove for difference in look(unseen) if difference.path_to_remove is not None]
    assert removed == ([] if age_seconds < 300 else [lease])
