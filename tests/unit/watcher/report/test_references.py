"""Other models in the report: the table of the newest step against them, where curves overtake them, and rows of CSV."""

import csv
import io
import re

import pytest
from click.testing import CliRunner

from watcher.cli.app import main

pytestmark = pytest.mark.scoring


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    from support.samples.reference_run import write_reference_run  # noqa: PLC0415  the login node has no numpy

    sample = write_reference_run(tmp_path_factory.mktemp("run"))

    def run(*arguments, columns=200):
        environment = {"COLUMNS": str(columns)}
        ended = CliRunner().invoke(main, ["report", *arguments, "--config", str(sample.config_file)], env=environment)
        assert ended.exit_code == 0, ended.output
        return ended.output

    return run


def test_the_terminal_shows_the_newest_step_against_each_with_the_step_of_the_crossing(report):
    text = report()
    assert "step 300 (300k tokens) against small (11T tokens), large (tokens unknown)" in text
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert "0.5000" in lines["tier 3 total, acc per char"]
    assert "+0.1000" in lines["tier 3 total, acc per char"]
    assert "ahead from step 233 on" in lines["tier 3 total, acc per char"]
    assert "bits per byte" in lines["tier 2 total, bits per byte"]
    assert "not compared: small: ppl: different tokenizer: theirs at the baseline, ours at the candidate: perplexities" in text
    overview = text[: text.index("step 300 (")]
    assert "reference" not in overview, "another model's perplexity stands in no column beside ours"


def test_a_narrow_terminal_has_a_table_for_each_reference_with_the_same_numbers(report):
    text = report(columns=80)
    assert max(map(len, text.splitlines())) <= 80
    table = text[text.index("step 300 (") : text.index("levels of the verdicts", text.index("step 300 ("))]
    assert [table.count(f"minus {name}") for name in ("small", "large")] == [1, 1]
    wide = report()
    numbers = re.findall(r"[+-]?\d\.\d{4}", wide[wide.index("step 300 (") : wide.index("levels", wide.index("step 300 ("))])
    assert sorted(re.findall(r"[+-]?\d\.\d{4}", table)) == sorted(numbers)
    assert "ahead from step 233 on" in table


def test_csv_has_their_figures_and_the_paired_differences(report):
    rows = list(csv.DictReader(io.StringIO(report("--csv"))))
    figures = [row for row in rows if row["role"] == "reference"]
    assert {(row["source"], row["tokens_seen"]) for row in figures} == {
        ("reference:small", str(11 * 10**12)),
        ("reference:large", "0"),
    }
    differences = {
        (row["evaluation"], row["metric"], row["against_evaluation"]): float(row["value"])
        for row in rows
        if row["against"] == "reference" and not row["name"]
    }
    assert differences["stage1/step_300", "delta_primary", "stage1/reference_small"] == pytest.approx(0.1)
    assert ("stage1/step_300", "delta_bits_per_byte", "stage1/reference_large") in differences
    assert not any(metric in {"delta_ppl", "delta_nll_per_token"} for _, metric, _ in differences)


def test_exports_have_runs_of_their_own_for_them_and_the_differences(tmp_path):
    from scoring.export.points import collect_points  # noqa: PLC0415  the login node has no numpy
    from support.samples.reference_run import write_reference_run  # noqa: PLC0415

    points = collect_points(write_reference_run(tmp_path).results, warn=pytest.fail)
    assert [point.run for point in points] == [*["stage1"] * 3, "stage1_reference_large", "stage1_reference_small"]
    newest = points[2].values
    assert newest["delta_to_reference_small/tier3_cf/primary"] == pytest.approx(0.1)
    assert "delta_to_reference_large/tier2_ppl/web/bits_per_byte" in newest
