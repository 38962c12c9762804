"""How often, how long and in what environment Slurm is asked; and what is said when it does not answer."""

import os
import time

import pytest

from support.executors.harness import FakeSlurmHarness
from support.fakes.slurm import FakeSlurm, SbatchRequest
from support.fakes.slurm_commands import run_fake_command
from support.slurm_cluster.processes import read_start_ticks, wait_for
from watcher.core.executor import ExecutorUnreachable, JobState, Resources, SubmitKind
from watcher.executors.slurm import SlurmExecutor
from watcher.executors.slurm_commands import CommandResult, clean_environment, run_command


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def lab(tmp_path):
    return FakeSlurmHarness(tmp_path)


def test_what_is_sent_to_sbatch(lab):
    wanted = Resources(
        account="lab", partition="short", qos="normal", time="01:00:00", mem="4G", extra=("--nice=10", "--job-name=mine")
    )
    submission = lab.make_submission("exit 0", resources=wanted, after="12")
    lab.make_executor().submit(submission)
    command = lab.fake.calls()[0]["command"]
    assert command == [
        "sbatch",
        "--account=lab",
        "--partition=short",
        "--qos=normal",
        "--gres=gpu:1",
        "--cpus-per-task=8",
        "--time=01:00:00",
        "--mem=4G",
        "--nice=10",
        "--job-name=mine",
        "--hold",
        "--parsable",
        "--requeue",
        "--open-mode=append",
        "--signal=B:USR1@120",
        f"--job-name={submission.name}",
        "--comment=watcher:4f2a",
        f"--output={submission.stdout}",
        f"--error={submission.stderr}",
        "--dependency=afterok:12",
        "--kill-on-invalid-dep=yes",
        str(submission.script),
        str(submission.request),
        "",
        "python3",
    ]


def test_an_option_that_would_make_several_jobs_is_refused_before_anything_is_sent(lab):
    executor = lab.make_executor()
    done = executor.submit(lab.make_submission("exit 0", resources=Resources(extra=("--array=1-3",))))
    assert done.kind is SubmitKind.REFUSED
    assert "--array=1-3" in done.message
    assert executor.calls == {}


def test_the_environment_is_cleaned():
    dirty = {"SLURM_CONF": "/c", "SLURM_JOB_ID": "1", "SBATCH_ACCOUNT": "x", "SQUEUE_FORMAT": "x", "SACCT_FORMAT": "x"}
    dirty |= {"SCANCEL_USER": "x", "SLURM_JWT": "t", "PATH": "/bin", "LC_ALL": "it_IT.UTF-8", "MUNGE_SOCKET": "/m"}
    assert clean_environment(dirty) == {
        "SLURM_CONF": "/c",
        "SLURM_JWT": "t",
        "PATH": "/bin",
        "LC_ALL": "C",
        "MUNGE_SOCKET": "/m",
    }


def test_the_time_format_of_our_questions_reaches_no_job(lab):
    executor = lab.make_executor()
    executor.submit(lab.make_submission("exit 0"))
    executor.query_queue()
    formats = {call["command"][0]: call["environment"].get("SLURM_TIME_FORMAT") for call in lab.fake.calls()}
    assert formats == {"sbatch": None, "squeue": "%s"}


def test_a_hung_command_is_killed_with_its_children(tmp_path):
    marker = tmp_path / "pid"
    began = time.monotonic()
    ran = run_command(["bash", "-c", f"echo early; sleep 600 & echo $! >{marker}; wait"], os.environ, 2.0)
    assert time.monotonic() - began < 60
    assert (ran.exit_code, ran.stdout) == (None, "early\n")
    assert wait_for(lambda: read_start_ticks(int(marker.read_text())) is None, 60)


def test_a_command_that_is_not_there_is_an_os_error():
    with pytest.raises(FileNotFoundError):
        run_command(["sbatch"], {"PATH": "/nonexistent"}, 5)


def test_without_slurm_on_path_nothing_was_sent(lab):
    executor = lab.make_executor(run=run_command, environment={"PATH": "/nonexistent"})
    done = executor.submit(lab.make_submission("exit 0"))
    assert done.kind is SubmitKind.LATER
    with pytest.raises(ExecutorUnreachable, match="squeue cannot be run: No such file"):
        executor.query_queue()
    assert executor.query_accounting(["eval-1"], time.time()) is None


@pytest.mark.parametrize("how", ["hang", "socket", "garbage", "silent", "down", "munge"])
def test_any_trouble_with_sbatch_is_ambiguous_and_is_not_tried_again(lab, how):
    lab.fake.add_fault("sbatch", how)
    executor = lab.make_executor()
    submission = lab.make_submission("exit 0")
    done = executor.submit(submission)
    assert (done.kind, executor.calls["sbatch"]) == (SubmitKind.AMBIGUOUS, 1)
    assert (submission.name in executor.query_queue()) == (how in {"hang", "socket", "garbage"})


@pytest.mark.parametrize("how", ["down", "munge", "silent"])
@pytest.mark.parametrize("command", ["squeue", "sacct", "scontrol", "scancel"])
def test_trouble_with_any_other_command_is_unreachable_in_slurms_words(lab, how, command):
    executor = lab.make_executor()
    submission = lab.make_submission("exit 0")
    executor.submit(submission)
    job = executor.query_queue()[submission.name]
    ask = {
        "squeue": executor.query_queue,
        "sacct": lambda: executor.query_accounting([job.name], time.time()),
        "scontrol": lambda: executor.release(job),
        "scancel": lambda: executor.cancel(job),
    }[command]
    lab.fake.add_fault(command, how)
    words = {"down": "connect|Connection", "munge": "Did you start munged", "silent": "no answer in"}[how]
    with pytest.raises(ExecutorUnreachable, match=words) as caught:
        ask()
    assert str(caught.value).startswith(f"{command}: ")
    ask()


@pytest.mark.parametrize(
    "answer",
    [
        CommandResult(0, "", "squeue: error: Invalid user: x\n"),
        CommandResult(1, "", ""),
    ],
)
def test_an_empty_queue_is_believed_only_without_an_error(answer):
    executor = SlurmExecutor(run=lambda *_: answer)
    with pytest.raises(ExecutorUnreachable, match="squeue: "):
        executor.query_queue()


@pytest.mark.parametrize("banner", ["", "CLUSTER: lab\n", "Maintenance on Monday\n"])
def test_an_empty_queue_is_empty(banner):
    assert SlurmExecutor(run=lambda *_: CommandResult(0, banner, "")).query_queue() == {}


def test_accounting_that_came_is_seen_within_the_hour(lab):
    clock = Clock()
    executor = lab.make_executor(clock=clock)
    with lab.fake.state() as state:
        state["accounting"] = False
    assert executor.query_accounting(["eval-1"], 0) is None
    with lab.fake.state() as state:
        state["accounting"] = True
    assert executor.query_accounting(["eval-1"], 0) is None
    clock.now += 3601
    assert executor.query_accounting(["eval-1"], 0) == {}


def test_nobody_is_asked_about_nothing(lab):
    executor = lab.make_executor()
    assert executor.query_accounting([], 0) == {}
    assert executor.calls == {}


def test_a_poll_always_fits_whatever_else_is_to_be_done(lab):
    clock = Clock()
    executor = lab.make_executor(per_minute=10, poll_seconds=60, clock=clock)
    lab.fake.hold_scheduling()
    spent = []
    for _ in range(10):
        before = sum(executor.calls.values())
        executor.query_queue()
        executor.query_accounting(["eval-1"], 0)
        while executor.submissions_left:
            submission = lab.make_submission("exit 0")
            assert executor.submit(submission).kind is SubmitKind.SUBMITTED
            executor.release(lab.find_fake_job(submission.name))
        late = executor.submit(lab.make_submission("exit 0"))
        assert late.kind is SubmitKind.LATER
        assert "limits.slurm_calls_per_minute" in late.message
        spent.append(sum(executor.calls.values()) - before)
        clock.now += 60
    assert spent == [10] * 10


def test_in_no_minute_are_there_more_commands_than_allowed(lab):
    clock = Clock()
    executor = lab.make_executor(per_minute=12, poll_seconds=13, clock=clock)
    lab.fake.hold_scheduling()
    times = []
    real = executor._run
    executor._run = lambda *given: times.append(clock.now) or real(*given)
    for second in range(300):
        clock.now = 1000.0 + second
        if second % 13 == 0:
            executor.query_queue()
        if executor.submissions_left:
            executor.submit(lab.make_submission("exit 0"))
    windows = [sum(start < at <= start + 60 for at in times) for start in times]
    assert max(windows) <= 12


def test_deeds_over_the_limit_are_put_off(lab):
    executor = lab.make_executor(per_minute=4, clock=Clock())
    submission = lab.make_submission("exit 0")
    executor.submit(submission)
    job = executor.query_queue()[submission.name]
    executor.release(job)
    with pytest.raises(ExecutorUnreachable, match="rate limit"):
        executor.cancel(job)
    assert executor.query_queue()[submission.name].state is not JobState.CANCELLED


def test_a_new_rate_counts_the_commands_of_the_last_minute(lab):
    clock = Clock()
    executor = lab.make_executor(per_minute=6, poll_seconds=60, clock=clock)
    for _ in range(2):
        executor.query_queue()
    executor.set_command_rate(100, 1)
    assert executor.submissions_left == (100 - 61) // 2
    executor.set_command_rate(4, 60)
    assert executor.submissions_left == 1
    clock.now += 60
    executor.set_command_rate(100, 60)
    assert executor.submissions_left == 49


@pytest.mark.parametrize("jobs", [0, 20, 500])
def test_a_look_at_the_queue_is_one_command_whatever_is_in_it(tmp_path, jobs):
    fake = FakeSlurm(tmp_path / "slurm")
    script = tmp_path / "job"
    script.write_text("exit 0\n")
    with fake.state() as state:
        for number in range(jobs):
            fake.add_job(state, SbatchRequest({"hold": "", "job-name": f"eval-stage1-{number}-0"}, [str(script)], {}))
    executor = SlurmExecutor(run=lambda command, environment, _: CommandResult(*run_fake_command(fake, command, environment)))
    assert len(executor.query_queue()) == jobs
    executor.query_accounting([f"eval-stage1-{number}-0" for number in range(jobs)] or ["none"], 0)
    assert executor.calls == {"squeue": 1, "sacct": 1}


def test_so_many_names_that_no_argument_holds_them_are_still_one_question(lab):
    executor = lab.make_executor()
    names = [f"eval-stage1-{number}-00000000-and-a-name-that-is-rather-long" for number in range(3000)]
    seen = []
    executor._run = lambda command, *_: seen.append(command) or CommandResult(0, "", "")
    assert executor.query_accounting(names, 0) == {}
    assert max(map(len, seen[0])) < 1000


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("squeue: error: Unable to contact slurm controller\n", "squeue: error: Unable to contact slurm controller"),
        ("slurm_load_jobs error: Unable to contact\n", "squeue: slurm_load_jobs error: Unable to contact"),
        ("", "squeue: exit code 1 without output"),
    ],
)
def test_a_failure_names_its_command_once(stderr, said):
    executor = SlurmExecutor(environment={}, run=lambda *_: CommandResult(1, "", stderr))
    with pytest.raises(ExecutorUnreachable) as caught:
        executor.query_queue()
    assert str(caught.value) == said
