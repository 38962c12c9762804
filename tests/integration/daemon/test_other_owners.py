"""Attempts of another user, cluster, executor or machine: waited for, never taken for vanished, given up by a person only."""

import json
import os
import shutil
from collections import deque

import msgspec
import pytest

from suites.contract.encoding import encode_json
from suites.contract.exit_record import ExitRecord
from suites.contract.scoring_request import read_scoring_request
from support.fakes.executor import FakeExecutor
from support.runs.watched_run import make_watched_fixture
from watcher.simulate.jobs import publish_scores

watched = make_watched_fixture(checkpoints=(100,), steps=(100,))

KEY = "stage1/step_100"
OTHERS = {
    "user": {"uid": 1002, "user": "bob"},
    "cluster": {"cluster": "other"},
    "executor": {"executor": "local", "cluster": ""},
    "cluster unknown for now": {"cluster": ""},
}
HOURS = 200
"""Ticks of a minute that are more than every wait."""


def submit_first(watched, *, how):
    """The first owner's job is in its queue, or runs for ever; its watcher ends."""
    watched.executor.endings[KEY] = deque(["hang"])
    watched.tick(jobs=False)
    if how == "running":
        watched.executor.advance_jobs()
        watched.tick(jobs=False)
    return watched.run_ids()


def change_watcher(watched, **fields):
    """The next watcher is another owner's: its queue lists none of the first one's jobs."""
    watched.close_daemon()
    first = watched.executor
    watched.executor = FakeExecutor(watched.clock, holds=fields.get("executor") != "local")
    watched.executor.owner = msgspec.structs.replace(first.owner, **fields)
    return first


def write_exit_record(watched, run_id, code, **fields):
    now = watched.clock()
    record = ExitRecord(run_id=run_id, owner="slurm:101", host="node1", restart=0, start=now, end=now, code=code, **fields)
    (watched.config.paths.attempt(run_id).folder / "exit.0.json").write_bytes(encode_json(record))


def touch_file(watched, name, document, *, age=0.0):
    """A file in the results folder, written ``age`` seconds ago."""
    path = watched.get_evaluation_paths(KEY).folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    os.utime(path, (watched.clock() - age,) * 2)


def read_status(watched):
    return json.loads(watched.config.paths.status_json.read_text())


def publish(watched, run_id):
    publish_scores(read_scoring_request(watched.config.paths.attempt(run_id).request))


@pytest.mark.parametrize("how", ["pending", "running"])
@pytest.mark.parametrize("other", OTHERS)
def test_what_another_owner_submitted_is_waited_for_and_named(watched, other, how):
    run_ids = submit_first(watched, how=how)
    change_watcher(watched, **OTHERS[other])
    watched.tick(HOURS)
    assert watched.run_ids() == run_ids
    assert watched.executor.calls["submit"] == watched.executor.calls["history"] == 0
    assert watched.list_states()[KEY] in {"queued", "running"}
    reason = watched.list_reasons()[KEY]
    assert "job 101 of ada (uid 1001) on cluster lab cannot be seen here: " in reason
    assert "watcher retry --force" in reason
    # It stays so for hours, and then a person is told once.
    assert {alert.event for alert in watched.daemon.tick_runner.alerts} <= {"waiting"}
    assert any("cannot be seen here" in warning for warning in read_status(watched)["warnings"])


def test_an_owner_who_comes_back_goes_on_where_it_was(watched):
    (run_id,) = submit_first(watched, how="pending")
    first = change_watcher(watched, **OTHERS["user"])
    watched.tick(20)
    watched.close_daemon()
    watched.executor, first.endings[KEY] = first, deque([0])
    watched.tick_until(watched.are_all_scored)
    assert [run for _, run in first.runs] == [run_id]


@pytest.mark.parametrize("other", OTHERS)
def test_another_owners_results_are_scored_once_its_job_has_ended(watched, other):
    (run_id,) = submit_first(watched, how="running")
    change_watcher(watched, **OTHERS[other])
    publish(watched, run_id)
    touch_file(watched, "progress.json", {"run_id": run_id})
    watched.tick(jobs=False)
    assert watched.list_states()[KEY] == "running"  # it may publish again
    write_exit_record(watched, run_id, 0)
    watched.tick(jobs=False)
    assert watched.list_states()[KEY] == "scored"


@pytest.mark.parametrize(
    ("code", "signal", "retried"),
    [(70, None, True), (75, None, False), (143, "TERM", False)],
    ids=["a failure", "temporary: requeued perhaps", "preempted: requeued perhaps"],
)
def test_another_owners_exit_record_counts_where_no_requeue_can_follow(watched, code, signal, retried):
    (run_id,) = submit_first(watched, how="running")
    change_watcher(watched, **OTHERS["cluster"])
    write_exit_record(watched, run_id, code, signal=signal)
    watched.tick(HOURS, jobs=False)
    assert (len(watched.run_ids()) > 1) == retried


def test_a_lost_submission_of_another_owner_is_not_abandoned_and_is_found_by_its_claim(watched):
    watched.executor.submissions.append("lost_reply")
    watched.tick(jobs=False)
    assert watched.list_states()[KEY] == "submitting"
    (run_id,) = watched.run_ids()
    change_watcher(watched, **OTHERS["user"])
    watched.tick(HOURS)
    assert watched.list_states()[KEY] == "submitting"
    assert "its job of ada (uid 1001) on cluster lab cannot be seen here" in watched.list_reasons()[KEY]
    watched.config.paths.attempt(run_id).claim.write_text("slurm:101\n")
    watched.tick()
    assert watched.list_states()[KEY] == "queued"
    assert watched.run_ids() == [run_id]


def test_what_the_queue_lists_it_knows_whoever_submitted_it(watched):
    """A cluster that was renamed, or a federation, lists jobs of another cluster's name."""
    submit_first(watched, how="pending")
    watched.executor.endings[KEY] = deque([0])
    watched.close_daemon()
    watched.executor.owner = msgspec.structs.replace(watched.executor.owner, cluster="renamed")
    watched.tick_until(watched.are_all_scored)
    assert len(watched.run_ids()) == 1


def test_retry_force_gives_such_an_attempt_up_by_a_persons_word(watched):
    (run_id,) = submit_first(watched, how="running")
    change_watcher(watched, **OTHERS["user"])
    watched.tick()
    watched.write_request("retry", 100, by="carol@login02")
    watched.tick(jobs=False)
    assert watched.run_ids() == [run_id]  # without --force it stays
    watched.write_request("retry", 100, force=True, by="carol@login02")
    watched.tick_until(watched.are_all_scored)
    assert len(watched.run_ids()) == 2
    given_up = next(reason for _, _, reason in watched.journal_state.records[KEY].history if "retry --force" in reason)
    assert "by carol@login02: job 101 of ada (uid 1001) on cluster lab cannot be seen here" in given_up
    # Should its job be listed once more, it is cancelled.
    assert run_id in watched.journal_state.abandoned


def test_retry_force_does_not_touch_a_job_that_the_queue_lists(watched):
    run_ids = submit_first(watched, how="running")
    request = watched.write_request("retry", 100, force=True)
    watched.tick(jobs=False)
    assert watched.journal_state.closed_requests[request.id] == f"{KEY}: already running"
    assert watched.run_ids() == run_ids


def test_another_owners_job_is_not_cancelled_from_here(watched):
    run_ids = submit_first(watched, how="running")
    change_watcher(watched, **OTHERS["cluster"])
    watched.tick()
    request = watched.write_request("cancel", 100)
    watched.tick(5)
    assert "not cancelled: job 101 of ada" in watched.journal_state.closed_requests[request.id]
    assert watched.list_states()[KEY] == "running"
    assert watched.run_ids() == run_ids


@pytest.mark.parametrize("name", ["progress.json", "fence.json", "parts/web.0123.lease"])
def test_a_run_that_shows_life_is_not_given_up_though_slurm_forgot_its_job(watched, name):
    (run_id,) = submit_first(watched, how="running")
    watched.executor.jobs.clear()
    for _ in range(30):
        touch_file(watched, "fence.json", {"run_id": run_id}, age=0.0 if name == "fence.json" else 9999.0)
        touch_file(watched, name, {"run_id": run_id})
        watched.tick()
    assert watched.run_ids() == [run_id]
    assert "sign of life" in watched.list_reasons()[KEY]
    watched.tick(HOURS)
    assert len(watched.run_ids()) > 1  # it is dead now


@pytest.mark.parametrize("name", ["progress.json", "fence.json", "parts/web.0123.lease"])
def test_a_deleted_state_folder_does_not_double_a_job_that_runs(watched, name):
    (run_id,) = submit_first(watched, how="running")
    watched.close_daemon()
    shutil.rmtree(watched.config.paths.state)
    executor = watched.executor
    watched.executor = FakeExecutor(watched.clock)
    owner = msgspec.to_builtins(executor.owner)
    for _ in range(30):
        touch_file(watched, "fence.json", {"run_id": run_id, "owner": owner, "job_id": "101", "host": "node7"}, age=9999.0)
        touch_file(watched, name, {"run_id": run_id, "owner": owner, "job_id": "101", "host": "node7"})
        watched.tick()
    assert watched.executor.calls["submit"] == 0
    reason = watched.list_reasons()[KEY]
    assert f"run {run_id} (job 101) of ada (uid 1001) on cluster lab, host node7 works on these results" in reason
    # Its end leaves valid results, or nothing that is fresh: then it is scored.
    watched.tick_until(watched.are_all_scored)
    assert watched.executor.calls["submit"] == 1


def test_a_cancelled_job_that_still_runs_elsewhere_is_not_doubled_by_a_retry(watched):
    """Its own watcher died between the cancel's event and scancel."""
    (run_id,) = submit_first(watched, how="running")
    watched.executor.unreachable = "scancel does not get through"
    watched.write_request("cancel", 100)
    watched.tick(jobs=False)
    assert watched.list_states()[KEY] == "cancelled"
    change_watcher(watched, **OTHERS["user"])
    watched.tick()
    watched.write_request("retry", 100)
    for _ in range(10):
        touch_file(watched, "fence.json", {"run_id": run_id})
        watched.tick()
    assert watched.executor.calls["submit"] == 0
    assert f"run {run_id} works on these results" in watched.list_reasons()[KEY]
    watched.tick_until(watched.are_all_scored)
    assert watched.executor.calls["submit"] == 1


def test_a_prefill_of_another_owner_is_waited_for_until_the_cache_is_complete(watched):
    watched.config = msgspec.structs.replace(watched.config, prefill={**watched.config.prefill, "auto": True, "where": "job"})
    suite = watched.root / "slices.yaml"
    suite.write_text("tier: tier2_ppl\nslices:\n  web: {hf_dataset: some/web, target_tokens: 1000}\n")
    watched.tick(3, jobs=False)
    (prefill,) = watched.journal_state.prefills.values()
    assert prefill.attempt is not None
    change_watcher(watched, **OTHERS["user"])
    watched.tick(HOURS)
    assert watched.executor.calls["submit"] == 0
    reason = watched.list_reasons()[prefill.key]
    assert "of ada (uid 1001) on cluster lab cannot be seen here" in reason
    assert "run watcher prefill stage1" in reason
