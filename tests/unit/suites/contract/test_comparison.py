"""compare.json as both sides agree on it, and what objectives may name."""

import msgspec
import pytest

from suites.common.errors import UserError
from suites.common.yaml_reader import parse_yaml
from suites.contract.comparison import CompareRequest, EvaluationRef, read_comparison_document
from suites.contract.encoding import encode_json, read_request
from suites.contract.objectives import Objectives, ObjectiveTarget, check_objectives, choose_ranking_total, resolve_objective
from support.samples.comparison import STAGE_STEPS, make_sample_document, write_sample_run

SCORED = {"tier2_ppl": ("web", "code"), "tier3_cf": ("sciq", "piqa")}
GROUPED = Objectives(improve=("texts",), groups={"texts": ("gone", "code")})


def test_what_is_written_is_read_again(tmp_path):
    written = write_sample_run(tmp_path)
    assert len(written) == sum(len(steps) for steps in STAGE_STEPS.values())
    for document in written.values():
        assert read_comparison_document(document.request.candidate.paths.compare_json) == document


def test_a_reader_takes_fields_of_a_later_version_in_stride_and_says_what_is_no_comparison(tmp_path):
    path = tmp_path / "compare.json"
    assert read_comparison_document(path) is None
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(make_sample_document("stage2", 6000)) | {"later": 1}))
    assert read_comparison_document(path) == make_sample_document("stage2", 6000)
    path.write_text("{}")
    with pytest.raises(UserError, match="not a comparison: Object missing required field"):
        read_comparison_document(path)


def test_the_comparison_with_each_baseline_is_found_by_its_role_and_its_totals_by_their_tier():
    first, third = make_sample_document("stage2", 2000), make_sample_document("stage2", 10000)
    assert first.get_comparison("previous") is None
    assert third.get_comparison("bridge").baseline.source_stage == "stage1"
    assert third.get_comparison("previous").baseline.step == 6000
    total = third.get_comparison("bridge").get_total("tier3_cf")
    assert total.effect == total.effects["primary"]
    assert third.get_comparison("bridge").get_total("tier4_sft_native") is None
    told = [(role, tier, name) for role, tier, name, key, _ in third.iter_effects() if key == "primary"]
    assert ("bridge", "tier3_cf", "sciq") in told
    assert ("best", "tier3_cf", "tier3_cf") in told


def test_a_request_is_read_or_its_mistake_is_named(tmp_path):
    path = tmp_path / "request.json"
    request = CompareRequest(candidate=EvaluationRef(results="/r", stage="stage2", directory="step_2000"), objectives=GROUPED)
    path.write_bytes(encode_json(request))
    assert read_request(path, CompareRequest) == request
    path.write_text('{"candidate": {"results": 1}}')
    with pytest.raises(UserError, match=r"not a valid request: Expected `str`, got `int` - at `\$\.candidate\.results`"):
        read_request(path, CompareRequest)
    with pytest.raises(UserError, match="cannot be read"):
        read_request(tmp_path / "none.json", CompareRequest)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tier2", ObjectiveTarget("tier2_ppl", None)),
        ("tier4", ObjectiveTarget("tier4_sft_native", None)),
        ("code", ObjectiveTarget("tier2_ppl", ("code",))),
        ("sciq", ObjectiveTarget("tier3_cf", ("sciq",))),
        ("texts", ObjectiveTarget("tier2_ppl", ("gone", "code"))),
        ("mmlu", None),
    ],
)
def test_a_name_stands_for_a_tier_a_slice_a_task_or_a_group(name, meant):
    assert resolve_objective(name, GROUPED, SCORED) == meant


def test_the_best_step_is_chosen_by_what_the_stage_should_improve_first_and_otherwise_by_its_first_tier():
    assert choose_ranking_total(GROUPED, SCORED) == ObjectiveTarget("tier2_ppl", ("gone", "code"))
    assert choose_ranking_total(Objectives(improve=("tier4", "sciq")), SCORED) == ObjectiveTarget("tier3_cf", ("sciq",))
    assert choose_ranking_total(Objectives(), SCORED) == ObjectiveTarget("tier2_ppl", None)
    assert choose_ranking_total(Objectives(improve=("mmlu",)), {"tier3_cf": ("sciq",)}) == ObjectiveTarget("tier3_cf", None)
    assert choose_ranking_total(Objectives(), {}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("improve: [wep]", "f:1: improve: no tier, slice, task or group 'wep'; did you mean 'web'?"),
        ("hold: [tier2, tier2]", "f:1: hold: has a name twice; remove one of the two"),
        ("hold: [tier3]\ngroups:\n  a: [web, cod]", "f:3: groups.a: the stage's suites have no 'cod'; did you mean 'code'?"),
        (
            "groups: {a: [web, sciq]}",
            "f:1: groups.a: slices and tasks have no common total; make one group of slices and one of tasks",
        ),
        ("groups: {a: []}", "f:1: groups.a: is empty; name at least one slice or task"),
        (
            "groups: {sciq: [web]}",
            "f:1: groups.sciq: 'sciq' is already the name of a tier, slice, task or rate; give the group another name",
        ),
        (
            "groups: {tier2: [web]}",
            "f:1: groups.tier2: 'tier2' is already the name of a tier, slice, task or rate; give the group another name",
        ),
    ],
)
def test_a_mistake_in_objectives_is_named_with_its_line(text, message):
    document = parse_yaml(text, "f", {})
    with pytest.raises(UserError) as caught:
        check_objectives(document, (), msgspec.convert(document.data, Objectives), SCORED)
    assert str(caught.value) == message


def test_rates_are_named_one_by_one():
    document = parse_yaml("groups: {a: [json_valid_rate]}", "f", {})
    with pytest.raises(UserError, match="rates have no common total; name every rate separately"):
        check_objectives(document, (), msgspec.convert(document.data, Objectives), {"tier4_sft_native": ("json_valid_rate",)})
