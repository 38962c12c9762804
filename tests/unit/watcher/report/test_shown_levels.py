"""Hints, levels and the choice of the best, wherever a verdict is shown."""

import io
import math

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from suites.contract.comparison import ComparedEntry, Comparison, Effect
from suites.contract.looks import CONTROL_SENTENCES
from support.samples.hints import CHOICE, show_hint
from support.samples.report import ReportSample
from watcher.cli.app import main
from watcher.journal.journal import read_journal
from watcher.reconcile.alerts import make_regression_alert
from watcher.report.data import build_report
from watcher.report.figures import Figure, collect_changes
from watcher.report.page_data import build_page_data
from watcher.report.tables import iter_report_rows
from watcher.report.terminal import print_evaluation, print_report
from watcher.status.health import check_liveness


@pytest.fixture
def sample(tmp_path):
    steps, bridges = {"stage1": (15, 25), "stage2": (10, 20, 30)}, {"stage2": ("stage1", 25)}
    made = ReportSample(
        tmp_path, steps=steps, bridges=bridges, of=lambda _stage: (("general_web",), ("sciq",), ())
    ).write_sample()
    show_hint(made, "stage2", 30)
    return made


def read_report(sample):
    state = read_journal(sample.config.paths)
    return build_report(sample.config, state, check_liveness(sample.config.paths, sample.now), sample.now)


def test_the_terminal_draws_a_hint_neutrally_and_says_the_levels_and_the_choice(sample):
    console = Console(file=io.StringIO(), width=300, force_terminal=True, color_system="standard")
    print_report(read_report(sample), console, details=True)
    text = console.file.getvalue()
    lines = [line for line in text.splitlines() if "~ " in line]
    assert len(lines) >= 3
    assert all("\x1b[32m~" not in line and "\x1b[31m~" not in line for line in lines)
    assert "each total at 0.064 %, all entries together at 0.032 %" in text
    assert CHOICE in text


def test_the_pages_data_have_hints_levels_choice_and_what_is_controlled(sample):
    data = build_page_data(read_report(sample), sample.results)
    assert data["controlled"] == list(CONTROL_SENTENCES)
    assert len(CONTROL_SENTENCES) == 4
    stage = next(stage for stage in data["stages"] if stage["name"] == "stage2")
    newest = stage["evaluations"][-1]["against"]
    assert newest["best"]["choice"] == CHOICE
    assert newest["bridge"]["choice"] is None
    assert newest["bridge"]["levels"] == "each total at 0.064 %, all entries together at 0.032 %"
    totals = [place for place, figure in enumerate(stage["figures"]) if not figure["name"]]
    shown = {data["verdicts"][stage["changes"]["best"][-1][place][4]] for place in totals}
    assert shown == {"hint"}


def test_a_hint_stands_in_the_rows_and_alerts_nobody(sample):
    report = read_report(sample)
    rows = [row for row in iter_report_rows(report) if row["evaluation"] == "stage2/step_30" and not row["name"]]
    assert {row["verdict"] for row in rows if row.get("against")} == {"hint"}
    stage = next(stage for stage in report.stages if stage.name == "stage2")
    comparison = stage.evaluations[-1].get_comparison("bridge")
    without_objectives = msgspec.structs.replace(comparison, objectives=(), outcome=None)
    assert make_regression_alert("stage2/step_30", "stage2", without_objectives) is None


def test_a_comparison_without_a_journaled_level_is_outdated(sample):
    state = read_journal(sample.config.paths)
    record = state.records["stage2/step_30"]
    assert record.level is not None
    state.records["stage2/step_30"] = msgspec.structs.replace(record, level=None)
    report = build_report(sample.config, state, check_liveness(sample.config.paths, sample.now), sample.now)
    stage = next(stage for stage in report.stages if stage.name == "stage2")
    assert [evaluation.outdated for evaluation in stage.iter_stage_evaluations()] == [False, False, True]


def make_slice(test, perplexity):
    """A comparison of one slice, with the test in nats a token and the perplexities' own interval beside it."""
    figures = {"better_when": "lower", "n": 20, "p": 0.2}
    nats = Effect(
        metric="nll_per_token", baseline=5.0, candidate=5.0 + test[0], delta=test[0], low=test[1], high=test[2], **figures
    )
    base = math.exp(5.0)
    values = {"baseline": base, "candidate": base * math.exp(test[0]), "delta": base * math.expm1(test[0])}
    shown = Effect(metric="ppl", low=perplexity[0], high=perplexity[1], **values, **figures)
    effects = {"nll_per_token": nats, "ppl": shown}
    names = {"tier": "tier2_ppl", "kind": "slice", "name": "web", "judged_by": "nll_per_token", "unit": "document"}
    entry = ComparedEntry(effects=effects, plain=True, **names)
    return Comparison(role="bridge", baseline=None, entries=(entry,))


@pytest.mark.parametrize(
    ("test", "perplexity"),
    [
        ((-0.129, -0.427, 0.061), (-65.5, -5.27)),  # the perplexities' own interval excludes zero, the test's does not
        ((-0.2, -0.3, -0.1), (-60.0, 3.0)),
        ((0.1, -0.2, 0.4), (1.0, 20.0)),
        ((0.5, 0.1, 5000.0), (1.0, 200.0)),
        ((0.5, None, None), (None, None)),
    ],
)
def test_a_changes_interval_is_that_of_the_test_that_gives_its_sign(test, perplexity):
    change = collect_changes(make_slice(test, perplexity))[Figure("tier2_ppl", "web")]
    assert change.value == pytest.approx(math.exp(5.0) * math.expm1(test[0]))
    for shown, tested in ((change.low, test[1]), (change.high, test[2])):
        assert (shown is None) == (tested is None)
        if tested is not None:
            assert math.isfinite(shown)
            assert (shown > 0) == (tested > 0)
            assert (shown > change.value) == (tested > test[0])


@pytest.mark.parametrize("width", [40, 80, 300])
def test_no_number_is_broken_or_cut_however_narrow_the_terminal(sample, width):
    console = Console(file=io.StringIO(), width=width)
    print_report(read_report(sample), console, details=False)
    lines = console.file.getvalue().splitlines()
    assert not any("…" in line for line in lines)
    assert not any(line.rstrip().endswith((" ±", ",")) for line in lines)
    intervals = [line for line in lines if "[+" in line or "[-" in line]
    assert intervals
    assert all(line.count("[") == line.count("]") for line in intervals)
    assert any("▲ " in line and "[" in line for line in lines) == (width == 300)
    # On a narrow terminal a table may be wider than it; on a usual one none is.
    assert width == 40 or max(map(len, lines)) <= width


@pytest.mark.parametrize("arguments", [(), ("--snr",), ("--details",), ("stage2", "30")])
def test_in_a_pipe_every_table_has_eighty_columns(sample, arguments):
    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["report", *arguments, "--config", str(sample.config_file)])
    assert result.exit_code == 0, result.output
    # A path has no place where it could be broken.
    assert max(len(line) for line in result.output.splitlines() if "/" not in line) <= 80
    assert "\x1b" not in result.output


def test_a_reason_is_a_sentence_below_the_table(sample):
    report = read_report(sample)
    stage = report.stages[1]
    reason = "the tokenizer of this checkpoint is another one than the stage's; see watcher why"
    blocked = msgspec.structs.replace(stage.evaluations[-1], state="blocked", reason=reason)
    stage = msgspec.structs.replace(stage, evaluations=(*stage.evaluations[:-1], blocked))
    console = Console(file=io.StringIO(), width=60)
    print_report(msgspec.structs.replace(report, stages=(stage,)), console, details=False)
    text = console.file.getvalue()
    assert f"30: {reason}" in " ".join(text.split())
    assert sum(line.rstrip().endswith(" blocked") for line in text.splitlines()) == 1


def test_a_best_that_is_the_step_before_shares_its_column_and_levels_are_said_once(sample):
    report = read_report(sample)
    stage = report.stages[1]
    newest = stage.evaluations[-1]
    previous = newest.get_comparison("previous")
    best = msgspec.structs.replace(previous, role="best")
    document = msgspec.structs.replace(newest.compared, comparisons=(previous, best))
    console = Console(file=io.StringIO(), width=300)
    print_evaluation(msgspec.structs.replace(newest, compared=document), stage, console)
    text = console.file.getvalue()
    assert text.count("vs previous and best [95 %]") == text.count("[95 %]") == 1
    assert text.count("levels of the verdicts: ") == 1
