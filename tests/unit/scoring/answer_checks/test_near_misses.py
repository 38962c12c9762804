"""Each check on answers that pass, and on answers that differ from them by little."""

from pathlib import Path

import pytest
import yaml

from scoring.answer_checks.base import ModelAnswer
from scoring.answer_checks.registry import check_answer
from suites.definitions.checks import CLEAN_CHECKS, PROMPT_CHECKS

pytestmark = pytest.mark.scoring

TABLE = yaml.safe_load((Path(__file__).parents[3] / "data" / "answer_near_misses.yaml").read_text())
ROWS = [
    (check, row["parameters"], kind, text)
    for check, rows in TABLE.items()
    for row in rows
    for kind in ("passes", "fails")
    for text in row[kind]
]


def test_each_check_has_a_table():
    assert set(TABLE) == {*PROMPT_CHECKS, *CLEAN_CHECKS} - {"stops"}  # which is judged by how the answer ended
    for check, rows in TABLE.items():
        assert sum(len(row["passes"]) + len(row["fails"]) for row in rows) >= 20, check
        assert sum(len(row["fails"]) for row in rows) >= 9, check


@pytest.mark.parametrize(("check", "parameters", "kind", "text"), ROWS)
def test_an_answer_passes_or_nearly_does(check, parameters, kind, text):
    definitions = [] if check in CLEAN_CHECKS else [{"check": check, **parameters}]
    outcome = next(outcome for outcome in check_answer(ModelAnswer(text=text), definitions) if outcome.check == check)
    assert outcome.passed == (kind == "passes"), outcome.evidence
    assert outcome.evidence.isprintable()
