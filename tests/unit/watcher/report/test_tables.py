"""`watcher report` in a terminal and for programs: the files' numbers, hostile text made harmless, the gate's exit codes."""

import csv
import io
import json
import math
import shutil

import msgspec
import pytest
from click.testing import CliRunner

from suites.common.atomic_files import write_atomically
from suites.contract.comparison import ComparisonDocument, read_comparison_document
from suites.contract.encoding import encode_json
from support.samples.comparison import STAGE_STEPS, list_slices
from support.samples.report import ReportSample
from watcher.cli.app import main
from watcher.config.loader import load_config
from watcher.journal.journal import read_journal
from watcher.reconcile.stage_requests import build_stage_requests
from watcher.report.data import build_report
from watcher.report.forgetting import build_matrix
from watcher.status.health import check_liveness

EVIL = "\x1b[2J[red]x[/red]\x9b31m\u202e\ud800\r\nafter"


def command(sample, *words, width=150):
    found = CliRunner(env={"COLUMNS": str(width)}).invoke(main, ["report", *words, "--config", str(sample.config_file)])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return ReportSample(tmp_path_factory.mktemp("run")).write_sample()


@pytest.fixture
def mine(tmp_path):
    return ReportSample(
        tmp_path, steps={"stage1": (15, 25), "stage2": (10, 20)}, bridges={"stage2": ("stage1", 25)}, of=small
    ).write_sample()


def small(_stage):
    slices, tasks, _ = list_slices("stage2")
    return slices, tasks[:3], ()


def test_a_table_has_every_step_with_its_totals_and_their_change_since_the_bridge(sample):
    said = command(sample, "stage3").output
    file = json.loads(sample.get_paths("stage3", 4000).tier_json("tier2_ppl").read_text())
    compared = read_comparison_document(sample.get_paths("stage3", 4000).compare_json).get_comparison("bridge")
    (line,) = [line for line in said.splitlines() if line.split()[:1] == ["4000"]]
    assert f"{file['summary']['ppl']:.4g}" in line
    effects = compared.get_total("tier2_ppl").effects
    perplexity, tested = effects["ppl"], effects["nll_per_token"]
    low, high = (perplexity.baseline * math.expm1(bound) for bound in (tested.low, tested.high))
    assert f"{perplexity.delta:+.3g} [{low:+.3g}, {high:+.3g}]" in line
    assert compared.outcome in line
    assert "bridge: stage2 step 22000" in said


def test_all_stages_are_shown_with_what_was_forgotten(sample):
    said = command(sample).output
    assert all(f"{stage}: " in said for stage in STAGE_STEPS)
    assert "Forgotten, by paired tests that are corrected together:" in said


def test_runs_of_one_sweep_are_alternatives_and_forget_nothing_of_each_other(sample):
    config = load_config(sample.config_file, {})
    journal_state = read_journal(config.paths)
    assert build_matrix(build_report(config, journal_state, check_liveness(config.paths, 0.0), 0.0)).list_forgotten()
    assert any(request.earlier_ends for request in build_stage_requests(config, journal_state).values())
    stages = {name: msgspec.structs.replace(stage, runs="sweep") for name, stage in config.stages.items()}
    requests = build_stage_requests(msgspec.structs.replace(config, stages=stages), journal_state)
    assert not any(request.earlier_ends for request in requests.values())


def test_one_step_shows_every_figure_and_every_objective(sample):
    said = command(sample, "stage2", "22000").output
    slices, tasks, _ = list_slices("stage2")
    assert all(name in said for name in (*slices, *tasks))
    assert "pass: improve hq" in said
    assert "log: " in said


def test_a_step_that_is_not_there_is_refused_with_those_that_are(sample):
    found = command(sample, "stage2", "7")
    assert found.exit_code == 2
    assert "no evaluation of step 7" in found.stderr
    assert "22000" in found.stderr


def test_csv_has_a_row_for_each_figure_and_each_difference(sample):
    rows = list(csv.DictReader(io.StringIO(command(sample, "--csv").stdout)))
    file = json.loads(sample.get_paths("stage2", 6000).tier_json("tier3_cf").read_text())
    wanted = {"evaluation": "stage2/step_6000", "tier": "tier3_cf", "name": "sciq", "metric": "primary", "against": ""}
    (row,) = [row for row in rows if wanted.items() <= row.items()]
    assert float(row["value"]) == file["tasks"]["sciq"]["primary"]
    assert float(row["error"]) == file["tasks"]["sciq"]["acc_per_char_stderr"]
    effect = (
        read_comparison_document(sample.get_paths("stage2", 6000).compare_json)
        .get_comparison("previous")
        .get_total("tier2_ppl")
        .effects["nll_per_token"]
    )
    wanted |= {"tier": "tier2_ppl", "name": "", "metric": "delta_nll_per_token", "against": "previous"}
    (row,) = [row for row in rows if wanted.items() <= row.items()]
    assert (float(row["value"]), float(row["low"]), row["verdict"]) == (effect.delta, effect.low, effect.verdict)
    assert row["against_evaluation"] == "stage2/step_2000"


def test_errors_of_totals_follow_from_those_of_their_parts(sample):
    rows = list(csv.DictReader(io.StringIO(command(sample, "stage1", "--csv").stdout)))
    of_step = [row for row in rows if row["step"] == "2000" and not row["against"]]
    total = next(row for row in of_step if (row["tier"], row["name"], row["metric"]) == ("tier2_ppl", "", "nll_per_token"))
    parts = [row for row in of_step if row["tier"] == "tier2_ppl" and row["name"] and row["metric"] == "nll_per_token"]
    expected = math.sqrt(sum((5e6 * float(part["error"])) ** 2 for part in parts)) / (5e6 * len(parts))
    assert float(total["error"]) == pytest.approx(expected, rel=1e-12)
    primary = next(row for row in of_step if (row["tier"], row["name"], row["metric"]) == ("tier3_cf", "", "primary"))
    tasks = [float(row["error"]) for row in of_step if row["tier"] == "tier3_cf" and row["name"] and row["metric"] == "primary"]
    assert float(primary["error"]) == pytest.approx(math.sqrt(sum(error**2 for error in tasks)) / len(tasks), rel=1e-12)


def test_json_is_everything(sample):
    document = json.loads(command(sample, "--json").stdout)
    assert [stage["name"] for stage in document["stages"]] == list(STAGE_STEPS)
    assert sum(len(stage["evaluations"]) for stage in document["stages"]) == 25
    assert document["health"] == "alive"


def rewrite(sample, step, **changes):
    path = sample.get_paths("stage2", step).compare_json
    compared = read_comparison_document(path)
    bridge = msgspec.structs.replace(compared.comparisons[0], **changes)
    write_atomically(path, encode_json(msgspec.structs.replace(compared, comparisons=(bridge, *compared.comparisons[1:]))))


@pytest.mark.parametrize(("outcome", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 3), (None, 4)])
def test_the_gate_goes_by_the_newest_steps_objectives(mine, outcome, code):
    path = mine.get_paths("stage2", 20).compare_json
    objectives = read_comparison_document(path).comparisons[0].objectives if outcome else ()
    judged = tuple(msgspec.structs.replace(objective, outcome=outcome) for objective in objectives)
    rewrite(mine, 20, outcome=outcome, objectives=judged)
    found = command(mine, "--check", "stage2")
    assert found.exit_code == code
    assert "stage2/step_20" in found.output


def test_the_gate_says_what_there_is_to_wait_for(mine):
    assert command(mine, "--check", "stage1").exit_code == 4
    said = "stage1 has no bridge, so it has no verdict: write bridge: {from: STAGE, step: N} in the config"
    assert said in command(mine, "--check", "stage1").output
    mine.get_paths("stage2", 20).compare_json.unlink()
    found = command(mine, "--check", "stage2")
    assert found.exit_code == 4
    assert "not compared with the bridge yet" in found.output
    assert command(mine, "--check").exit_code == 2


def test_the_gate_trusts_no_comparison_that_would_be_made_otherwise_today(mine):
    text = mine.config_file.read_text()
    mine.config_file.write_text(text.replace("- tier3\n", "- tier3\n      - general_web\n"))
    found = command(mine, "--check", "stage2")
    assert found.exit_code == 4
    assert "baselines, suites or objectives have changed" in found.output


def test_broken_results_are_told_and_the_others_shown(mine):
    mine.get_paths("stage2", 10).tier_json("tier2_ppl").write_text("{")
    mine.get_paths("stage2", 20).compare_json.write_text('{"schema": 1}')
    shutil.rmtree(mine.get_paths("stage1", 15).folder)
    said = " ".join(command(mine, width=400).output.split())
    for words in ("tier2_ppl.json: not JSON", "compare.json: not a comparison", "tier3_cf.json: missing"):
        assert words in said
    assert f"{json.loads(mine.get_paths('stage2', 20).tier_json('tier2_ppl').read_text())['summary']['ppl']:.4g}" in said


def test_scores_of_another_content_are_told(mine):
    path = mine.get_paths("stage2", 10).tier_json("tier3_cf")
    document = json.loads(path.read_text())
    document["checkpoint"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(document))
    assert "scores another version of the checkpoint" in command(mine, width=400).output


def test_results_that_the_journal_does_not_know_are_shown_too(mine):
    for path in mine.config.paths.journal.iterdir():
        path.unlink()
    document = json.loads(command(mine, "--json").stdout)
    (stage,) = [stage for stage in document["stages"] if stage["name"] == "stage2"]
    assert {(each["step"], each["source"], each["state"]) for each in stage["evaluations"]} == {
        (10, "stage2", "on disk"),
        (20, "stage2", "on disk"),
        (25, "stage1", "on disk"),
    }


@pytest.mark.parametrize("words", [(), ("stage2", "20"), ("--check", "stage2"), ("--csv",), ("--details",)])
def test_hostile_text_reaches_no_terminal(mine, words):
    path = mine.get_paths("stage2", 20)
    compared = read_comparison_document(path.compare_json)
    first = compared.comparisons[0]
    judged = tuple(msgspec.structs.replace(one, name=EVIL.replace("\ud800", "")) for one in first.objectives)
    hostile = msgspec.structs.replace(first, objectives=judged, note=EVIL.replace("\ud800", ""))
    write_atomically(
        path.compare_json,
        encode_json(ComparisonDocument(candidate=compared.candidate, request=compared.request, comparisons=(hostile,))),
    )
    tier3 = path.tier_json("tier3_cf")
    document = json.loads(tier3.read_text())
    document["tasks"][EVIL] = document["tasks"]["piqa"]
    document["checkpoint"]["path"] = EVIL
    tier3.write_text(json.dumps(document))
    status = json.loads(mine.config.paths.status_json.read_text())
    mine.config.paths.status_json.write_text(json.dumps(status | {"host": EVIL}))
    found = command(mine, *words)
    assert found.output
    assert not set(found.output) & {"\x1b", "\x9b", "\u202e", "\r", "\ud800"}


def test_a_stage_that_nobody_knows_is_refused_with_the_nearest_name(sample):
    found = command(sample, "stage22")
    assert found.exit_code == 2
    assert "stage2" in found.stderr


def test_a_page_that_cannot_be_written_is_one_line(sample, tmp_path):
    found = command(sample, "--html", str(tmp_path / "no" / "such" / "report.html"))
    assert found.exit_code == 73
    assert "cannot be written" in found.stderr
