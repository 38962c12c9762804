"""slurm/score.sbatch and prefill.sbatch, run by hand: claim, scorer, expected files, exit record."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from suites.common.errors import ExitCode
from suites.contract.exit_record import read_exit_records
from support.executors.batch_scripts import (
    PREFILL_SCRIPT,
    SCORE_SCRIPT,
    AttemptFolder,
    make_attempt,
    start_script,
    wait_for_script,
    wait_until,
    write_stand_in,
)

NAME = "eval-stage1-2000-0badcafe"


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptFolder:
    return make_attempt(tmp_path / "attempts", NAME, write_stand_in(tmp_path))


def test_a_scored_attempt_leaves_a_claim_and_an_exit_record(attempt):
    code, words = wait_for_script(start_script(attempt))
    assert code == 0, words
    record = attempt.exit_record
    assert (record.run_id, record.host, record.restart, record.code, record.signal) == (NAME, os.uname().nodename, 0, 0, None)
    assert record.owner == attempt.claim()
    assert record.owner.startswith(f"local:{record.host}:")
    assert record.start <= record.end
    assert (attempt.folder / "arguments").read_text().splitlines() == ["-P", "-m", "scoring", "score", str(attempt.request)]
    assert not list(attempt.folder.glob(".*")), "nothing is left aside"


def test_prefill_runs_the_prefill_command_in_the_same_frame(attempt):
    code, words = wait_for_script(start_script(attempt, script=PREFILL_SCRIPT))
    assert code == 0, words
    arguments = (attempt.folder / "arguments").read_text().splitlines()
    assert arguments == ["-P", "-m", "scoring", "prefill", "--request", str(attempt.request)]
    assert attempt.exit_record.code == 0


def test_both_scripts_are_one_frame_but_for_two_lines():
    def frame(script: Path) -> list[str]:
        lines = script.read_text().splitlines()
        return lines[lines.index("set -euo pipefail") :]

    pairs = list(zip(frame(SCORE_SCRIPT), frame(PREFILL_SCRIPT), strict=True))
    assert [mine.split("=")[0] for mine, other in pairs if mine != other] == ["job_script", "job_command"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here; make check runs it")
def test_shellcheck_has_nothing_to_say():
    done = subprocess.run(["shellcheck", str(SCORE_SCRIPT), str(PREFILL_SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("code", [1, *(code.value for code in ExitCode if code)])
def test_the_scorers_exit_code_is_passed_on_and_written_down(attempt, code):
    assert wait_for_script(start_script(attempt, FAKE_CODE=str(code)))[0] == code
    assert (attempt.exit_record.code, attempt.exit_record.signal) == (code, None)


def test_success_without_a_tier_file_is_a_failure_that_names_it(attempt):
    code, words = wait_for_script(start_script(attempt, FAKE_FORGETS="yes"))
    assert code == ExitCode.BUG
    assert all(f"{path}: missing or empty" in words for path in attempt.expected)
    assert attempt.exit_record.code == ExitCode.BUG


def test_an_empty_tier_file_is_a_missing_one(attempt):
    attempt.expected[0].write_text("{}")
    attempt.expected[1].touch()
    code, words = wait_for_script(start_script(attempt, FAKE_FORGETS="yes"))
    assert code == ExitCode.BUG
    assert str(attempt.expected[0]) not in words
    assert f"{attempt.expected[1]}: missing or empty" in words


def test_without_expected_files_the_log_says_that_nothing_is_checked(attempt):
    (attempt.folder / "expected.txt").unlink()
    code, words = wait_for_script(start_script(attempt))
    assert (code, attempt.exit_record.code) == (0, 0)
    assert "expected.txt: missing" in words


@pytest.mark.parametrize("owner", ["void", "slurm:7", "local:elsewhere:1:2", ""])
def test_an_attempt_that_is_not_ours_is_left_alone(attempt, owner):
    (attempt.folder / "claim").write_text(owner)
    code, words = wait_for_script(start_script(attempt))
    assert code == ExitCode.TEMPORARY
    assert f"belongs to '{owner}'" in words
    assert attempt.run_count == 0
    assert read_exit_records(attempt.folder) == []
    assert attempt.claim() == owner


def test_a_requeued_job_goes_on_with_its_own_claim_and_a_record_of_its_own(attempt):
    assert wait_for_script(start_script(attempt, SLURM_JOB_ID="41", FAKE_CODE="75"))[0] == ExitCode.TEMPORARY
    assert wait_for_script(start_script(attempt, SLURM_JOB_ID="41", SLURM_RESTART_COUNT="1"))[0] == 0
    assert attempt.claim() == "slurm:41"
    assert [(r.restart, r.code, r.owner) for r in read_exit_records(attempt.folder)] == [(0, 75, "slurm:41"), (1, 0, "slurm:41")]


def test_of_two_copies_started_at_once_exactly_one_runs(tmp_path):
    python = write_stand_in(tmp_path)
    for number in range(50):
        attempt = make_attempt(tmp_path / "attempts", f"eval-stage1-2000-{number:08x}", python)
        codes = sorted(wait_for_script(copy)[0] for copy in [start_script(attempt), start_script(attempt)])
        assert codes == [0, ExitCode.TEMPORARY], number
        assert attempt.run_count == 1
        assert attempt.exit_record.owner == attempt.claim()


@pytest.mark.parametrize("name", ["USR1", "TERM"])
def test_a_signal_reaches_the_scorer_whose_exit_is_awaited(attempt, name):
    process = start_script(attempt, FAKE_WAITS="yes")
    wait_until(attempt.is_running, "the scorer runs")
    os.kill(process.pid, signal.Signals[f"SIG{name}"])  # the script alone, as Slurm does with B:
    assert wait_for_script(process)[0] == ExitCode.TEMPORARY
    assert (attempt.folder / "signals").read_text().split() == [name]
    assert (attempt.exit_record.code, attempt.exit_record.signal) == (75, name)


def test_a_signal_to_script_and_scorer_at_once_ends_in_good_order_every_time(tmp_path):
    python = write_stand_in(tmp_path)
    for number in range(30):  # bash loses the scorer's code in some of them
        attempt = make_attempt(tmp_path / "attempts", f"eval-stage1-2000-{number:08x}", python)
        process = start_script(attempt, FAKE_WAITS="yes")
        wait_until(attempt.is_running, "the scorer runs")
        os.killpg(process.pid, signal.SIGTERM)  # as Slurm does at the time limit and for scancel
        assert wait_for_script(process)[0] == ExitCode.TEMPORARY, number
        assert (attempt.exit_record.code, attempt.exit_record.signal) == (75, "TERM")


def test_control_c_stops_the_scorer_in_good_order(attempt):
    process = start_script(attempt, FAKE_WAITS="yes")
    wait_until(attempt.is_running, "the scorer runs")
    os.kill(process.pid, signal.SIGINT)
    assert wait_for_script(process)[0] == ExitCode.TEMPORARY
    assert (attempt.folder / "signals").read_text().split() == ["TERM"]
    assert attempt.exit_record.signal == "INT"


def test_a_scorer_that_finishes_in_spite_of_term_has_succeeded(attempt):
    process = start_script(attempt, FAKE_WAITS="yes", FAKE_STUBBORN="yes")
    wait_until(attempt.is_running, "the scorer runs")
    os.kill(process.pid, signal.SIGTERM)
    wait_until((attempt.folder / "signals").exists, "TERM arrived")
    assert process.poll() is None
    attempt.let_end()
    assert wait_for_script(process)[0] == 0
    assert (attempt.exit_record.code, attempt.exit_record.signal) == (0, "TERM")


def test_a_scorer_killed_from_outside_is_recorded_with_its_signal(attempt, tmp_path):
    (tmp_path / "python3").write_text("#!/bin/bash\nkill -KILL $$\n")
    assert wait_for_script(start_script(attempt))[0] == 137
    assert (attempt.exit_record.code, attempt.exit_record.signal) == (137, "KILL")


def test_term_before_the_scorer_began_is_recorded_too(attempt, tmp_path):
    setup = tmp_path / "setup.sh"
    setup.write_text(f"touch '{attempt.folder}/up'; while ! [ -e '{attempt.folder}/go' ]; do sleep 0.02; done\n")
    process = start_script(attempt, str(setup))
    wait_until(attempt.is_running, "the setup runs")
    os.kill(process.pid, signal.SIGTERM)
    assert wait_for_script(process)[0] == ExitCode.TEMPORARY
    assert (attempt.exit_record.code, attempt.exit_record.signal, attempt.run_count) == (75, "TERM", 0)


@pytest.mark.parametrize("name", ["USR1", "TERM"])
def test_a_scorer_that_cannot_catch_the_signal_yet_is_to_be_tried_again(attempt, tmp_path, name):
    (tmp_path / "python3").write_text(f"#!/bin/bash\ntouch '{attempt.folder}/up'\nexec sleep 30\n")
    process = start_script(attempt)
    wait_until(attempt.is_running, "the scorer starts")
    os.kill(process.pid, signal.Signals[f"SIG{name}"])
    assert wait_for_script(process)[0] == ExitCode.TEMPORARY
    assert (attempt.exit_record.code, attempt.exit_record.signal) == (75, name)
