"""A person gives another owner's attempt up, and the watcher is killed at each of its effects: one new run, and one only."""

from collections import deque

import msgspec
import pytest

from support.fakes.executor import FakeExecutor
from support.faults.kill_points import KillPoint, tick_until_settled
from support.runs.watched_run import WatchedRun

KEY = "stage1/step_100"


def scenario(root, monkeypatch, *, claimed):
    """The attempt of ada is in flight, and bob's watcher has its request."""
    watched = WatchedRun(root, monkeypatch, steps=(100,))
    watched.write_checkpoint("stage1", 100)
    watched.executor.endings[KEY] = deque(["hang"])
    watched.tick(2, jobs=claimed)
    watched.close_daemon()
    first = watched.executor
    watched.executor = FakeExecutor(watched.clock)
    watched.executor.owner = msgspec.structs.replace(first.owner, uid=1002, user="bob")
    watched.executor.next_id = 500
    watched.write_request("retry", 100, force=True, by="bob")
    return watched, first


@pytest.mark.parametrize("claimed", [False, True], ids=["pending", "running"])
def test_killed_at_every_effect_of_giving_up(tmp_path, claimed):
    blow_at = kills = 0
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            watched, first = scenario(tmp_path / str(blow_at), monkeypatch, claimed=claimed)
            fuse = KillPoint(monkeypatch, watched.executor, blow_at)
            killed = tick_until_settled(watched, fuse)
            where = fuse.effect_names
            assert watched.list_states() == {KEY: "scored"}, where
            assert [evaluation for evaluation, _ in watched.executor.runs] == [KEY], where
            assert not watched.executor.live_at_once, where
            # A job that had not begun can never begin: its claim is void.
            first.advance_jobs()
            first.advance_jobs()
            assert len(first.runs) == int(claimed), where
            watched.daemon.close()
        if not killed:
            break
        kills += 1
        blow_at += 1
    assert kills > 8, "there were fewer effects than there must be"
