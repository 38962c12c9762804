"""The step at which a curve overtakes another model, and the stage's summary that has it."""

import msgspec
import numpy as np
import pytest

from scoring.compare.compare import run_comparison
from scoring.compare.crossings import DifferencePoint, find_crossing
from scoring.compare.stage_summary import run_stage_summary
from suites.contract.comparison import CompareRequest, read_comparison_document
from suites.contract.paths import EvaluationPaths
from suites.contract.stage_summary import StageRequest, read_stage_document, stage_summary_path
from support.samples.published_results import make_evaluation_ref, publish_sample_results

pytestmark = pytest.mark.scoring

NAMES = {"reference": "reference:small", "tier": "tier3_cf", "name": "", "metric": "primary"}


def cross(*points):
    return find_crossing([DifferencePoint(*point) for point in points], **NAMES)


def test_the_crossing_and_its_interval_are_where_the_joined_lines_meet_zero():
    points = [(100, -3.0, -4.0, -2.0), (200, -1.0, -2.0, 0.5), (300, 2.0, -0.5, 3.0), (400, 4.0, 3.0, 5.0)]
    found = cross(*points)
    steps, fine = [point[0] for point in points], np.linspace(100, 400, 300_001)
    roots = [fine[np.flatnonzero(np.interp(fine, steps, [point[column] for point in points]) <= 0)[-1]] for column in (1, 3, 2)]
    assert [found.step, found.low, found.high] == pytest.approx(roots, abs=0.01)
    assert (found.is_ahead, found.describe()) == (True, "ahead from step 233 on [180, 314]")


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([(100, -3, -4, -2), (200, -1, -2, 0)], "not ahead at step 200"),
        ([(100, 3, 2, 4), (200, 5, 4, 6)], "ahead from step 100 on"),
        ([(100, -1, -2, 0.5), (200, 1, -1, 3)], "ahead from step 150 on [before 100, after 200]"),
        ([(100, 1, 0.5, 2), (200, -1, -2, -0.5), (300, 3, 2, 4)], "ahead from step 225 on [211, 250]"),
        ([(100, -1, -2, 0)], "not ahead at step 100"),
    ],
)
def test_what_is_said_of_a_curve(points, said):
    assert cross(*points).describe() == said


def publish(tmp_path, directory, right, *, step=0, source=None):
    paths = EvaluationPaths(tmp_path / "stage1", directory)
    answers = np.arange(400) < 400 * right
    return publish_sample_results(paths, tasks={"quiz": (answers, None)}, step=step, source=source)


def test_a_stages_summary_has_the_crossings_of_its_comparisons(tmp_path):
    reference = make_evaluation_ref(publish(tmp_path, "reference_small", 0.5, source="reference:small"))
    refs = []
    for step, right in ((100, 0.3), (200, 0.45), (300, 0.6)):
        refs.append(make_evaluation_ref(publish(tmp_path, f"step_{step}", right, step=step)))
        run_comparison(CompareRequest(candidate=refs[-1], references=(reference,), level=0.01))
        document = read_comparison_document(refs[-1].paths.compare_json)
        (comparison,) = document.references
        assert (comparison.role, comparison.baseline.source_stage, comparison.entry_level) == (
            "reference",
            "reference:small",
            0.05,
        )
        assert comparison.get_total("tier3_cf").effect.delta == pytest.approx(right - 0.5)
    request = StageRequest(stage="stage1", results=str(tmp_path / "stage1"), evaluations=tuple(refs), references=(reference,))
    run_stage_summary(request)
    crossings = {
        (each.name, each.metric): each for each in read_stage_document(stage_summary_path(tmp_path / "stage1")).crossings
    }
    assert crossings[("", "primary")].step == pytest.approx(200 + 100 * 0.05 / 0.15)
    assert crossings[("", "primary")].low < crossings[("", "primary")].step < crossings[("", "primary")].high
    assert crossings[("quiz", "primary")].reference == "reference:small"
    refs[1].paths.compare_json.unlink()
    other = msgspec.structs.replace(reference, fingerprint="f" * 64)
    run_comparison(CompareRequest(candidate=refs[2], references=(), level=0.01))
    document = run_stage_summary(request)
    assert [(refusal.name, refusal.reason) for refusal in document.refusals if "compare.json" in refusal.reason] == [
        ("stage1/step_200", "compare.json has not these references"),
        ("stage1/step_300", "compare.json has not these references"),
    ]
    assert not run_stage_summary(msgspec.structs.replace(request, references=(other,))).crossings
