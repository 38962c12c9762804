"""`watcher logs`: the newest job's output, now and as it grows."""

import subprocess
import sys
import time

import pytest

from suites.contract.log_paths import attempt_log_paths
from support.runs.watcher_commands import make_config_folder_fixture, publish_daemon_status, run_watcher
from watcher.config.loader import load_config
from watcher.core import events
from watcher.core.evaluation import Attempt, EvaluationRecord, EvaluationState
from watcher.journal.journal import Journal

CONFIG = """
results: results
executor: local
stages:
  stage1: {checkpoints: ckpts, steps: [100], suites: [demo_stage1_ppl]}
"""
KEY = "stage1/step_100"
CREATED = {"stage": "stage1", "source": "stage1", "step": 100, "directory": "step_100", "origin": "schedule"}

config_folder = make_config_folder_fixture(CONFIG)


def journal_attempt(tasks=1, job_id="77"):
    """An evaluation with one attempt; its logs' paths."""
    attempt = Attempt(run_id="eval-stage1-100-a", number=1, fingerprint="f", suites={}, intended=time.time(), tasks=tasks)
    journal = Journal.open(load_config(None, {}).paths)
    journal.append(events.Created(evaluation=KEY, checkpoint="/c/100", **CREATED), t=time.time())
    journal.append(events.Intended(evaluation=KEY, run_id=attempt.run_id, attempt=attempt), t=time.time())
    if job_id is not None:
        submitted = {"run_id": attempt.run_id, "attempt": attempt, "job_id": job_id, "submit_time": time.time()}
        journal.append(events.Submitted(evaluation=KEY, **submitted), t=time.time())
    journal.close()
    names = [job_id] if tasks == 1 else [f"{job_id}_{task}" for task in range(tasks)]
    logs = [attempt_log_paths(load_config(None, {}).stages["stage1"].root, "stage1", 100, name) for name in names]
    logs[0].err.parent.mkdir(parents=True)
    return logs


@pytest.mark.usefixtures("config_folder")
def test_the_last_lines_without_what_a_terminal_acts_upon():
    (log,) = journal_attempt()
    log.err.write_bytes(b"one\ntwo\n 1 %\r 50 %\r100 %\n\x1b[31mred\xff\n\tend")
    log.out.write_text("")
    result = run_watcher("logs", "stage1", "100", "-n", "3")
    assert result.stdout == "100 %\n?[31mred\N{REPLACEMENT CHARACTER}\n        end\n"
    assert result.stderr == f"==> {log.err} <==\n"
    assert run_watcher("logs", "stage1", "100", "--path").stdout == f"{log.err}\n{log.out}\n"


@pytest.mark.usefixtures("config_folder")
def test_an_array_s_tasks_and_a_standard_output_with_something_in_it():
    logs = journal_attempt(tasks=2)
    logs[0].err.write_text("first\n")
    logs[1].err.write_text("second\n")
    logs[1].out.write_text("printed\n")
    result = run_watcher("logs", "stage1", "100")
    assert result.stdout == "first\nsecond\nprinted\n"
    assert result.stderr == "".join(f"==> {path} <==\n" for path in (logs[0].err, logs[1].err, logs[1].out))


@pytest.mark.parametrize(
    ("job_id", "arguments", "exit_code", "said"),
    [
        (None, ("stage1", "100"), 2, "stage1/step_100: has no job yet; it is submitting; see `watcher why stage1 100`"),
        ("77", ("stage1", "100"), 75, "not written yet: stage1/step_100 is queued; wait for the job to start, or use -f"),
        ("77", ("stage1", "200"), 2, "no evaluation of that step is known; see `watcher why stage1 200`"),
        ("77", ("stage2", "200"), 2, "no stage 'stage2'"),
    ],
)
@pytest.mark.usefixtures("config_folder")
def test_what_has_no_log_is_one_line(job_id, arguments, exit_code, said):
    journal_attempt(job_id=job_id)
    result = run_watcher("logs", *arguments, exit_code=exit_code)
    assert said in result.stderr
    assert result.stdout == ""


def test_following_goes_on_until_the_attempt_is_over(config_folder):
    (log,) = journal_attempt()
    command = [sys.executable, "-c", "from watcher.cli.app import main; main()", "logs", "stage1", "100", "-f"]
    with subprocess.Popen(command, cwd=config_folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        log.err.write_text("begins\nhal")
        assert process.stdout.readline() == "begins\n"
        with log.err.open("a") as file:
            file.write("f a line\n")
        scored = EvaluationRecord(state=EvaluationState.SCORED, since=time.time(), checkpoint="/c", **CREATED)
        publish_daemon_status(scored)
        remainder, complaints = process.stdout.read(), process.stderr.read()
    assert remainder == "half a line\n"
    assert complaints.endswith("stage1/step_100 is scored\n")
    assert process.returncode == 0
