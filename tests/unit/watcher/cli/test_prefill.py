"""`watcher prefill` runs the one that has torch, with what the config says, and exits as it does."""

import json
import sys
import time
from pathlib import Path

from click.testing import CliRunner

from suites.contract.exit_record import read_exit_records
from suites.contract.paths import DataPaths, StatePaths
from suites.contract.scoring_request import read_scoring_request
from support.models.hf_checkpoint import write_hf_folder
from support.models.nanotron_checkpoint import set_times, write_tiny_checkpoint
from watcher.cli.app import main
from watcher.core import stage_events
from watcher.core.evaluation import StageSettings
from watcher.journal.journal import Journal

FAKE = """#!{python}
import json, sys
open({log!r}, "a").write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit({code})
"""


def prefill(tmp_path, *argv, code=0, more="", stage="{tokenizer: acme/tok, seq_len: 8, use_fast: false, "):
    python, log, suite = tmp_path / "python", tmp_path / "log", tmp_path / "ours.yaml"
    python.write_text(FAKE.format(python=sys.executable, log=str(log), code=code))
    python.chmod(0o755)
    suite.write_text("tier: tier2_ppl\nslices: {web: {hf_dataset: acme/web}}\n")
    stage += f"checkpoints: {tmp_path}/ckpts, steps: [1], suites: [{suite}]}}"
    config = tmp_path / "watcher.yaml"
    config.write_text(f"scratch: {tmp_path}\npython: {python}\nexecutor: local\n{more}stages:\n  one: {stage}\n")
    ended = CliRunner().invoke(main, ["prefill", *argv, "--config", str(config)])
    return ended, [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else [], suite


def test_the_child_gets_what_the_config_says_and_its_code_is_passed_on(tmp_path):
    ended, (argv,), suite = prefill(tmp_path, "one", "--refresh", "--jobs", "2", code=75)
    assert ended.exit_code == 75, ended.output
    data = str(tmp_path / "evaluation_results" / "eval_data")
    head = ["-P", "-m", "scoring", "prefill", "--suite", str(suite), "--eval-data", data, "--tokenizer", "acme/tok"]
    assert argv == [*head, "--slow-tokenizer", "--jobs", "2", "--refresh"]


def test_without_a_stage_all_are_filled(tmp_path):
    ended, calls, _ = prefill(tmp_path)
    assert (ended.exit_code, len(calls)) == (0, 1), ended.output


def test_a_stage_without_a_tokenizer_is_said_in_one_line(tmp_path):
    ended, calls, _ = prefill(tmp_path, "one", stage="{")
    assert (ended.exit_code, calls) == (2, [])
    assert "stage one: the tokenizer is unknown before the first checkpoint; give --tokenizer" in ended.output


def test_the_tokenizer_that_the_first_checkpoint_named_is_taken_from_the_journal(tmp_path):
    paths = StatePaths(tmp_path / "evaluation_results" / ".watcher")
    journal = Journal.open(paths)
    facts = StageSettings(tokenizer="acme/found", seq_len=8)
    journal.append(stage_events.StageFactsRead(stage="one", facts=facts), t=1.0)
    journal.close()
    ended, (argv,), _ = prefill(tmp_path, "one", stage="{")
    assert ended.exit_code == 0, ended.output
    assert argv[argv.index("--tokenizer") + 1] == "acme/found"


def test_the_tokenizer_of_a_complete_checkpoint_is_taken_before_any_tick(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "ckpts" / "1", 1, tokenizer="acme/trained")
    set_times(folder, time.time() - 3600)
    ended, (argv,), _ = prefill(tmp_path, "one", stage="{")
    assert ended.exit_code == 0, ended.output
    assert argv[argv.index("--tokenizer") + 1] == "acme/trained"


def test_a_checkpoint_is_judged_by_the_file_server_s_clock(tmp_path, monkeypatch):
    folder = write_tiny_checkpoint(tmp_path / "ckpts" / "1", 1, tokenizer="acme/trained")
    set_times(folder, time.time() + 7200)  # the server is hours ahead
    monkeypatch.setattr("watcher.core.clock.touch_clock", lambda _path: time.time() + 3 * 3600)
    ended, (argv,), _ = prefill(tmp_path, "one", stage="{")
    assert ended.exit_code == 0, ended.output
    assert argv[argv.index("--tokenizer") + 1] == "acme/trained"


def wait_for_end(folder):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        records = read_exit_records(folder)
        if records:
            return records
        time.sleep(0.02)
    raise AssertionError(list(folder.iterdir()))


def test_as_a_job_it_is_submitted_and_leaves_its_end_beside_its_request(tmp_path):
    ended, _, _ = prefill(tmp_path, "one", code=75, more="prefill: {where: job}\n")
    assert ended.exit_code == 0, ended.output
    (folder,) = (tmp_path / "evaluation_results" / ".watcher" / "prefills").iterdir()
    (record,) = wait_for_end(folder)
    assert (record.code, record.run_id) == (75, folder.name)
    assert f"fills the cache; log: {tmp_path}/evaluation_results/one/eval_logs/slurm/prefill_one_" in ended.output
    assert Path(ended.output.split()[-1]).is_file()
    request = read_scoring_request(folder / "request.json")
    assert (request.tokenizer, request.use_fast, request.offline) == ("acme/tok", False, False)
    assert [suite.source for suite in request.suites] == [str(tmp_path / "ours.yaml")]
    argv = json.loads((tmp_path / "log").read_text())
    assert argv == ["-P", "-m", "scoring", "prefill", "--request", str(folder / "request.json")]


def test_a_job_takes_no_options_of_the_terminal(tmp_path):
    ended, calls, _ = prefill(tmp_path, "one", "--refresh", more="prefill: {where: job}\n")
    assert (ended.exit_code, calls) == (2, [])
    assert "--refresh, --jobs: a prefill job accepts neither; omit both" in ended.output


def test_references_are_filled_with_the_suites_of_their_stages_and_their_own_tokenizer(tmp_path):
    folder = write_hf_folder(tmp_path / "models" / "tiny")
    references = f"references: {{tiny: {folder}, hub: {{checkpoint: 'hub:acme/small@v1', stages: one}}}}\n"
    ended, calls, suite = prefill(tmp_path, more=references)
    assert ended.exit_code == 0, ended.output
    given = [{name: argv[argv.index(name) + 1] for name in ("--suite", "--tokenizer")} for argv in calls]
    model = str(DataPaths(tmp_path / "evaluation_results" / "eval_data").model("acme/small@v1"))
    assert [each["--tokenizer"] for each in given] == ["acme/tok", str(folder), model]
    assert {each["--suite"] for each in given} == {str(suite)}
    assert [argv[argv.index("--model") + 1] if "--model" in argv else None for argv in calls] == [None, None, "acme/small@v1"]
    assert "--slow-tokenizer" not in calls[1]
    ended, calls, _ = prefill(tmp_path, "reference:hub", more=references)
    assert (ended.exit_code, len(calls)) == (0, 4), ended.output
    ended, _, _ = prefill(tmp_path, "reference:no", more=references)
    assert (ended.exit_code, "no stage 'reference:no'" in ended.output) == (2, True)
    (folder / "tokenizer.json").unlink()
    ended, _, _ = prefill(tmp_path, "reference:tiny", more=references)
    assert ended.exit_code == 2
    assert f"{folder}: has no tokenizer" in ended.output
