"""Why a job did not score is said in its own words: from what it left beside its claim, run.json, or the end of its log."""

import json
from collections import deque
from pathlib import Path

import pytest

from suites.contract.encoding import encode_json
from suites.contract.exit_record import ExitRecord
from suites.contract.log_paths import attempt_log_paths, prefill_log_paths
from suites.contract.paths import AttemptPaths, EvaluationPaths, StatePaths
from suites.contract.scoring_request import read_scoring_request
from support.runs.watched_run import make_watched_fixture
from watcher.core.evaluation import PREFILL_DIRECTORY, Attempt
from watcher.core.executor import JobState
from watcher.observe.attempts import add_failure_details, read_attempt_files
from watcher.observe.job_logs import MAX_LINE_CHARACTERS, read_log_ending

KEY = "stage1/step_100"
FULL = "/results/stage1/by_checkpoint/step_100: results cannot be written there: No space left on device; make room"
RUN = "score.sbatch: eval-stage1-100-0a1b2c3d"
BEGAN = f"{RUN}, restart 0, is run by slurm:7 on node1: python3 -m scoring score /s/request.json"


watched = make_watched_fixture(steps=(100,))


@pytest.mark.parametrize(
    ("lines", "code", "words"),
    [
        ([BEGAN, "12:00 [info] part", f"scoring: {FULL}", f"{RUN} ended with 75"], 75, FULL),
        ([BEGAN, f"scoring: {FULL}", f"{RUN} ended with 75 (SIGUSR1)"], 75, FULL),
        ([BEGAN, f"scoring: {FULL}", "score.sbatch: /a: the exit record cannot be written", f"{RUN} ended with 75"], 75, FULL),
        (
            [BEGAN, "score.sbatch: /x/setup.sh: cannot be read; it holds", f"{RUN} ended with 69"],
            69,
            "/x/setup.sh: cannot be read; it holds",
        ),
        (
            [
                BEGAN,
                "score.sbatch: /x/setup.sh: its last command failed with 1; going on",
                f"scoring: {FULL}",
                f"{RUN} ended with 75",
            ],
            75,
            FULL,
        ),
        (
            [BEGAN, "Traceback (most recent call last):", "  File", "KeyError: 'web'", f"{RUN} ended with 70"],
            70,
            "last line of its log: KeyError: 'web'",
        ),
        (
            [BEGAN, "/usr/bin/python3: No module named scoring", f"{RUN} ended with 1"],
            1,
            "last line of its log: /usr/bin/python3: No module named scoring",
        ),
        (
            ["score.sbatch: /w: cannot be written; the claim belongs there"],
            None,
            "/w: cannot be written; the claim belongs there",
        ),
        ([BEGAN, f"scoring: {FULL}", f"{RUN} ended with 75", BEGAN, "12:00 [info] part"], None, ""),
        ([BEGAN, "12:00 [info] part", "12:01 [info] part"], None, ""),
        ([], None, ""),
    ],
)
def test_the_end_of_a_log(tmp_path, lines, code, words):
    log = tmp_path / "log.err"
    log.write_text("".join(f"{line}\n" for line in lines))
    found = read_log_ending(log)
    assert (found.exit_code, found.reason, found.out_of_memory_line) == (code, words, "")


def test_a_log_that_is_not_there_is_huge_or_is_no_text_says_nothing_wrong(tmp_path):
    log = tmp_path / "log.err"
    assert read_log_ending(log) == read_log_ending(tmp_path) == read_log_ending(log.with_name("none"))
    log.write_bytes(b"\xff\x00" * 100_000 + f"\nscoring: {'x' * 9999}\n{RUN} ended with 75\n".encode())
    found = read_log_ending(log)
    assert found.exit_code == 75
    assert set(found.reason) == {"x"}
    assert len(found.reason) < MAX_LINE_CHARACTERS


def fail(watched, code, *, run_json=None, log=(), why=None, record=True):
    """One run of the evaluation ends with ``code``, and leaves what is given."""
    watched.write_checkpoint("stage1", 100)
    watched.tick()
    (job,) = watched.executor.live()
    request, place = read_scoring_request(job.request), AttemptPaths(job.request.parent)
    if run_json is not None:
        request.paths.run_json.parent.mkdir(parents=True, exist_ok=True)
        request.paths.run_json.write_text(json.dumps({"run_id": request.run_id, **run_json}))
    err = attempt_log_paths(Path(request.results), "stage1", 100, job.job_id)[1]
    err.write_text("".join(f"{line}\n" for line in log))
    if why is not None:
        place.failure_reason_json(None).write_text(json.dumps({"run_id": request.run_id, "code": code, "reason": why}))
    watched.executor.endings[KEY] = deque()
    job.state = JobState.FAILED
    if record:
        about = {"run_id": request.run_id, "owner": "slurm:1", "host": "node1", "start": 1.0, "end": 2.0}
        (place.folder / "exit.0.json").write_bytes(encode_json(ExitRecord(**about, restart=0, code=code)))
    watched.tick(jobs=False)
    if not record:
        watched.tick(jobs=False)  # an exit record may come late
    (row,) = json.loads(watched.config.paths.status_json.read_text())["stages"]["stage1"]["evaluations"]
    text = " ".join(watched.config.paths.status_text.read_text().split())
    return row, text


@pytest.mark.parametrize(
    ("code", "state"),
    [(65, "blocked"), (66, "waiting"), (69, "blocked"), (70, "failed"), (73, "blocked"), (75, "waiting"), (1, "failed")],
)
@pytest.mark.parametrize("channel", ["run_json", "log", "why"])
def test_the_reason_comes_first_and_the_exit_code_second(watched, code, state, channel):
    said = {
        "run_json": {"reason": FULL, "code": code},
        "log": [BEGAN, f"scoring: {FULL}", f"{RUN} ended with {code}"],
        "why": FULL,
    }
    row, text = fail(watched, code, **{channel: said[channel]})
    assert row["state"] == state
    assert row["reason"].removeprefix("prefill: ").startswith(f"{FULL} (exit {code})")
    assert "No space left on device" in text


def test_words_of_another_code_are_another_tasks_and_are_not_given(watched):
    row, _ = fail(watched, 75, run_json={"reason": "the checkpoint is no Llama", "code": 65})
    assert row["reason"] == "the job could not continue and asks to run again (exit 75)"


def test_a_job_without_room_for_its_exit_record_is_tried_again_free_by_the_word_of_its_log(watched):
    row, _ = fail(watched, 75, log=[BEGAN, f"scoring: {FULL}", f"{RUN} ended with 75"], record=False)
    assert (row["state"], row["failures"]) == ("waiting", {"temporary": 1})
    assert row["reason"] == f"{FULL} (exit 75, according to its log; no exit record)"


def test_a_job_that_failed_before_its_claim_says_why(watched):
    row, _ = fail(watched, 73, log=["score.sbatch: /state/attempts/x: cannot be written; the claim belongs there"], record=False)
    assert row["state"] == "failed"
    assert row["reason"].startswith("/state/attempts/x: cannot be written; the claim belongs there; job 101 is FAILED")


def test_a_prefills_words_are_looked_for_in_its_own_log(tmp_path):
    paths, results = StatePaths(tmp_path / "state"), EvaluationPaths(tmp_path / "stage1", PREFILL_DIRECTORY)
    place = paths.attempt("prefill-stage1-1")
    place.folder.mkdir(parents=True)
    record = ExitRecord(run_id="prefill-stage1-1", owner="slurm:7", host="n", restart=0, start=1.0, end=2.0, code=75)
    (place.folder / "exit.0.json").write_bytes(encode_json(record))
    log = prefill_log_paths(tmp_path / "stage1", "stage1", "7")[1]
    log.parent.mkdir(parents=True)
    log.write_text(f"scoring: {FULL}\nprefill.sbatch: prefill-stage1-1 ended with 75\n")
    attempt = Attempt(run_id="prefill-stage1-1", number=1, fingerprint="f", suites={}, intended=1.0, job_id="7")
    seen = add_failure_details(read_attempt_files(paths, results, attempt.run_id), results, attempt, stage="stage1", step=0)
    assert (seen.failure_reason, seen.logged_exit_code) == (FULL, 75)
