"""`watcher doctor`: the jobs' python after the setup lines, suites, tokenizer and data; no torch."""

import os

import msgspec
import pytest

from support.runs.doctor_config import VERSIONS, config, one
from watcher.doctor import job_environment
from watcher.executors.slurm_commands import CommandResult


@pytest.mark.parametrize(
    ("said", "name", "verdict", "words"),
    [
        ({}, "cuda", "warning", "no GPU here, and jobs run here"),
        ({"cuda": ["H100", "H100"]}, "cuda", "ok", "2 x H100"),
        ({"watcher": "9.9"}, "job's python", "warning", "checkpoint-watcher 9.9, here"),
        ({"scoring": None, "errors": {"scoring": "ModuleNotFoundError: x"}}, "job's python", "wrong", "cannot import scoring"),
        ({"errors": {"watcher": "not there"}}, "job's python", "ok", "torch 2.8"),
    ],
)
def test_the_jobs_interpreter_is_asked_after_the_setup_lines(said, name, verdict, words, here):
    check = one(job_environment.check_job_environment(config(here, said=VERSIONS | said), os.environ, offline=False), name)
    assert check.verdict == verdict
    assert words in check.message


@pytest.mark.parametrize(("built_for", "verdict"), [("12.8", "ok"), (None, "warning")])
def test_a_torch_without_cuda_is_no_torch_for_gpu_nodes(built_for, verdict, here):
    made = config(here, executor="slurm", said=VERSIONS | {"built_for": built_for})
    assert one(job_environment.check_job_environment(made, os.environ, offline=False), "cuda").verdict == verdict


def test_an_interpreter_that_is_not_there_or_never_answers(here):
    made = msgspec.structs.replace(config(here), python="/nowhere/python")
    check = one(job_environment.check_job_environment(made, os.environ, offline=False), "job's python")
    assert check.verdict == "wrong"
    assert "/nowhere/python" in check.message
    checks = job_environment.check_job_environment(
        config(here), os.environ, offline=False, run=lambda *_: CommandResult(None, "", "")
    )
    silent = one(checks, "job's python")
    assert silent.verdict == "wrong"
    assert "no answer in 180 s" in silent.message


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("module load cuda/99", "setup line 1 failed with 127: module load cuda/99"),
        ("true\ncd /no/such", "setup line 2 failed with 1: cd /no/such"),
        ("if true; then", "the setup lines failed with "),
    ],
)
def test_a_setup_line_that_fails_is_named(here, lines, words):
    made = config(here)
    made = msgspec.structs.replace(made, slurm=msgspec.structs.replace(made.slurm, setup=tuple(lines.splitlines())))
    check = one(job_environment.check_job_environment(made, os.environ, offline=False), "job's python")
    assert check.verdict == "wrong"
    assert words in check.message


def test_a_python_that_is_too_old_is_called_so(here):
    answer = CommandResult(2, "", "Unknown option: -P\nusage: python3 [option] ...\nTry `python -h' for more information.\n")
    check = one(
        job_environment.check_job_environment(config(here), os.environ, offline=False, run=lambda *_: answer), "job's python"
    )
    assert (check.verdict, check.message.endswith(" is older than Python 3.11")) == ("wrong", True)


def test_what_the_cache_lacks_and_what_mends_it(here):
    (here / "slices.yaml").write_text("tier: tier2_ppl\nslices:\n  web: {hf_dataset: a/b, target_tokens: 9}\n")
    check = one(job_environment.check_job_environment(config(here), os.environ, offline=False), "stage1 data")
    assert check.verdict == "warning"
    assert check.message == "1 of 1 are not in the cache: slices/web"
    assert check.hint == f"run `watcher prefill stage1 --config {here / 'watcher.yaml'}`"


def test_offline_asks_the_child_for_every_byte(here):
    entry = {"suite": "slices", "name": "web", "state": "whole"}
    document = {"entries": [entry], "tokenizer": {"problems": []}, "network": "cut off", "prefill": "mend it"}
    made = config(here, offline=document)
    assert one(job_environment.check_job_environment(made, os.environ, offline=True), "stage1 offline").message == (
        "1 entry read in full, network cut off"
    )
    made = config(here, offline=document | {"entries": [entry | {"state": "damaged"}]})
    check = one(job_environment.check_job_environment(made, os.environ, offline=True), "stage1 offline")
    assert (check.verdict, check.message, check.hint) == ("wrong", "slices/web is damaged", "mend it")


def test_a_suite_that_cannot_be_used_is_wrong(here):
    made = config(here)
    (here / "slices.yaml").write_text("tier: tier2_ppl\nslices: 3\n")
    assert one(job_environment.check_job_environment(made, os.environ, offline=False), "stage1 suites").verdict == "wrong"


def test_jobs_that_ask_for_no_gpu_need_no_cuda(here):
    made = config(here, executor="slurm", said=VERSIONS | {"built_for": None})
    made = msgspec.structs.replace(made, slurm=msgspec.structs.replace(made.slurm, gres=None))
    assert one(job_environment.check_job_environment(made, os.environ, offline=False), "cuda").verdict == "ok"


@pytest.mark.parametrize("import_error", ["ModuleNotFoundError: x", "OSError: libcudart: cannot open"])
def test_a_hint_names_keys_and_does_not_end_in_a_colon(here, import_error):
    made = config(here, said=VERSIONS | {"scoring": None, "errors": {"scoring": import_error}})
    hint = one(job_environment.check_job_environment(made, os.environ, offline=False), "job's python").hint
    assert hint.endswith("or name another as `python`")


def test_a_checkpoint_that_is_still_settling_is_not_called_missing(here):
    (here / "ckpts/100").mkdir(parents=True)
    made = config(here)
    stage = msgspec.structs.replace(made.stages["stage1"], tokenizer=None)
    made = msgspec.structs.replace(made, stages={"stage1": stage})
    message = one(job_environment.check_job_environment(made, os.environ, offline=False), "stage1 data").message
    assert message.startswith("tokenizer unknown until the watcher reads a complete checkpoint; set stages.stage1.tokenizer")
