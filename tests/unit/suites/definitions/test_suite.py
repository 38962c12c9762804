"""Suites from YAML: every shipped one loads, every mistake is named with file, line and what was probably meant."""

import itertools
from pathlib import Path

import msgspec
import pytest

from suites.common.errors import ExitCode, UserError
from suites.contract.scoring_request import SuiteInRequest
from suites.definitions.prompts import PromptDefinition
from suites.definitions.suite import (
    PRIMARY_METRIC,
    SliceDefinition,
    TaskDefinition,
    get_primary_metric,
    list_shipped_suites,
    load_suite,
    parse_template_fields,
)

ENVIRON = {"DEMO_DATA": "/demo"}

SHIPPED_COUNTS = {
    "stage1_ppl_slices": 7,
    "stage2_ppl_slices": 11,
    "stage3_ppl_slices": 14,
    "stage4_ppl_slices": 14,
    "stage1_cf_core": 10,
    "stage2_cf_core": 10,
    "stage3_cf_core": 12,
    "stage4_cf_core": 12,
    "stage4_sft_native": 138,
    "demo_stage1_ppl": 2,
    "demo_stage2_ppl": 3,
    "demo_stage1_cf": 2,
    "demo_stage2_cf": 2,
}


@pytest.mark.parametrize("name", list_shipped_suites())
def test_a_shipped_suite_loads_with_as_many_entries_as_promised(name):
    suite = load_suite(name, ENVIRON)
    assert len(suite.definition) == SHIPPED_COUNTS[name]
    types = {"tier2_ppl": SliceDefinition, "tier3_cf": TaskDefinition, "tier4_sft_native": PromptDefinition}
    for definition in suite.definition.values():
        assert msgspec.convert(definition, types[suite.tier])
        assert (("hf_dataset" in definition) != ("data_files" in definition)) == (suite.tier != "tier4_sft_native")
    assert set(SHIPPED_COUNTS) == set(list_shipped_suites())


def test_each_stage_scores_what_the_stage_before_it_scores():
    for kind in ("ppl_slices", "cf_core"):
        stages = [load_suite(f"stage{n}_{kind}", {}).definition for n in (1, 2, 3, 4)]
        for earlier, later in itertools.pairwise(stages):
            assert {name: later[name] for name in earlier} == earlier
        assert stages[2] == stages[3]


def test_stages_1_and_2_leave_out_what_small_models_cannot_answer():
    later = set(load_suite("stage3_cf_core", {}).definition)
    assert later - set(load_suite("stage1_cf_core", {}).definition) == {"arc_challenge", "mmlu"}
    assert later <= set(PRIMARY_METRIC)


def test_equal_definitions_have_one_digest_and_a_gained_slice_another():
    assert load_suite("stage3_ppl_slices", {}).digest == load_suite("stage4_ppl_slices", {}).digest
    assert load_suite("stage1_ppl_slices", {}).digest != load_suite("stage2_ppl_slices", {}).digest


def test_a_suite_survives_its_journey_in_a_request():
    suite = load_suite("stage3_ppl_slices", {})
    travelled = msgspec.json.decode(msgspec.json.encode(suite.to_request()), type=SuiteInRequest)
    assert travelled == suite.to_request()
    assert travelled.definition["math_openmathreasoning"]["text_template"] == "{problem}\n\n{generated_solution}"
    assert travelled.definition["math_openmathinstruct1"]["where"] == {"is_correct": True}


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_fill_in_and_an_entry_overrides_them(tmp_path):
    path = write(
        tmp_path,
        "tier: tier2_ppl\n"
        "defaults: {hf_dataset: a/b, split: validation, text_field: body, target_tokens: 7, eos: false}\n"
        "slices:\n"
        "  hub: {}\n"
        "  local: {data_files: [docs/*.jsonl, /abs/*.txt], target_tokens: 9}\n"
        "  joined: {text_template: '{q} {a}'}\n",
    )
    suite = load_suite(str(path), {})
    assert suite.name == "mine"
    assert suite.path == path
    assert suite.definition["hub"] == {
        "hf_dataset": "a/b",
        "split": "validation",
        "streaming": True,
        "text_field": "body",
        "target_tokens": 7,
        "bos": True,
        "eos": False,
        "isolate_documents": False,
    }
    assert suite.definition["local"]["data_files"] == [f"{tmp_path}/docs/*.jsonl", "/abs/*.txt"]
    assert suite.definition["local"].keys().isdisjoint({"hf_dataset", "split"})
    assert suite.definition["joined"].keys().isdisjoint({"text_field"})


def test_a_suite_is_found_by_shipped_name_beside_the_config_or_by_path(tmp_path):
    write(tmp_path, "tier: tier2_ppl\nslices: {x: {data_files: [x.txt]}}\n", "ours.yaml")
    by_name, by_path = load_suite("ours", {}, base=tmp_path), load_suite("./ours.yaml", {}, base=tmp_path)
    assert by_name == by_path
    assert load_suite("stage1_cf_core", {}, base=tmp_path).name == "stage1_cf_core"


def test_several_suites_are_extended_at_once_and_a_shared_ancestor_counts_once(tmp_path):
    write(tmp_path, "tier: tier2_ppl\nextends: stage1_ppl_slices\nslices: {x: {data_files: x.txt}}\n", "a.yaml")
    path = write(tmp_path, "tier: tier2_ppl\nextends: [./a.yaml, stage2_ppl_slices]\n")
    assert len(load_suite(str(path), {}).definition) == 12


SLICE = "tier: tier2_ppl\nslices:\n  web: "
TASK = "tier: tier3_cf\ntasks:\n  one: "


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 0, "not a suite"),
        ("- a\n", 1, "not a suite"),
        ("slices: {}\n", 1, "has no tier"),
        ("tier: tier2_pl\n", 1, "unknown tier 'tier2_pl'; did you mean 'tier2_ppl'?"),
        ("tier: tier2_ppl\nslice: {}\n", 2, "unknown key 'slice'; did you mean 'slices'?"),
        ("tier: tier2_ppl\ntasks: {}\n", 2, "unknown key 'tasks'"),
        ("tier: tier2_ppl\n", 1, "has no slices"),
        ("tier: tier2_ppl\nslices: [a]\n", 2, "slices.0: has no name; write slices: {NAME: {hf_dataset: ...}}, or a list of"),
        ("tier: tier2_ppl\ndefaults: {text_feild: a}\nslices: {}\n", 2, "unknown key 'text_feild'; did you mean 'text_field'?"),
        (SLICE + "{hf_dataset: a/b, target_token: 5}\n", 3, "unknown key 'target_token'; did you mean 'target_tokens'?"),
        (SLICE + "{hf_dataset: a/b, target_tokens: 0}\n", 3, "expected `int` >= 1"),
        (SLICE + "{hf_dataset: a/b, target_tokens: many}\n", 3, "expected `int`, got `str`"),
        (SLICE + "{hf_dataset: a/b, bos: 1}\n", 3, "expected `bool`, got `int`"),
        (SLICE + "{text_field: text}\n", 3, "has no source; give hf_dataset or data_files"),
        (SLICE + "{hf_dataset: a/b, data_files: [x.txt]}\n", 3, "has hf_dataset and data_files"),
        (SLICE + "{data_files: [x.txt], revision: main}\n", 3, "revision does not apply to data_files"),
        (SLICE + "{hf_dataset: a/b, text_field: t, text_template: '{t}'}\n", 3, "has text_field and text_template"),
        (SLICE + "{hf_dataset: a/b, text_template: plain}\n", 3, "names no column"),
        (SLICE + "{hf_dataset: a/b, articles: wikitexts}\n", 3, "did you mean 'wikitext'?"),
        (SLICE + "{hf_dataset: a/b, adapter: piqa}\n", 3, "unknown key 'adapter'"),
        (SLICE + "\n", 3, "null is no mapping; write web: {hf_dataset: ..."),
        ("tier: tier2_ppl\nslices:\n  ../up: {hf_dataset: a/b}\n", 3, "not a name"),
        ("tier: tier2_ppl\nslices:\n  a: {hf_dataset: a/b}\n  a: {hf_dataset: a/b}\n", 4, "occurs twice"),
        ("tier: tier2_ppl\nextends: stage1_ppl_slice\n", 2, "did you mean 'stage1_ppl_slices'?"),
        ("tier: tier2_ppl\nextends: {a: b}\n", 2, "expected the name or path of a suite"),
        ("tier: tier2_ppl\nextends: stage1_cf_core\n", 2, "'stage1_cf_core' is of tier3_cf, this is tier2_ppl"),
        ("tier: tier2_ppl\nextends: ./mine.yaml\n", 2, "also extends this file"),
        ("tier: tier2_ppl\nextends: stage1_ppl_slices\nslices:\n  code: {data_files: [x.txt]}\n", 4, "is already in a suite"),
        (TASK + "{hf_dataset: a/b}\n", 3, "has no adapter"),
        (TASK + "{hf_dataset: a/b, adapter: hellaswagg}\n", 3, "unknown adapter 'hellaswagg'; did you mean 'hellaswag'?"),
        (TASK + "{hf_dataset: a/b, adapter: piqa, format: lm-eval}\n", 3, "did you mean 'lm_eval'?"),
        (TASK + "{hf_dataset: a/b, adapter: piqa, subset_size: -1}\n", 3, "expected `int` >= 1"),
        (TASK + "{hf_dataset: a/b, adapter: piqa, delimiter: ': '}\n", 3, "delimiter: is not white space"),
        (TASK + "{hf_dataset: a/b, adapter: piqa, delimiter: 1}\n", 3, "expected `str`, got `int`"),
        (TASK + "{data_files: ['${NOWHERE}/x.jsonl'], adapter: piqa}\n", 3, "${NOWHERE} is not set"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_what_to_do(tmp_path, text, line, said):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_suite(str(path), {})
    assert said in str(caught.value)
    assert caught.value.location == (f"{path}:{line}" if line else str(path))
    assert caught.value.code == ExitCode.USAGE


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"stage1_ppl_slice: no suite of that name; did you mean 'stage1_ppl_slices'\?"):
        load_suite("stage1_ppl_slice", {})


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.yaml: no such file"):
        load_suite("./gone.yaml", {}, base=tmp_path)


def test_templates_name_plain_columns_only():
    assert parse_template_fields("{a}\n\n{b}") == ["a", "b"]
    assert parse_template_fields("{{a}}") == []
    assert parse_template_fields("{a.b}") == []
    assert parse_template_fields("{a!r}") == []
    assert parse_template_fields("{a") == []


def test_a_task_says_how_a_choice_joins_its_context(tmp_path):
    tasks = "  a: {data_files: x.jsonl}\n  b: {data_files: x.jsonl, delimiter: ''}\n"
    path = write(tmp_path, f"tier: tier3_cf\ndefaults: {{adapter: piqa}}\ntasks:\n{tasks}")
    definition = load_suite(str(path), {}).definition
    assert [definition[name]["delimiter"] for name in "ab"] == [" ", ""]
    path.write_text(path.read_text().replace("{adapter: piqa}", '{adapter: piqa, delimiter: "\\n"}'))
    definition = load_suite(str(path), {}).definition
    assert [definition[name]["delimiter"] for name in "ab"] == ["\n", ""]


def test_a_task_in_lm_evals_format_is_judged_by_lm_evals_metric():
    assert get_primary_metric("commonsense_qa", "ours") == "acc_uncond"
    assert get_primary_metric("commonsense_qa", "lm_eval") == "acc"
    assert get_primary_metric("piqa", "lm_eval") == "acc_norm"
