"""compare.json as both sides agree on it, and what objectives may name."""

import msgspec
import pytest

from suites.common.errors import Problem
from suites.common.yaml_reader import parse
from suites.contract.comparison import CompareRequest, Place, read_compare_request, read_compared
from suites.contract.encoding import encode
from suites.contract.objectives import Named, Objectives, check_objectives, own_total, resolve
from support.samples.comparison import STEPS, sample, sample_run

SCORED = {"tier2_ppl": ("web", "code"), "tier3_cf": ("sciq", "piqa")}
GROUPED = Objectives(improve=("texts",), groups={"texts": ("gone", "code")})


def test_what_is_written_is_read_again(tmp_path):
    written = sample_run(tmp_path)
    assert len(written) == sum(len(steps) for steps in STEPS.values())
    for document in written.values():
        assert read_compared(document.request.candidate.paths.compare) == document


def test_a_reader_takes_fields_of_a_later_version_in_stride_and_says_what_is_no_comparison(tmp_path):
    path = tmp_path / "compare.json"
    assert read_compared(path) is None
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(sample("stage2", 6000)) | {"later": 1}))
    assert read_compared(path) == sample("stage2", 6000)
    path.write_text("{}")
    with pytest.raises(Problem, match="not a comparison: Object missing required field"):
        read_compared(path)


def test_the_comparison_with_each_baseline_is_found_by_its_role_and_its_totals_by_their_tier():
    first, third = sample("stage2", 2000), sample("stage2", 10000)
    assert first.against("previous") is None
    assert third.against("bridge").baseline.source_stage == "stage1"
    assert third.against("previous").baseline.step == 6000
    total = third.against("bridge").total("tier3_cf")
    assert total.effect == total.effects["primary"]
    assert third.against("bridge").total("tier4_sft_native") is None
    told = [(role, tier, name) for role, tier, name, key, _ in third.effects() if key == "primary"]
    assert ("bridge", "tier3_cf", "sciq") in told
    assert ("best", "tier3_cf", "tier3_cf") in told


def test_a_request_is_read_or_its_mistake_is_named(tmp_path):
    path = tmp_path / "request.json"
    request = CompareRequest(candidate=Place(results="/r", stage="stage2", directory="step_2000"), objectives=GROUPED)
    path.write_bytes(encode(request))
    assert read_compare_request(path) == request
    path.write_text('{"candidate": {"results": 1}}')
    with pytest.raises(Problem, match=r"not a request to compare: Expected `str`, got `int` - at `\$\.candidate\.results`"):
        read_compare_request(path)
    with pytest.raises(Problem, match="cannot be read"):
        read_compare_request(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tier2", Named("tier2_ppl", None)),
        ("tier4", Named("tier4_sft_native", None)),
        ("code", Named("tier2_ppl", ("code",))),
        ("sciq", Named("tier3_cf", ("sciq",))),
        ("texts", Named("tier2_ppl", ("gone", "code"))),
        ("mmlu", None),
    ],
)
def test_a_name_stands_for_a_tier_a_slice_a_task_or_a_group(name, meant):
    assert resolve(name, GROUPED, SCORED) == meant


def test_the_best_step_is_chosen_by_what_the_stage_should_improve_first_and_otherwise_by_its_first_tier():
    assert own_total(GROUPED, SCORED) == Named("tier2_ppl", ("gone", "code"))
    assert own_total(Objectives(improve=("tier4", "sciq")), SCORED) == Named("tier3_cf", ("sciq",))
    assert own_total(Objectives(), SCORED) == Named("tier2_ppl", None)
    assert own_total(Objectives(improve=("mmlu",)), {"tier3_cf": ("sciq",)}) == Named("tier3_cf", None)
    assert own_total(Objectives(), {}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("improve: [wep]", "f:1: improve: no tier, slice, task or group 'wep'; did you mean 'web'?"),
        ("hold: [tier2, tier2]", "f:1: hold: names something twice; keep one of the two"),
        ("hold: [tier3]\ngroups:\n  a: [web, cod]", "f:3: groups.a: the stage's suites have no 'cod'; did you mean 'code'?"),
        ("groups: {a: [web, sciq]}", "f:1: groups.a: slices and tasks have no common total; make a group of each"),
        ("groups: {a: []}", "f:1: groups.a: is empty; name at least one slice or task"),
        ("groups: {sciq: [web]}", "f:1: groups.sciq: 'sciq' is the name of something else; give the group another name"),
        ("groups: {tier2: [web]}", "f:1: groups.tier2: 'tier2' is the name of something else; give the group another name"),
    ],
)
def test_a_mistake_in_objectives_is_named_with_its_line(text, message):
    document = parse(text, "f", {})
    with pytest.raises(Problem) as caught:
        check_objectives(document, (), msgspec.convert(document.data, Objectives), SCORED)
    assert str(caught.value) == message


def test_rates_are_named_one_by_one():
    document = parse("groups: {a: [json_valid_rate]}", "f", {})
    with pytest.raises(Problem, match="rates have no common total; name each by itself"):
        check_objectives(document, (), msgspec.convert(document.data, Objectives), {"tier4_sft_native": ("json_valid_rate",)})
