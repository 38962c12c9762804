"""Tier 4 as a job: parts, resumption, the tier file's figures, and answers that mean harm on their way to disk."""

import json

import pytest
import yaml

from scoring.inference.generation import GenerationResult
from scoring.job import steps as run
from scoring.tiers import instructions
from suites.common.documents import read_json
from suites.common.errors import ExitCode
from suites.contract.objectives import TIER4_RATES
from suites.contract.paths import EvaluationPaths
from suites.contract.tier_files import check_tier_file
from suites.definitions.suite import load_suite
from support.models.tiny_llama_items import LLAMA_CHECKPOINT
from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process, write_suites

pytestmark = pytest.mark.scoring

HEAD = """\
tier: tier4_sft_native
defaults:
  max_new_tokens: 12
  chat_template: "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{{ '<a>' if add_generation_prompt }}"
prompts:
"""
ANSWERS = {
    "list": "- one\n- two",
    "list_short": "- one",
    "json": '{"a": 1}',
    "json_wrong": '{"a": "1"}',
    "json_none": "Sure!",
    "code": "def f(): pass",
    "safe": "I can't help with that.</s>",
}
PROMPTS = """\
  list: {category: bulleted_list, messages: [{role: user, content: x}], checks: [{check: bulleted_list, at_least: 2}]}
  list_short: {category: bulleted_list, messages: [{role: user, content: x}], checks: [{check: bulleted_list, at_least: 2}, {check: words, at_most: 3}]}
  json: {category: strict_json, messages: [{role: user, content: x}], checks: &json [{check: json_only}, {check: json_schema, schema: {properties: {a: {type: integer}}}}]}
  json_wrong: {category: strict_json, messages: [{role: user, content: x}], checks: *json}
  json_none: {category: strict_json, messages: [{role: user, content: x}], checks: *json}
  code: {category: python_code, messages: [{role: user, content: x}], checks: [{check: python_parses}, {check: python_defines, name: f}]}
  safe: {category: safety, messages: [{role: user, content: x}], checks: [{check: refuses}]}
"""  # noqa: E501  a prompt a line


def write_prompts(folder, prompts=PROMPTS):
    (folder / "sft.yaml").write_text(HEAD + prompts)


def prompts_of(count):
    line = "  p{n}: {{category: safety, messages: [{{role: user, content: 'Tell {n}'}}], checks: [{{check: does_not_refuse}}]}}\n"
    return "".join(line.format(n=n) for n in range(count))


def lines_of(folder):
    path = EvaluationPaths(folder / "results" / "stage1", "step_60").generations
    return [json.loads(line) for line in path.read_bytes().decode("ascii").splitlines()]


def load(folder):
    return read_json(get_results_folder(folder) / "tier4_sft_native.json")


@pytest.fixture
def said(monkeypatch):
    """Answers by the prompt's name, without a model; each as if it had ended by itself."""
    answers = dict(ANSWERS)

    def generate(_model, requests, *, shape, decode, on_batch):
        del shape, decode
        on_batch(len(requests))
        names = list(answers)
        return [
            GenerationResult(tokens=[1], text=answers[names[n]], finish="stop_token", near_ties=0) for n in range(len(requests))
        ]

    monkeypatch.setattr(instructions, "generate_answers", generate)
    return answers


def test_every_figure_is_what_its_definition_says(tmp_path, said):
    del said
    write_prompts(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path, suites=("sft.yaml",))) == ExitCode.SCORED
    document = load(tmp_path)
    assert document["summary"] == {
        "instruction_match_rate": 8 / 12,  # list 1/1, list_short 1/2, json 2/2, json_wrong 1/2, json_none 0/2, code 2/2, safe 1/1
        "all_checks_pass_rate": 3 / 7,  # list, json, code: safe leaks its template
        "format_valid_rate": 3 / 6,
        "chat_clean_rate": 6 / 7,
        "code_parse_rate": 1.0,
        "json_valid_rate": 1 / 3,
        "prompts": 7,
    }
    assert document["by_category"] == {
        "bulleted_list": {"prompts": 2, "pass": 0.5, "format": 0.5, "clean": 1.0},
        "strict_json": {"prompts": 3, "pass": 1 / 3, "format": 1 / 3, "clean": 1.0},
        "python_code": {"prompts": 1, "pass": 1.0, "format": 1.0, "clean": 1.0},
        "safety": {"prompts": 1, "pass": 0.0, "format": None, "clean": 0.0},
    }
    assert set(TIER4_RATES) <= set(document["summary"])
    assert document["chat_template"]["source"] == "suite"
    one = document["prompts"]["list_short"]
    assert one["checks"][:2] == [
        {"check": "bulleted_list", "kind": "format", "passed": False},
        {"check": "words", "kind": "instruction", "passed": True},
    ]
    assert (one["passed"], one["format"], one["clean"]) == (False, False, True)
    assert one["response"] == {"tokens": 1, "characters": 5, "words": 1, "finish": "stop_token", "near_ties": 0}


def test_generations_are_a_line_a_prompt_with_evidence(tmp_path, said):
    write_prompts(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path, suites=("sft.yaml",))) == ExitCode.SCORED
    lines = lines_of(tmp_path)
    assert [line["name"] for line in lines] == list(said)
    assert [line["answer"] for line in lines] == list(said.values())
    for line in lines:
        assert line["messages"] == [{"role": "user", "content": "x"}]
        assert line["rendered"] == "<user>x</s><a>"
        assert bytes(line["prompt_tokens"]).decode() == line["rendered"]
        assert line["passed"] == load(tmp_path)["prompts"][line["name"]]["passed"]
        assert all(check["evidence"] for check in line["checks"])


def test_all_shipped_prompts_are_answered_by_a_real_model_and_the_file_is_valid(tmp_path):
    shipped = load_suite("stage4_sft_native", {}).definition
    prompts = {name: {**prompt, "max_new_tokens": 3} for name, prompt in shipped.items()}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump({"tier": "tier4_sft_native", "prompts": prompts}, sort_keys=False))
    suite = load_suite("sft.yaml", {}, base=tmp_path)
    arguments = make_score_arguments(tmp_path, suites=("sft.yaml",))
    arguments[arguments.index("--seq-len") + 1] = "512"
    assert run_scoring_in_process(arguments) == ExitCode.SCORED
    head = {"fingerprint": load(tmp_path)["checkpoint"]["fingerprint"], "suite_digest": suite.digest}
    path = get_results_folder(tmp_path) / "tier4_sft_native.json"
    assert check_tier_file(path, tier=suite.tier, names=tuple(shipped), **head).kind == "valid"
    assert [line["name"] for line in lines_of(tmp_path)] == list(shipped)
    assert load(tmp_path)["summary"]["all_checks_pass_rate"] < 0.1


def test_parts_are_stretches_of_prompts_kept_when_the_suite_grows_at_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(instructions, "PROMPTS_PER_PART", 2)
    write_prompts(tmp_path, prompts_of(5))
    assert run_scoring_in_process(make_score_arguments(tmp_path, suites=("sft.yaml",))) == ExitCode.SCORED
    first = read_json(get_results_folder(tmp_path) / "run.json")["parts"]
    assert first == {"scored": ["prompts[0:2]", "prompts[2:4]", "prompts[4:5]"], "reused": []}
    before = lines_of(tmp_path)
    write_prompts(tmp_path, prompts_of(6))
    assert run_scoring_in_process(make_score_arguments(tmp_path, suites=("sft.yaml",))) == ExitCode.SCORED
    assert read_json(get_results_folder(tmp_path) / "run.json")["parts"] == {
        "scored": ["prompts[4:6]"],
        "reused": ["prompts[0:2]", "prompts[2:4]"],
    }
    assert lines_of(tmp_path)[:5] == before


def test_a_job_that_was_killed_resumes_and_no_model_is_loaded_where_nothing_is_missing(tmp_path, monkeypatch):
    write_prompts(tmp_path, prompts_of(3))
    assert run_scoring_in_process(make_score_arguments(tmp_path, suites=("sft.yaml",))) == ExitCode.SCORED
    folder = get_results_folder(tmp_path)
    files = {path: path.read_bytes() for path in folder.glob("tier4*")}
    assert len(files) == 2
    for path in files:
        path.unlink()
    monkeypatch.setattr(run, "load_model", None)
    assert run_scoring_in_process(make_score_arguments(tmp_path, suites=("sft.yaml",))) == ExitCode.SCORED
    assert {path: path.read_bytes() for path in files} == files


def test_all_three_tiers_are_one_job_and_an_export_leaves_tier_4_out(tmp_path):
    write_suites(tmp_path)
    write_prompts(tmp_path, prompts_of(2))
    assert (
        run_scoring_in_process(make_score_arguments(tmp_path, "--export", "lm-eval", suites=("ppl.yaml", "cf.yaml", "sft.yaml")))
        == ExitCode.SCORED
    )
    assert {path.name for path in get_results_folder(tmp_path).glob("tier*.json")} == {
        "tier2_ppl.json",
        "tier3_cf.json",
        "tier4_sft_native.json",
    }
    assert list((get_results_folder(tmp_path) / "exports").rglob("results_*.json"))


def test_another_content_of_the_checkpoint_keeps_the_old_answers_aside(tmp_path):
    write_prompts(tmp_path, prompts_of(2))
    assert run_scoring_in_process(make_score_arguments(tmp_path, suites=("sft.yaml",))) == ExitCode.SCORED
    old, lines = load(tmp_path), lines_of(tmp_path)
    again = make_score_arguments(tmp_path, "--name", "step_60", checkpoint=LLAMA_CHECKPOINT.parent / "40", suites=("sft.yaml",))
    assert run_scoring_in_process(again) == ExitCode.SCORED
    aside = EvaluationPaths(tmp_path / "results" / "stage1", "step_60").superseded_folder(old["checkpoint"]["fingerprint"])
    assert read_json(aside / "tier4_sft_native.json") == old
    kept = (aside / "tier4_sft_native_generations.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == lines


def test_a_prompt_that_leaves_no_room_is_named_before_anything_is_scored(tmp_path, capsys):
    write_prompts(tmp_path, prompts_of(1).replace("Tell 0", "Tell " * 40))
    assert run_scoring_in_process(make_score_arguments(tmp_path, suites=("sft.yaml",))) == ExitCode.CANNOT_SCORE
    assert "prompt p0: takes 213 tokens of a sequence length of 64" in capsys.readouterr().err


def test_a_schema_that_is_none_is_a_mistake_of_the_suite(tmp_path, capsys):
    write_prompts(tmp_path, PROMPTS.replace("type: integer", "type: integr"))
    assert run_scoring_in_process(make_score_arguments(tmp_path, suites=("sft.yaml",))) == ExitCode.USAGE
    assert "prompt json: json_schema" in capsys.readouterr().err


def test_hostile_answers_reach_the_disk_as_plain_ascii_json(tmp_path, said):
    hostile = [
        "<script>alert(1)</script></pre>",
        "\x1b[2J\x1b]0;owned\x07 one",
        "y" * 1_000_000,
        '"\\ud800" \\',
        "\u2028\u2029\u202e \x00 \x7f \x9b31m",
        "\U0001f600 \ufffd",
        "\r\n\r\nx",
    ]
    said.update(zip(list(said), hostile, strict=True))
    write_prompts(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path, suites=("sft.yaml",))) == ExitCode.SCORED
    raw = EvaluationPaths(tmp_path / "results" / "stage1", "step_60").generations.read_bytes()
    assert set(raw) <= {10, *range(32, 128)}
    assert [line["answer"] for line in lines_of(tmp_path)] == hostile
    document = (get_results_folder(tmp_path) / "tier4_sft_native.json").read_bytes()
    assert set(document) <= {10, *range(32, 127)}
    json.loads(document)
