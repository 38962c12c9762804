"""Entries as a list, and a total of tokens: read as what they mean, or refused with the right form."""

import pytest

from suites.common.errors import UserError
from suites.contract.scoring_request import compute_tier_digests, list_tier_digests
from suites.definitions.suite import load_suite
from watcher.config.loader import check_config

LISTED = """\
tier: tier2_ppl
target_tokens_total: 3000
slices:
  - name: general_web
    hf_dataset: allenai/c4
    hf_config: en
    split: validation
    text_field: text
    streaming: true
  - {name: code, data_files: [code.jsonl]}
  - {name: books, data_files: [books.jsonl]}
"""


def load(tmp_path, text, name="ours"):
    (tmp_path / f"{name}.yaml").write_text(text)
    return load_suite(f"{tmp_path}/{name}.yaml", {})


def test_a_list_of_slices_and_a_total_mean_named_slices_with_equal_shares(tmp_path):
    listed = load(tmp_path, LISTED)
    named = load(
        tmp_path,
        "tier: tier2_ppl\ndefaults: {target_tokens: 1000}\nslices:\n"
        "  general_web: {hf_dataset: allenai/c4, hf_config: en, split: validation}\n"
        "  code: {data_files: [code.jsonl]}\n  books: {data_files: [books.jsonl]}\n",
        "named",
    )
    assert listed.definition == named.definition
    assert listed.digest == named.digest


def test_a_total_may_stand_beside_the_sizes_that_it_is_the_sum_of(tmp_path):
    both = LISTED.replace("target_tokens_total: 3000", "target_tokens_total: 15000000\ndefaults: {target_tokens: 5000000}")
    assert {entry["target_tokens"] for entry in load(tmp_path, both).definition.values()} == {5_000_000}


def test_tasks_and_prompts_may_be_listed_too(tmp_path):
    tasks = "tier: tier3_cf\ntasks:\n  - {name: a, data_files: [a.jsonl], adapter: multiple_choice}\n"
    assert list(load(tmp_path, tasks).definition) == ["a"]
    prompts = "tier: tier4_sft_native\nprompts:\n  - name: p\n    category: our_tone\n"
    prompts += "    messages: [{role: user, content: Say hello}]\n"
    assert load(tmp_path, prompts).definition["p"]["category"] == "our_tone"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("  - name: general_web\n    hf", "  - hf", 4, "slices.0: has no name; write slices: {NAME: {hf_dataset: ...}}"),
        ("name: books", "name: code", 11, "slices.2: 'code' is listed twice"),
        ("    streaming: true", "    streeming: true", 9, "unknown key 'streeming'; did you mean 'streaming'"),
        ("- {name: code,", "- {name: a b,", 10, "not a name"),
        ("total: 3000", "total: 3e3x", 2, "'3e3x' is not a number of tokens"),
        ("total: 3000", "total: 2", 2, "2 tokens for 3 slices"),
        ("[code.jsonl]}", "[code.jsonl], target_tokens: 9}", 2, "beside target_tokens of some slices"),
        (
            "3000\n",
            "3000\ndefaults: {target_tokens: 2000}\n",
            2,
            "is 3000, and target_tokens of 3 slices are 6000 together; correct one of them",
        ),
        ("tier2_ppl", "tier3_cf", 2, "unknown key 'target_tokens_total'"),
    ],
)
def test_a_mistake_is_named_at_its_own_line(tmp_path, old, new, line, said):
    assert old in LISTED
    with pytest.raises(UserError) as caught:
        load(tmp_path, LISTED.replace(old, new))
    assert f"ours.yaml:{line}: " in str(caught.value)
    assert said in str(caught.value)


def test_several_suites_of_a_tier_are_one_stage_s_and_a_name_stands_once(tmp_path):
    for name, slices in (("web", "a, b"), ("code", "c"), ("again", "b")):
        entries = "".join(f"  {entry}: {{data_files: [x.jsonl]}}\n" for entry in slices.split(", "))
        (tmp_path / f"{name}.yaml").write_text(f"tier: tier2_ppl\nslices:\n{entries}")
    stage = "results: r\nstages:\n  a: {checkpoints: a, every: 1, suites: SUITES, objectives: {hold: [a, c]}}\n"
    (tmp_path / "watcher.yaml").write_text(stage.replace("SUITES", "[web, code]"))
    names = check_config(tmp_path / "watcher.yaml", {}).stages["a"].suites
    suites = [load_suite(name, {}).to_request() for name in names]
    assert compute_tier_digests(suites)["tier2_ppl"].names == ("a", "b", "c")
    assert list_tier_digests(suites) == {"tier2_ppl": compute_tier_digests(suites)["tier2_ppl"].digest}
    (tmp_path / "watcher.yaml").write_text(stage.replace("SUITES", "[web, code, again]"))
    with pytest.raises(UserError, match=r"web.yaml' and '.*again.yaml' both have 'b' of tier2_ppl; rename it"):
        check_config(tmp_path / "watcher.yaml", {})
