"""`watcher try` with the real scorer: from a checkpoint to its table, in an empty folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.models.tiny_llama_items import LLAMA_CHECKPOINT
from support.runs.scoring_jobs import write_suites

pytestmark = pytest.mark.scoring


def test_one_command_scores_a_checkpoint_and_shows_its_table(tmp_path):
    write_suites(tmp_path, items=300)
    command = [Path(sys.executable).with_name("watcher"), "try", LLAMA_CHECKPOINT, "--quick", "--tokenizer", BYTE_TOKENIZER]
    command += ["--suite", "./ppl.yaml", "--suite", "./cf.yaml"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    (tier3,) = (tmp_path / "watcher_try/quick").glob("*/by_checkpoint/step_60/tier3_cf.json")
    task = json.loads(tier3.read_text())["tasks"]["ours"]
    assert task["examples"] == 256
    assert f"Scores: {tier3.parent}\n" in process.stdout
    assert f"{task['primary']:.4f}" in process.stdout
    assert "prose" in process.stdout
