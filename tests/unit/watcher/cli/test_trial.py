"""`watcher try` up to the processes that it starts: which, with what, and how it ends."""

import json

import pytest

from support.runs.watcher_commands import make_config_folder_fixture, run_watcher

config_folder = make_config_folder_fixture("not: a config")

# Notes its arguments; a score of it ends with the code in $CODE.
STAND_IN = """#!/bin/sh
printf '%s\\n' "$0 $*" >> "$CALLS"
case "$*" in *"scoring score"*) exit "${CODE:-0}";; esac
"""


@pytest.fixture
def calls(config_folder, monkeypatch):
    """A checkpoint run1/ckpts/100, a suite, and stand-ins for python and srun; a function gives what was called."""
    (config_folder / "run1/ckpts/100").mkdir(parents=True)
    (config_folder / "cf.yaml").write_text("tier: tier3_cf\ntasks:\n  a: {data_files: [a.jsonl], adapter: multiple_choice}\n")
    for name in ("python", "srun"):
        (config_folder / name).write_text(STAND_IN)
        (config_folder / name).chmod(0o755)
    monkeypatch.setenv("CALLS", str(config_folder / "calls"))
    monkeypatch.setenv("PATH", f"{config_folder}:/usr/bin:/bin")
    monkeypatch.delenv("EVAL_DATA_DIR", raising=False)
    return lambda: (config_folder / "calls").read_text().splitlines()


def test_here_one_process_scores(config_folder, calls):
    result = run_watcher("try", "run1/ckpts/100", "--suite", "./cf.yaml", "--quick", "--python", f"{config_folder}/python")
    (call,) = calls()
    assert call == (
        f"{config_folder}/python -P -m scoring score --checkpoint {config_folder}/run1/ckpts/100 --stage run1"
        f" --suite ./cf.yaml@quick --results {config_folder}/watcher_try/quick --eval-data {config_folder}/watcher_try/eval_data"
    )
    assert result.stderr == f"{call}\n"


def test_by_a_job_the_data_are_made_here_first(config_folder, calls, monkeypatch):
    monkeypatch.setenv("EVAL_DATA_DIR", "/data")
    slurm = ("--slurm", "--account", "lab", "--partition", "gpu", "--time", "30")
    document = json.loads(
        run_watcher("try", "run1/ckpts/100", *slurm, "--tokenizer", "acme/tok", "--python", "python", "--json").stdout
    )
    prefill, job = calls()
    suites = "--suite stage1_ppl_slices --suite stage1_cf_core"
    assert prefill.endswith(f"python -P -m scoring prefill {suites} --eval-data /data --tokenizer acme/tok")
    assert job.startswith(
        f"{config_folder}/srun --job-name=watcher-try --ntasks=1 --account=lab --partition=gpu --gres=gpu:1 --cpus-per-task=8"
        " --time=30 python -P -m scoring score"
    )
    assert job.endswith("--eval-data /data --tokenizer acme/tok --offline")
    assert document["stages"][0]["evaluations"] == []


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("run1/ckpts/100", "--python", "python"), 65, "watcher_try/whole"),
        (("run1/ckpts/200",), 2, "run1/ckpts/200: no such folder; give the folder of one step"),
        (("run1/ckpts/100", "--suite", "stage1_cf_cor"), 2, "no suite of that name; did you mean"),
        (("run1/ckpts/100", "--account", "x"), 2, "need --slurm; add it"),
        (("run1/ckpts/100", "--slurm", "--python", "python"), 2, "names no tokenizer; give --tokenizer"),
    ],
)
@pytest.mark.usefixtures("calls")
def test_what_goes_wrong_ends_as_the_scorer_does_or_in_one_line(arguments, exit_code, said, monkeypatch):
    monkeypatch.setenv("CODE", "65")
    assert said in run_watcher("try", *arguments, exit_code=exit_code).stderr


@pytest.mark.usefixtures("calls")
def test_a_python_without_torch_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert "has no torch, which scores; give --python" in run_watcher("try", "run1/ckpts/100", exit_code=2).stderr
