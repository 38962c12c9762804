"""`watcher audit` as a person runs it, on this machine's executor."""

import os
import time

import pytest
from click.testing import CliRunner

from watcher.cli.app import main

CONFIG = """
results: results
executor: local
stages:
  stage1: {checkpoints: ckpts/stage1, steps: [100], suites: [slices.yaml], tokenizer: ./tokenizer, seq_len: 64}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("SCRATCH", "WATCHER_CONFIG", "LIGHTEVAL_CMD"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "watcher.yaml").write_text(CONFIG)
    (tmp_path / "slices.yaml").write_text("tier: tier2_ppl\nslices:\n  web: {data_files: [/data/web.jsonl], target_tokens: 9}\n")
    return tmp_path


def said(*words, code):
    result = CliRunner().invoke(main, ["audit", *words])
    assert result.exit_code == code, result.output
    return result.output


def test_where_there_is_nothing_yet_all_agree_and_nothing_is_made(here):
    assert said(code=0) == "Journal, disk and queue agree.\n"
    assert not (here / "results").exists()


def test_a_difference_is_one_harmless_line_and_exit_1(here):
    folder = here / "results" / "stage1" / "by_checkpoint" / "step_1\x1b[2J\n"
    folder.mkdir(parents=True)
    (folder / "tier2_ppl.json").write_text("{}")
    (line,) = said(code=1).splitlines()
    assert line.startswith("stage1/step_1?[2J : journal: not known; disk: tier2_ppl is foreign (")
    assert line.endswith("; repair: none: find out who wrote them")


def test_what_is_left_over_is_removed_only_with_repair(here):
    attempt = here / "results" / ".watcher" / "attempts" / "eval-stage1-100-0badcafe"
    attempt.mkdir(parents=True)
    os.utime(attempt, (time.time() - 7200, time.time() - 7200))
    line = f"{attempt.name}: journal: no such attempt; disk: attempt {attempt.name} was never run; repair: remove it\n"
    assert said(code=1) == line
    assert attempt.is_dir()
    assert said("--repair", code=1) == f"{line}{attempt.name}: {attempt} removed\n"
    assert not attempt.exists()
    assert said("--repair", code=0) == "Journal, disk and queue agree.\n"
