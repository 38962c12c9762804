"""`watcher audit` as a person runs it, on this machine's executor."""

import os
import time

import pytest

from support.runs.watcher_commands import make_config_folder_fixture, run_watcher
from watcher.config.loader import load_config
from watcher.core import events
from watcher.core.evaluation import Attempt
from watcher.journal.journal import Journal

CONFIG = """
results: results
executor: local
stages:
  stage1: {checkpoints: ckpts/stage1, steps: [100], suites: [slices.yaml], tokenizer: ./tokenizer, seq_len: 64}
"""
SUITE = "tier: tier2_ppl\nslices:\n  web: {data_files: [/data/web.jsonl], target_tokens: 9}\n"


config_folder = make_config_folder_fixture(CONFIG)


@pytest.fixture
def audited_folder(config_folder):
    (config_folder / "slices.yaml").write_text(SUITE)
    return config_folder


def run_audit(*arguments, exit_code):
    return run_watcher("audit", *arguments, exit_code=exit_code).output


def test_where_there_is_nothing_yet_all_agree_and_nothing_is_made(audited_folder):
    assert run_audit(exit_code=0) == "Journal, disk and queue agree.\n"
    assert not (audited_folder / "results").exists()


def test_a_difference_is_one_harmless_line_and_exit_1(audited_folder):
    folder = audited_folder / "results" / "stage1" / "by_checkpoint" / "step_1\x1b[2J\n"
    folder.mkdir(parents=True)
    (folder / "tier2_ppl.json").write_text("{}")
    (line,) = run_audit(exit_code=1).splitlines()
    assert line.startswith("stage1/step_1?[2J : journal: not known; disk: tier2_ppl is foreign (")
    assert line.endswith("; repair: none: find out who wrote them")


def test_what_is_left_over_is_removed_only_with_repair(audited_folder):
    attempt = audited_folder / "results" / ".watcher" / "attempts" / "eval-stage1-100-0badcafe"
    attempt.mkdir(parents=True)
    os.utime(attempt, (time.time() - 7200, time.time() - 7200))
    line = f"{attempt.name}: journal: no such attempt; disk: attempt {attempt.name} was never run; repair: remove it\n"
    assert run_audit(exit_code=1) == line
    assert attempt.is_dir()
    assert run_audit("--repair", exit_code=1) == f"{line}{attempt.name}: {attempt} removed\n"
    assert not attempt.exists()
    assert run_audit("--repair", exit_code=0) == "Journal, disk and queue agree.\n"


@pytest.mark.parametrize(("state", "exit_code"), [("queued", 0), ("scored", 1)])
def test_what_the_next_tick_handles_is_no_alarm(audited_folder, state, exit_code):
    paths = load_config(None, {}).paths
    paths.journal.mkdir(parents=True)
    journal = Journal.open(paths)
    names = {"stage": "stage1", "source": "stage1", "step": 100, "directory": "step_100"}
    key, run_id = "stage1/step_100", "eval-stage1-100-0badcafe"
    attempt = Attempt(run_id=run_id, number=1, fingerprint="f", suites={}, intended=1.7e9)
    made = [
        events.Created(evaluation=key, origin="schedule", checkpoint=str(audited_folder / "ckpts/stage1/100"), **names),
        events.Intended(evaluation=key, attempt=attempt, run_id=run_id),
        events.Submitted(evaluation=key, job_id="7", attempt=attempt, run_id=run_id),
        events.Scored(evaluation=key, fingerprint="f", suites={"tier2_ppl": "d"}),
    ]
    for event in made if state == "scored" else made[:-1]:
        journal.append(event, t=1_700_000_000.0)
    journal.close()
    said = run_audit(exit_code=exit_code)
    assert ("; repair: none needed: the next tick handles it\n" in said) == (exit_code == 0)
    assert said.count("\n") == 1
