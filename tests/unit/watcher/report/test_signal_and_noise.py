"""`watcher report --snr` and `--items`: what stage.json says, and where it says nothing."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from suites.contract.comparison import ComparedEntry, Comparison, Effect, EvaluationInfo
from suites.contract.encoding import encode_json
from suites.contract.stage_summary import FigureNoise, StageDocument, StageRequest, read_stage_document, stage_summary_path
from support.samples.report import ReportSample
from watcher.cli.app import main
from watcher.report.figures import Figure, collect_changes


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return ReportSample(tmp_path_factory.mktemp("run")).write_sample()


def report(sample, *words):
    found = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["report", *words, "--config", str(sample.config_file)])
    return found.exit_code, found.output


def edit_summary(sample, stage, **changes):
    path = stage_summary_path(sample.results / stage)
    path.write_bytes(encode_json(msgspec.structs.replace(read_stage_document(path), **changes)))


def test_every_figure_has_its_noise_the_largest_signal_first(sample):
    code, said = report(sample, "stage2", "--snr")
    assert code == 0
    assert "the run's own noise from steps 2000 to 22000, 6 evaluations" in said
    document = read_stage_document(stage_summary_path(sample.results / "stage2"))
    lines = said.splitlines()
    shown = [line.split()[0] for line in lines[lines.index(next(line for line in lines if line.startswith("─"))) + 1 :] if line]
    assert shown == [figure.name for figure in sorted(document.noise, key=lambda figure: -figure.snr)]
    (line,) = [line for line in lines if line.startswith("general_web")]
    figure = document.find_noise("tier2_ppl", "general_web", "nll_per_token")
    assert f"{figure.noise:.2g} [{figure.low:.2g}, {figure.high:.2g}]" in line
    assert line.split()[-2:] == ["9.0", "yes"]


def test_what_is_not_known_yet_names_the_steps_that_would_help(tmp_path):
    sample = ReportSample(tmp_path, steps={"stage1": (15, 25)}, bridges={}, of=lambda _: (("web",), (), ())).write_sample()
    wanted = "the noise needs 8 evaluations; to score what is on disk: watcher enqueue stage1 18 20"
    unknown = FigureNoise(tier="tier2_ppl", name="web", metric="nll_per_token", newest=2.5)
    edit_summary(sample, "stage1", window=(), wanted=wanted, noise=(unknown,))
    said = report(sample, "--snr")[1]
    assert f"not known yet: {wanted}" in said
    assert said.count("not known yet") == 3  # above the table, and in two columns
    edit_summary(sample, "stage1", window=(15, 25), noise=(msgspec.structs.replace(unknown, unknown="no smooth trend"),))
    assert "not known yet (no smooth trend)" in report(sample, "--snr")[1]
    stage_summary_path(sample.results / "stage1").unlink()
    assert "no stage.json yet" in report(sample, "--snr")[1]
    stage_summary_path(sample.results / "stage1").write_text("{")
    assert "! stage.json: no summary of a stage" in report(sample)[1]


def test_lost_items_are_named_on_request(sample):
    assert "items lost" in report(sample)[1]
    assert "lost: q17, q18 and 1 more" not in report(sample)[1]
    assert "lost: q17, q18 and 1 more" in report(sample, "--items")[1]


@pytest.mark.parametrize("words", [("--snr", "--csv"), ("--snr", "--details"), ("--items", "--csv"), ("--items", "--snr")])
def test_options_that_exclude_each_other_are_refused(sample, words):
    code, said = report(sample, *words)
    assert code == 2
    assert "options exclude each other" in said


def test_forgetting_of_an_older_end_is_not_shown(tmp_path):
    sample = ReportSample(tmp_path).write_sample()
    for stage in sample.steps:
        path = stage_summary_path(sample.results / stage)
        document = read_stage_document(path)
        request = msgspec.structs.replace(document.request, evaluations=document.request.evaluations[:-1])
        edit_summary(sample, stage, request=request)
    assert "Forgotten" not in report(sample)[1]


@pytest.mark.parametrize(("delta", "is_within"), [(0.01, True), (-0.0277, True), (0.03, False)])
def test_a_change_within_the_noise_is_remarked_and_its_verdict_stays(delta, is_within):
    effect = Effect(
        metric="nll_per_token", better_when="lower", baseline=2.0, candidate=2.0, delta=delta, p=0.001, verdict="worse"
    )
    fields = {
        "tier": "tier2_ppl",
        "kind": "slice",
        "name": "web",
        "judged_by": "nll_per_token",
        "plain": True,
        "unit": "document",
    }
    info = EvaluationInfo(stage="s", source_stage="s", step=1, directory="d", checkpoint="/c", fingerprint="f")
    entry = ComparedEntry(effects={"nll_per_token": effect}, **fields)
    noise = FigureNoise(tier="tier2_ppl", name="web", metric="nll_per_token", newest=2.0, noise=0.01, within_noise=0.0277)
    summary = StageDocument(request=StageRequest(stage="s", results="/r", evaluations=()), noise=(noise,))
    comparison = Comparison(role="bridge", baseline=info, entries=(entry,))
    change = collect_changes(comparison, summary)[Figure("tier2_ppl", "web")]
    assert (change.is_within_noise, change.verdict) == (is_within, "worse")
    assert not collect_changes(comparison)[Figure("tier2_ppl", "web")].is_within_noise


def test_the_page_has_the_table_of_every_stage(sample, tmp_path):
    assert report(sample, "--html", str(tmp_path / "page.html"))[0] == 0
    page = (tmp_path / "page.html").read_text()
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    rows = data["stages"][1]["noise"]["rows"]
    assert rows[0][:2] == ["general_web", "nll_per_token"]
    assert rows[0][8] == "yes"
    assert Path(data["results"]) == sample.results
