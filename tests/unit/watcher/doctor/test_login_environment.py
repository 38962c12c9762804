"""`watcher doctor`: a line for each variable of the login environment that jobs and Slurm's commands get, or do not get."""

import json

import msgspec
import pytest
from click.testing import CliRunner

from support.runs.doctor_config import config
from watcher.cli.app import main
from watcher.doctor import lock_probe
from watcher.doctor.login_environment import check_login_environment

ON_SLURM = [
    ({"SLURM_CONF": "/etc/a/slurm.conf"}, "ok", "SLURM_CONF: /etc/a/slurm.conf: inherited by Slurm's commands"),
    ({"MUNGE_SOCKET": "/run/munge"}, "ok", "MUNGE_SOCKET: /run/munge: inherited by Slurm's commands"),
    ({"SLURM_JWT": "abc"}, "ok", "SLURM_JWT: inherited by Slurm's commands; a token that ends"),
    ({"SLURM_CLUSTERS": "b"}, "warning", "SLURM_CLUSTERS: b: dropped; jobs go to the cluster of slurm.conf"),
    ({"SBATCH_PARTITION": "debug"}, "warning", "SBATCH_PARTITION: debug: dropped; sbatch gets the options of the config only"),
    ({"SBATCH_EXCLUSIVE": "1"}, "warning", "SBATCH_EXCLUSIVE: 1: dropped; sbatch"),
    ({"SQUEUE_FORMAT": "%i"}, "ok", "SQUEUE_FORMAT: %i: dropped; it would change"),
    ({"SLURM_TIME_FORMAT": "%s"}, "ok", "SLURM_TIME_FORMAT: %s: dropped; it would change"),
    (
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"},
        "warning",
        "SLURM_JOB_ID: doctor runs in job 7; dropped: SLURM_JOB_ID, SLURM_NTASKS",
    ),
    (
        {"OMP_NUM_THREADS": "1"},
        "ok",
        "OMP_NUM_THREADS: 1: dropped; a job uses its own CPUs (8); name it in slurm: setup: to set it",
    ),
    ({"MKL_NUM_THREADS": "1"}, "ok", "MKL_NUM_THREADS: 1: dropped; a job uses its own CPUs (8)"),
    ({"LD_LIBRARY_PATH": "/opt/lib"}, "ok", "LD_LIBRARY_PATH: /opt/lib: inherited; libraries"),
    ({"CONDA_PREFIX": "/opt/conda"}, "ok", "CONDA_PREFIX: /opt/conda: inherited; jobs run /"),
]


@pytest.mark.parametrize(("environ", "verdict", "words"), ON_SLURM)
def test_each_variable_has_its_line(here, environ, verdict, words):
    (check,) = check_login_environment(config(here, executor="slurm"), {"PATH": "/bin", **environ})
    assert check.verdict == verdict
    assert f"{check.name}: {check.message}".startswith(words)
    assert check.hint or verdict == "ok"


def test_a_python_by_name_alone_in_a_conda_environment_is_warned_of(here):
    made = msgspec.structs.replace(config(here, executor="slurm"), python="python3")
    (check,) = check_login_environment(made, {"PATH": "/nowhere", "CONDA_PREFIX": "/opt/conda"})
    assert (check.verdict, check.message) == ("warning", "/opt/conda: inherited; jobs run python3, which is not on PATH here")


def test_local_jobs_get_no_slurm_variables_and_the_threads_of_this_shell(here):
    environ = {"SLURM_CONF": "/x", "SBATCH_QOS": "q", "OMP_NUM_THREADS": "2"}
    found = [(check.verdict, check.name, check.message) for check in check_login_environment(config(here), environ)]
    assert found == [
        ("ok", "SBATCH_QOS", "dropped; jobs of this machine are no Slurm jobs"),
        ("ok", "SLURM_CONF", "dropped; jobs of this machine are no Slurm jobs"),
        ("ok", "OMP_NUM_THREADS", "2: inherited by the jobs of this machine"),
    ]


def test_each_folder_of_pythonpath_has_its_line(here):
    (here / "project/suites").mkdir(parents=True)
    (here / "project/suites/__init__.py").touch()
    found = list(check_login_environment(config(here), {"PYTHONPATH": f"/lib:{here}/project:"}))
    assert [(check.verdict, check.message) for check in found] == [
        ("ok", "/lib: inherited by the jobs"),
        ("warning", f"{here}/project: dropped; its package 'suites' would hide ours"),
        ("ok", "the current folder: inherited by the jobs"),
    ]


def test_a_broken_suite_refuses_the_config_and_all_else_is_checked(here, monkeypatch):
    monkeypatch.setattr(
        lock_probe, "run_two_probes", lambda kind, *_: ([*range(40)], []) if kind == "link" else ([[0, 1]], [[1, 2]])
    )
    config(here)
    (here / "slices.yaml").write_text("tier: tier2_ppl\nslces: {}\n")
    refused = CliRunner().invoke(main, ["config"])
    result = CliRunner().invoke(main, ["doctor"])
    assert (refused.exit_code, result.exit_code) == (2, 2)
    assert result.stderr == refused.stderr
    first, *lines = result.stdout.splitlines()
    assert first.startswith(f"wrong    config: {here}/watcher.yaml:7: stages.stage1.suites: ")
    assert {"logout", "state", "job's python"} <= {line[9:].partition(": ")[0] for line in lines}


def test_a_config_that_cannot_be_read_is_one_line_and_the_refusal_of_every_command(here):
    (here / "watcher.yaml").write_text("poll: [\n")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 2
    assert result.stdout.splitlines()[0].startswith(f"wrong    config: {here}/watcher.yaml:2: not YAML")
    assert json.dumps(result.stderr).count("\\n") == 1
