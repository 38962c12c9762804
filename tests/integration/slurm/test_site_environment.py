"""Folders, profiles and setup lines as sites have them, on a real Slurm."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import yaml

from support.executors.batch_scripts import SCORE_SCRIPT, make_attempt, write_stand_in
from support.executors.harness import USER
from support.runs.two_stages import REPOSITORY_ROOT
from support.slurm_cluster.daemon import SLURM_CONFIG, SlurmRun

pytestmark = pytest.mark.slurm

ODD_FOLDERS = ["100%j", "x%%y %x", "%5j_%A_%a%", 'it\'s a "folder" $HOME', "ünï; &|#,[1]"]


@pytest.mark.parametrize("name", ODD_FOLDERS)
def test_logs_are_written_below_folders_whose_names_look_like_patterns(slurm, tmp_path, name):
    with SlurmRun(tmp_path / name, slurm, steps=[100]) as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_for_state("scored", 100)
        (log,) = (watch.results / "base/eval_logs/slurm").glob("*.err")
        assert log.read_text().splitlines()[-1].endswith("ended with 0")
        assert len(watch.stand_in_runs) == 1


def test_threads_are_those_of_the_allocation_whatever_the_profile_says(slurm, tmp_path):
    profile = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with SlurmRun(tmp_path / "run", slurm, steps=[100], environ=profile, scorer="") as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_for_state("scored", 100, seconds=300)
        run = json.loads((watch.results / "base/by_checkpoint/step_100/run.json").read_text())
        assert run["device"]["threads"] == 2


def test_a_setup_line_that_fails_is_named_in_the_status(slurm, tmp_path):
    setup = ["export A=1", "module load cuda/99", "export B=1"]
    settings = {"slurm": SLURM_CONFIG["slurm"] | {"setup": setup}}
    with SlurmRun(tmp_path / "run", slurm, steps=[100], settings=settings) as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_for_state("blocked", 100)
        assert "setup line 2 failed with 127: module load cuda/99" in watch.read_status_row(100)["reason"]
        assert watch.stand_in_runs == []


@pytest.mark.parametrize(
    ("options", "cpus", "gpus"),
    [
        ([], "8", "1"),
        (["--gres=none", "--cpus-per-task=1"], "1", None),
        (["--gres=gpu:2", "--cpus-per-task=4"], "4", "2"),
        (["--gres=none", "--gpus=1"], "8", "1"),
    ],
)
def test_the_script_asks_for_a_gpu_by_itself_and_the_command_line_overrides_it(slurm, tmp_path, options, cpus, gpus):
    folder = slurm.folder / tmp_path.name
    folder.mkdir()
    attempt = make_attempt(folder, f"eval-{tmp_path.name}", write_stand_in(folder))
    subprocess.run(["chown", "-R", USER, folder], check=True)
    command = ["sbatch", "--parsable", "--wait", "--mem=100", f"--output={folder}/log", *options, SCORE_SCRIPT, attempt.request]
    slurm.cluster.run_slurm_command(*map(str, command), user=USER).check_returncode()
    lines = (attempt.folder / "environment").read_text().splitlines()
    environ = dict(line.split("=", 1) for line in lines if "=" in line)
    assert (environ["OMP_NUM_THREADS"], environ["SLURM_CPUS_PER_TASK"]) == (cpus, cpus)
    assert environ.get("SLURM_GPUS_ON_NODE") == gpus


def test_a_watcher_with_the_environment_of_watcher_env_alone_finds_the_cluster(slurm, tmp_path):
    """As systemd starts it: nothing of the login shell but what `watcher init` wrote down."""
    with SlurmRun(tmp_path / "run", slurm, steps=[100]) as watch:
        watch.write_checkpoint("base", 100)
        watcher = [sys.executable, "-P", "-m", "watcher"]
        python_path = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY_ROOT), *filter(None, sys.path)])}
        login = watch.environ | {"SCRATCH": str(watch.root)} | python_path
        subprocess.run([*watcher, "init", tmp_path / "env"], env=login, check=True, capture_output=True)
        lines = (tmp_path / "env/watcher.env").read_text().splitlines()
        kept = {name: shlex.split(value)[0] for name, _, value in (line.partition("=") for line in lines if line[0] != "#")}
        kept |= {"WATCHER_CONFIG": str(watch.config)} | python_path
        watch.change_settings(settle="0s")
        done = subprocess.run([*watcher, "once"], env=kept, capture_output=True, text=True, check=False)
        assert "submit base/step_100: complete and not scored" in done.stdout, done.stdout + done.stderr
        assert yaml.safe_load(watch.config.read_text())["executor"] == "slurm"
        assert watch.list_jobs()
