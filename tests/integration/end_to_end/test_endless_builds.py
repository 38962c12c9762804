"""Processes of prefill that look for no stop end soon after their parent is gone, or after SIGTERM."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scoring.data.entry_processes import PrefillEntry, build_in_processes
from scoring.runtime.forced_end import END_GRACE_SECONDS, FORCED_END_CODE
from scoring.runtime.stop import StopRequest
from suites.common.errors import ExitCode
from support.executors.batch_scripts import wait_until
from support.faults.endless_builds import build_endlessly

pytestmark = pytest.mark.scoring

ROOT = Path(__file__).parents[3]

PATIENCE_SECONDS = END_GRACE_SECONDS + 40  # on a machine that does other things, too


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def list_pids(folder):
    return [int(path.name) for path in folder.iterdir()]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_their_parent(tmp_path, signal_number):
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    argv = [sys.executable, "-m", "support.faults.endless_builds", str(tmp_path)]
    with subprocess.Popen(argv, env=environ, cwd=ROOT, stderr=subprocess.PIPE) as parent:
        wait_until(lambda: len(list_pids(tmp_path)) == 2, "both build")
        parent.send_signal(signal_number)
        _, said = parent.communicate(timeout=PATIENCE_SECONDS)
    wait_until(lambda: not any(map(is_running, list_pids(tmp_path))), "both are gone", PATIENCE_SECONDS)
    assert signal_number == signal.SIGKILL or b"stopped by SIGTERM" in said


@pytest.mark.parametrize("way", ["busy", "asleep"])
def test_a_process_ends_after_sigterm_and_another_attempt_may_not_meet_it(tmp_path, way):
    definition = {"pids": str(tmp_path), "way": way, "hf_dataset": "acme/slow"}
    outcomes = []

    class Terminated(StopRequest):
        """Sends SIGTERM to the process, once it builds."""

        def check(self):
            for pid in list_pids(tmp_path):
                os.kill(pid, signal.SIGTERM)

    entries = [PrefillEntry(tier="tier2_ppl", name=way, definition=definition)]
    build_in_processes(build_endlessly, entries, jobs=1, update=print, report=outcomes.append, stop=Terminated())
    (error,) = outcomes
    assert str(error).startswith(f"{way}: the process that read acme/slow was ended by SIGTERM")
    assert error.code == ExitCode.TEMPORARY
    assert FORCED_END_CODE == 143
