"""The watcher is killed at each of its effects in turn, and started again: nothing is lost and nothing runs twice."""

from collections import Counter, deque

import pytest

from support.faults.kill_points import KillPoint, tick_until_settled
from support.runs.watched_run import WatchedRun
from watcher.core.evaluation import EvaluationState
from watcher.core.executor import JobState


def scenario(root, monkeypatch, *, holds, accounting, ending):
    watched = WatchedRun(root, monkeypatch, steps=(100,), holds=holds, accounting=accounting)
    bridge = {"steps": (), "bridge": watched.make_bridge("stage1"), "seq_len": 64, "tokenizer": "t"}
    watched.configure(stage1={"steps": (100,)}, stage2=bridge)
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage2", 300, started_from="/elsewhere/100")  # in no schedule: only where it began is journaled
    if ending is not None:
        watched.executor.endings["stage1/step_100"] = deque([ending])
    return watched


def check(watched, fuse, *, runs):
    where = fuse.effect_names
    assert watched.list_states() == {"stage1/step_100": "scored", "stage2/step_100": "scored"}, where
    assert Counter(evaluation for evaluation, _ in watched.executor.runs) == runs, where
    assert not watched.executor.live_at_once, where
    assert not watched.executor.live(), where
    for record in watched.journal_state.records.values():
        assert record.state is EvaluationState.SCORED
        assert record.attempt.run_id == [run_id for evaluation, run_id in watched.executor.runs if evaluation == record.key][-1]


@pytest.mark.parametrize(
    ("holds", "accounting", "ending"),
    [(True, True, None), (True, False, 70), (False, False, None), (False, False, JobState.NODE_FAIL)],
    ids=["slurm", "slurm without accounting, a failure first", "local", "local, a node failure first"],
)
def test_killed_at_every_effect(tmp_path, holds, accounting, ending):
    runs = {"stage1/step_100": 1 if ending is None else 2, "stage2/step_100": 1}
    blow_at = kills = 0
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            watched = scenario(tmp_path / str(blow_at), monkeypatch, holds=holds, accounting=accounting, ending=ending)
            fuse = KillPoint(monkeypatch, watched.executor, blow_at)
            killed = tick_until_settled(watched, fuse)
            check(watched, fuse, runs=runs)
            watched.daemon.close()
        if not killed:
            break
        kills += 1
        blow_at += 1
    assert kills > 20, "there were fewer effects than there must be"
    print(f"{kills} kills, 0 duplicates, 0 lost")
