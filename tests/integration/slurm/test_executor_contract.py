"""What the watcher relies on, the same on every Slurm: in this process, through executables, and real; much also without."""

import os
import time

import msgspec
import pytest

from watcher.core.executor import JobState, PartitionLimits, Resources, SubmitKind

SLEEP = "sleep 300"


def submitted(executor, submission):
    done = executor.submit(submission)
    assert done.kind is SubmitKind.SUBMITTED, done.message
    return executor.query_queue()[submission.name]


def test_a_submitted_job_is_held_and_found_by_name(any_lab):
    executor = any_lab.make_executor()
    submission = any_lab.make_submission(SLEEP)
    before = time.time()
    done = executor.submit(submission)
    job = executor.query_queue()[submission.name]
    assert (job.job_id, job.name, job.comment) == (done.job_id, submission.name, "watcher:4f2a")
    assert (job.state is JobState.HELD) == executor.submits_held
    assert not job.state.is_terminal
    assert before - 2 <= job.submit_time <= time.time() + 2
    assert job.end_time is None
    assert job.start_time is None or not executor.submits_held
    executor.cancel(job)


def test_a_released_job_runs_its_script_with_request_setup_and_python(any_lab):
    executor = any_lab.make_executor()
    submission = any_lab.make_submission('printf "<%s>" "$@"; echo oops >&2')
    job = submitted(executor, submission)
    executor.release(job)
    over = any_lab.wait_until(executor, submission.name, JobState.COMPLETED)
    assert over.job_id == job.job_id
    assert job.submit_time - 2 <= over.start_time <= over.end_time <= time.time() + 2
    assert (any_lab.folder / f"{submission.name}_{job.job_id}.out").read_text() == f"<{submission.request}><><python3>"
    assert (any_lab.folder / f"{submission.name}_{job.job_id}.err").read_text().splitlines().count("oops") == 1


def test_a_setup_file_is_passed_on(any_lab):
    executor = any_lab.make_executor()
    submission = any_lab.make_submission('printf "<%s>" "$@"', setup=any_lab.folder / "set up.sh")
    job = submitted(executor, submission)
    executor.release(job)
    any_lab.wait_until(executor, submission.name, JobState.COMPLETED)
    said = (any_lab.folder / f"{submission.name}_{job.job_id}.out").read_text()
    assert said == f"<{submission.request}><{any_lab.folder}/set up.sh><python3>"


def test_a_job_that_fails_is_failed_with_its_exit_code_where_it_is_known(any_lab):
    executor = any_lab.make_executor()
    submission = any_lab.make_submission("exit 65")
    job = submitted(executor, submission)
    executor.release(job)
    any_lab.wait_until(executor, submission.name, JobState.FAILED)
    if any_lab.accounting:
        any_lab.purge_job(job)
    if any_lab.accounting or not executor.submits_held:
        assert any_lab.wait_until(executor, submission.name, JobState.FAILED).exit_code == 65


def test_releasing_twice_or_after_the_end_is_fine(any_lab):
    executor = any_lab.make_executor()
    submission = any_lab.make_submission("exit 0")
    job = submitted(executor, submission)
    executor.release(job)
    executor.release(job)
    any_lab.wait_until(executor, submission.name, JobState.COMPLETED)
    executor.release(job)
    if executor.submits_held:
        assert executor.calls["scontrol"] == 3


def test_a_job_cancelled_while_held_never_runs_and_may_be_released_and_cancelled_again(lab):
    executor = lab.make_executor()
    submission = lab.make_submission(f"touch {lab.folder}/ran")
    job = submitted(executor, submission)
    executor.cancel(job)
    executor.release(job)
    executor.cancel(job)
    lab.wait_until(executor, submission.name, JobState.CANCELLED)
    assert not (lab.folder / "ran").exists()


def test_a_running_job_that_is_cancelled_ends_and_accounting_says_by_whom(any_lab):
    executor = any_lab.make_executor()
    submission = any_lab.make_submission(f"trap '' INT; {SLEEP} & wait")
    job = submitted(executor, submission)
    executor.release(job)
    any_lab.wait_until(executor, submission.name, JobState.RUNNING)
    executor.cancel(job)
    any_lab.wait_until(executor, submission.name, JobState.CANCELLED)
    if any_lab.accounting:
        any_lab.purge_job(job)
        assert any_lab.wait_until(executor, submission.name, JobState.CANCELLED).reason.startswith("by ")


def test_cancelling_an_unknown_job_is_fine(lab):
    executor = lab.make_executor()
    submission = lab.make_submission(SLEEP)
    job = submitted(executor, submission)
    executor.cancel(msgspec.structs.replace(job, job_id="999999"))
    assert executor.query_queue()[submission.name].state is JobState.HELD
    executor.cancel(job)


def test_a_reused_id_does_not_cost_another_job_its_life(any_lab):
    executor = any_lab.make_executor()
    submission = any_lab.make_submission(SLEEP)
    job = submitted(executor, submission)
    executor.cancel(msgspec.structs.replace(job, name="eval-stage1-2000-older"))
    assert not executor.query_queue()[submission.name].state.is_terminal
    executor.cancel(job)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Resources(gres=None, partition="nosuch"), "Invalid partition name specified"),
        (Resources(gres=None, time="10:00:00", partition="short"), "Requested time limit is invalid"),
        (Resources(gres="tpu:1"), "Invalid generic resource (gres) specification"),
    ],
    ids=["partition", "time", "gres"],
)
def test_a_named_refusal_is_refused_in_slurms_words_and_leaves_no_job(lab, wanted, words):
    executor = lab.make_executor()
    submission = lab.make_submission("exit 0", resources=wanted)
    done = executor.submit(submission)
    assert (done.kind, done.job_id) == (SubmitKind.REFUSED, None)
    assert words in done.message
    assert submission.name not in executor.query_queue()
    assert not executor.query_accounting([submission.name], time.time() - 60)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Resources(gres=None, account="nosuch"), "Invalid account or account/partition combination specified"),
        (Resources(gres=None, qos="nosuch"), "Invalid qos specification"),
    ],
    ids=["account", "qos"],
)
def test_where_there_is_accounting_account_and_qos_are_checked(lab, wanted, words):
    executor = lab.make_executor()
    submission = lab.make_submission("exit 0", resources=wanted)
    done = executor.submit(submission)
    if lab.accounting:
        assert done.kind is SubmitKind.REFUSED
        assert words in done.message
    else:
        assert done.kind is SubmitKind.SUBMITTED
        executor.cancel(executor.query_queue()[submission.name])


def test_impossible_resources_are_seen_after_the_release_as_a_job_that_is_stuck(lab):
    executor = lab.make_executor()
    job = submitted(executor, lab.make_submission("exit 0", resources=Resources(gres="gpu:99")))
    assert not job.stuck
    executor.release(job)
    end = time.monotonic() + 60
    while not (job := executor.query_queue()[job.name]).stuck:
        assert time.monotonic() < end, job
        time.sleep(0.1)
    assert (job.state, job.reason) == (JobState.PENDING, "BadConstraints")
    executor.cancel(job)


def test_a_missing_script_is_refused(lab):
    done = lab.make_executor().submit(lab.make_submission("exit 0", script=lab.folder / "nosuch.sbatch"))
    assert done.kind is SubmitKind.REFUSED
    assert "Unable to open file" in done.message


def test_a_partition_that_is_closed_for_now_means_later(lab):
    done = lab.make_executor().submit(lab.make_submission("exit 0", resources=Resources(gres=None, partition="closed")))
    assert done.kind is SubmitKind.LATER
    assert "inactive" in done.message


def test_a_submit_limit_means_later(lab):
    if not lab.accounting:
        pytest.skip("limits need accounting")
    executor = lab.make_executor()
    few = Resources(gres=None, cpus_per_task=1, mem="100", qos="few")
    jobs = [submitted(executor, lab.make_submission(SLEEP, resources=few)) for _ in range(2)]
    submission = lab.make_submission(SLEEP, resources=few)
    done = executor.submit(submission)
    assert done.kind is SubmitKind.LATER
    assert "QOSMaxSubmitJobPerUserLimit" in done.message
    assert submission.name not in executor.query_queue()
    for job in jobs:
        executor.cancel(job)


def test_an_answer_that_is_lost_leaves_exactly_one_held_job_to_be_found_by_name(lab):
    executor = lab.make_executor()
    submission = lab.make_submission(SLEEP)
    with lab.lose_responses():
        done = executor.submit(submission)
    assert (done.kind, done.job_id) == (SubmitKind.AMBIGUOUS, None)
    assert "Socket timed out" in done.message
    job = lab.wait_until(executor, submission.name, JobState.HELD)
    assert executor.calls["sbatch"] == 1
    executor.cancel(job)


def test_a_job_that_waits_for_another_runs_after_its_success(lab):
    executor = lab.make_executor()
    first = submitted(executor, lab.make_submission("exit 0"))
    second = submitted(executor, lab.make_submission("exit 0", after=first.job_id))
    executor.release(second)
    assert executor.query_queue()[second.name].state is JobState.PENDING
    executor.release(first)
    lab.wait_until(executor, second.name, JobState.COMPLETED)


def test_a_job_that_waits_for_another_is_cancelled_by_its_failure(lab):
    executor = lab.make_executor()
    first = submitted(executor, lab.make_submission("exit 1"))
    second = submitted(executor, lab.make_submission(f"touch {lab.folder}/second", after=first.job_id))
    executor.release(second)
    executor.release(first)
    lab.wait_until(executor, second.name, JobState.CANCELLED)
    assert not (lab.folder / "second").exists()


def test_a_requeued_job_keeps_id_and_name_and_is_told_its_restart(lab):
    executor = lab.make_executor()
    runs = lab.folder / f"runs-{time.monotonic_ns()}"
    submission = lab.make_submission(
        f'echo "${{SLURM_RESTART_COUNT:-0}}" >>{runs}; [ -n "${{SLURM_RESTART_COUNT:-}}" ] || {SLEEP}'
    )
    job = submitted(executor, submission)
    executor.release(job)
    lab.wait_until(executor, submission.name, JobState.RUNNING)
    _written(runs, "0\n")
    lab.requeue_job(job)
    over = lab.wait_until(executor, submission.name, JobState.COMPLETED)
    assert over.job_id == job.job_id
    assert runs.read_text() == "0\n1\n"
    if lab.accounting:
        lab.purge_job(job)
        assert lab.wait_until(executor, submission.name, JobState.COMPLETED).restarts == 1


def _written(path, text):
    end = time.monotonic() + 60
    while not path.exists() or path.read_text() != text:
        assert time.monotonic() < end, f"{path} is not written"
        time.sleep(0.05)


def test_a_job_that_left_the_queue_is_found_in_history_and_a_held_one_is_not(lab):
    if not lab.accounting:
        pytest.skip("nothing remembers it but its exit record")
    executor = lab.make_executor()
    job, held = (submitted(executor, lab.make_submission("exit 0")) for _ in range(2))
    executor.release(job)
    lab.wait_until(executor, job.name, JobState.COMPLETED)
    lab.purge_job(job)
    names = [job.name, held.name, "eval-stage1-2000-nosuch"]
    found = executor.query_accounting(names, time.time() - 60)
    assert found.keys() == {job.name}
    assert (found[job.name].job_id, found[job.name].exit_code) == (job.job_id, 0)
    executor.cancel(held)


def test_without_accounting_history_is_none_and_is_not_asked_again(lab):
    executor = lab.make_executor()
    answers = [executor.query_accounting(["eval-stage1-2000-nosuch"], time.time()) for _ in range(3)]
    assert answers == ([{}] * 3 if lab.accounting else [None] * 3)
    assert executor.calls["sacct"] == (3 if lab.accounting else 1)


def test_the_settings_of_a_surrounding_job_reach_no_command(lab):
    polluted = {"SBATCH_PARTITION": "nosuch", "SQUEUE_FORMAT": "x", "SLURM_CLUSTERS": "other", "SQUEUE_STATES": "FAILED"}
    executor = lab.make_executor()
    executor._environment = dict(executor._environment or os.environ) | polluted
    job = submitted(executor, lab.make_submission(SLEEP))
    assert job.state is JobState.HELD
    executor.cancel(job)


def test_a_partitions_limits_are_told_in_one_question_an_hour(lab):
    executor = lab.make_executor()
    assert executor.query_partition_limits("short") == PartitionLimits(
        time_seconds=14400.0, memory_mib=4000, source="partition short"
    )
    assert executor.query_partition_limits("short") == executor.query_partition_limits("short")
    assert executor.query_partition_limits(None) == PartitionLimits(
        time_seconds=14400.0, memory_mib=4000, source="partition short"
    )
    assert executor.query_partition_limits("nosuch") == PartitionLimits()
    assert executor.calls["sinfo"] == 3
