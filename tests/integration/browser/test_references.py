"""Other models in report.html: labelled lines, and the table of you against them."""

import pytest

from support.samples.reference_run import write_reference_run

READ = """
window.report.drawAll();
const lines = Object.fromEntries(window.report.plots.map(({key, chart}) => [key, chart.data.slice(7).map(values => values[0])]));
const table = document.querySelector('table.references');
return {lines, heads: [...table.querySelectorAll('thead th')].map(each => each.textContent),
  rows: [...table.querySelectorAll('tbody tr')].map(row => [...row.children].map(each => each.textContent)),
  steps: [...document.querySelectorAll('#stage-1 table')].map(each => each.textContent).join(' ')};
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory, render, chromium):
    chromium.open_file(render(write_reference_run(tmp_path_factory.mktemp("references"))))
    return chromium.run(READ)


def test_charts_have_a_line_for_each_model_and_none_where_tokens_count(found):
    assert found["lines"]["stage1/tier3_cf/"] == pytest.approx([0.5, 0.55])
    assert found["lines"]["stage1/tier2_ppl//bits_per_byte"] == pytest.approx([1.0, 0.9], abs=0.02)
    assert found["lines"]["stage1/tier2_ppl/"] == []


def test_the_table_says_who_is_ahead_and_since_when(found):
    assert [head for head in found["heads"] if head.startswith(("small", "large"))] == ["small11T tokens", "largetokens unknown"]
    rows = {row[0]: row[1:] for row in found["rows"]}
    ours, theirs, change, overtaken = rows["tier 3 total, acc per char"][:4]
    assert (ours, theirs) == ("60.0 %", "50.0 %")
    assert change.startswith("▲ +10.0 pts [")
    assert overtaken.startswith("ahead from step 233 on [")
    assert "reference:small" not in found["steps"]
