"""`watcher prefill` runs the one that has torch, with what the config says, and exits as it does."""

import json
import sys

from click.testing import CliRunner

from watcher.cli import main

FAKE = """#!{python}
import json, sys
open({log!r}, "a").write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit({code})
"""


def prefill(tmp_path, *argv, code=0, stage="{tokenizer: acme/tok, seq_len: 8, use_fast: false, "):
    python, log, suite = tmp_path / "python", tmp_path / "log", tmp_path / "ours.yaml"
    python.write_text(FAKE.format(python=sys.executable, log=str(log), code=code))
    python.chmod(0o755)
    suite.write_text("tier: tier2_ppl\nslices: {web: {hf_dataset: acme/web}}\n")
    stage += f"checkpoints: {tmp_path}/ckpts, steps: [1], suites: [{suite}]}}"
    config = tmp_path / "watcher.yaml"
    config.write_text(f"scratch: {tmp_path}\npython: {python}\nexecutor: local\nstages:\n  one: {stage}\n")
    ended = CliRunner().invoke(main, ["prefill", *argv, "--config", str(config)])
    return ended, [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else [], suite


def test_the_child_gets_what_the_config_says_and_its_code_is_passed_on(tmp_path):
    ended, (argv,), suite = prefill(tmp_path, "one", "--refresh", "--jobs", "2", code=75)
    assert ended.exit_code == 75, ended.output
    data = str(tmp_path / "evaluation_results" / "eval_data")
    head = ["-m", "scoring", "prefill", "--eval-data", data, "--tokenizer", "acme/tok", "--suite", str(suite)]
    assert argv == [*head, "--slow-tokenizer", "--jobs", "2", "--refresh"]


def test_without_a_stage_all_are_filled(tmp_path):
    ended, calls, _ = prefill(tmp_path)
    assert (ended.exit_code, len(calls)) == (0, 1), ended.output


def test_a_stage_without_a_tokenizer_is_said_in_one_line(tmp_path):
    ended, calls, _ = prefill(tmp_path, "one", stage="{")
    assert (ended.exit_code, calls) == (2, [])
    assert "stage one: no tokenizer is known before the stage's first checkpoint; give --tokenizer" in ended.output
