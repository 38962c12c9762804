"""`watcher try --slurm` on a real Slurm: the data are made here, and one job scores."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slurm

# Notes what it was called for, and in which job.
STAND_IN = """#!/bin/sh
case "$*" in *"scoring score"*) what=score;; *) what=prefill;; esac
echo "$what ${SLURM_JOB_ID:-here} ${SLURM_CPUS_PER_TASK:-}" >> "%s"
"""


def test_one_job_scores(slurm, tmp_path):
    calls = tmp_path / "calls"
    (tmp_path / "python").write_text(STAND_IN % calls)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "run1" / "100").mkdir(parents=True)
    command = [sys.executable, "-c", "from watcher.cli.app import main; main()", "try", "run1/100", "--slurm", "--gres", "none"]
    command += ["--cpus", "1", "--time", "5", "--tokenizer", "acme/tok", "--python", f"{tmp_path}/python"]
    process = subprocess.run(
        command, cwd=tmp_path, env=slurm.cluster.environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert process.returncode == 0, process.stderr
    prefill, score = calls.read_text().splitlines()
    assert prefill.split()[:2] == ["prefill", "here"]
    name, job, cpus = score.split()
    assert (name, job.isdigit(), cpus) == ("score", True, "1")
