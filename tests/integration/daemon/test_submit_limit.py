"""A limit on submissions that lasts for days: it is no failure, the journal does not grow, and nothing is submitted twice."""

import errno
from collections import Counter, deque

import pytest

from support.faults.kill_points import KillPoint, tick_until_settled
from support.runs.watched_run import WatchedRun, make_watched_fixture
from watcher.core.executor import SubmissionResult, SubmitKind
from watcher.journal.journal import read_journal

KEY = "stage1/step_100"
WORDS = "QOSMaxSubmitJobPerUserLimit"
STEPS = (100, 200, 300)


watched = make_watched_fixture(steps=STEPS)


def limited(watched, *, tries=10_000, steps=STEPS, words=""):
    watched.executor.submissions = deque([f"later {words}".strip()] * tries)
    for step in steps:
        watched.write_checkpoint("stage1", step)
    watched.tick(5)


def journal(watched):
    """Every event but that a watcher began."""
    return sum(path.read_bytes().count(b"\n") for path in watched.config.paths.journal.iterdir())


def each_was_scored_by_one_run(watched, steps=STEPS):
    assert Counter(evaluation for evaluation, _ in watched.executor.runs) == {f"stage1/step_{step}": 1 for step in steps}
    assert not watched.executor.live_at_once
    assert not watched.executor.live()


def test_the_journal_does_not_grow_with_polls_and_grows_when_the_limit_ends(watched):
    limited(watched)
    first = "stage1/step_300"  # the final step goes before the others
    assert watched.list_states() == {KEY: "ready", "stage1/step_200": "ready", first: "waiting"}
    assert watched.journal_state.records[first].reason == f"submit limit: {WORDS}"
    assert set(watched.list_reasons().values()) == {f"submit limit: {WORDS}; next try when a job ends, or after 5 min"}
    before, tried = journal(watched), watched.executor.calls["submit"]
    watched.tick(500)
    assert journal(watched) == before
    assert watched.executor.calls["submit"] - tried == 100, "once in five minutes, whatever waits"
    assert watched.run_ids() == []
    watched.executor.submissions.clear()
    watched.tick_until(watched.are_all_scored)
    assert journal(watched) > before
    each_was_scored_by_one_run(watched)
    assert all(record.failures == {} for record in watched.journal_state.records.values())


def test_it_is_journaled_when_the_limit_becomes_another(watched):
    limited(watched, steps=(100,))
    before = journal(watched)
    watched.executor.submissions = deque(["later AssocGrpSubmitJobsLimit"] * 10_000)
    watched.tick(50)
    assert journal(watched) == before + 1
    assert watched.journal_state.records[KEY].reason == "submit limit: AssocGrpSubmitJobsLimit"


def test_the_journal_does_not_grow_with_runs_by_cron_either(watched):
    limited(watched)
    watched.daemon.close()
    before = journal(watched)
    for _ in range(50):
        watched.start_daemon()
        watched.tick()
        watched.daemon.close()
    assert journal(watched) == before
    watched.executor.submissions.clear()
    watched.start_daemon()
    watched.tick_until(watched.are_all_scored)
    each_was_scored_by_one_run(watched)


def test_a_job_that_ends_has_the_next_one_tried_at_once(watched):
    watched.executor.endings[KEY] = deque(["hang"])
    watched.write_checkpoint("stage1", 100)
    watched.tick(3)
    limited(watched, steps=(200,))
    tried = watched.executor.calls["submit"]
    watched.tick_until(lambda: watched.executor.calls["submit"] > tried)
    watched.executor.submissions.clear()
    (running,) = watched.executor.live()
    running.ending = 0
    watched.executor.advance_jobs()
    watched.tick()  # one poll after the last try, not five minutes
    assert watched.list_states() == {KEY: "scored", "stage1/step_200": "queued", "stage1/step_300": "waiting"}


def test_a_limit_is_tried_again_after_five_minutes_or_where_the_clock_is_wrong(watched):
    limited(watched)
    delays = watched.daemon.tick_runner.actor.delays
    assert delays.submit_limit(watched.clock())
    assert delays.submit_limit(watched.clock() + 300) == ""
    assert delays.submit_limit(watched.clock() - 86400) == "", "the clock was set back: it is tried"


def test_commands_of_a_minute_that_are_used_up_hold_back_until_the_next_poll_only(watched, monkeypatch):
    really = watched.executor.submit

    def used_up(_submission):
        watched.executor.submissions_left = 0
        return SubmissionResult(kind=SubmitKind.LATER, message="rate limit: 10 Slurm commands a minute are used up")

    watched.executor.submissions_left = 3
    monkeypatch.setattr(watched.executor, "submit", used_up)
    watched.write_checkpoint("stage1", 100)
    watched.tick()
    assert watched.list_states()[KEY] == "waiting"
    watched.executor.submissions_left = 3
    monkeypatch.setattr(watched.executor, "submit", really)
    watched.tick()
    assert watched.list_states()[KEY] == "queued"


@pytest.mark.parametrize("outcome", ["lost_reply", "nothing", "refused"])
def test_whatever_else_comes_of_a_try_is_journaled_with_its_intent(watched, outcome):
    limited(watched, tries=2, steps=(100,))
    watched.executor.submissions.append(outcome)
    if outcome == "refused":
        watched.tick(10)
        assert watched.list_states()[KEY] == "blocked"
        return
    watched.tick_until(lambda: watched.list_states()[KEY] == "scored")
    each_was_scored_by_one_run(watched, (100,))


def test_a_submission_that_got_through_and_could_not_be_journaled_is_not_made_twice(watched, monkeypatch):
    limited(watched, steps=(100,))
    watched.executor.submissions.clear()
    real = watched.daemon.journal.append_all

    def full(batch, *, t):
        if any(event.name == "submitted" for event in batch):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(batch, t=t)

    monkeypatch.setattr(watched.daemon.journal, "append_all", full)
    watched.tick(12)
    names = [job.name for job in watched.executor.jobs.values()]
    assert len(names) == len(set(names)) > 0
    assert watched.executor.runs == []
    monkeypatch.setattr(watched.daemon.journal, "append_all", real)
    watched.tick_until(lambda: watched.list_states()[KEY] == "scored")
    each_was_scored_by_one_run(watched, (100,))


def test_killed_at_every_effect_while_a_limit_lasts_and_ends(tmp_path):
    blow_at = kills = 0
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            watched = WatchedRun(tmp_path / str(blow_at), monkeypatch, steps=(100,))
            watched.executor.submissions = deque(["later", "later"])
            watched.write_checkpoint("stage1", 100)
            fuse = KillPoint(monkeypatch, watched.executor, blow_at)
            killed = tick_until_settled(watched, fuse)
            assert watched.list_states() == {KEY: "scored"}, fuse.effect_names
            each_was_scored_by_one_run(watched, (100,))
            assert read_journal(watched.config.paths).records == watched.journal_state.records, fuse.effect_names
            watched.daemon.close()
        if not killed:
            break
        kills, blow_at = kills + 1, blow_at + 1
    assert kills > 15


def test_a_results_folder_that_cannot_be_made_is_journaled_once_and_keeps_no_other_stage_waiting(watched):
    shut = watched.root / "shut"
    shut.write_text("a file where a folder should be")
    watched.configure(stage1={"steps": STEPS, "results": shut / "results"})
    watched.configure(stage2={"steps": (100,), "seq_len": 64, "tokenizer": "t"})
    for step in STEPS:
        watched.write_checkpoint("stage1", step)
    watched.write_checkpoint("stage2", 100)
    watched.tick_until(lambda: watched.list_states()["stage2/step_100"] == "scored", max_ticks=8)
    watched.tick(12)
    before = journal(watched)
    watched.tick(100)
    assert journal(watched) == before
    reasons = [watched.list_reasons()[f"stage1/step_{step}"] for step in STEPS]
    assert all(reason.startswith(f"cannot create {shut}/results") and ": Not a directory" in reason for reason in reasons)
    shut.unlink()
    watched.tick_until(watched.are_all_scored)
    assert Counter(evaluation for evaluation, _ in watched.executor.runs)["stage1/step_100"] == 1
