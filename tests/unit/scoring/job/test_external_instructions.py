"""backend: command and tier 4: the user's scorer gets the prompts and may write the tier's two files; else we score it."""

import json
import sys
import textwrap

import pytest

from scoring.compare.compare import compare_evaluation
from suites.common.errors import ExitCode
from suites.contract.comparison import CompareRequest, EvaluationRef
from suites.contract.scoring_request import compute_tier_digests
from suites.contract.tier_files import TIER4, check_tier_file
from suites.definitions.suite import load_suite
from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process, write_suites

pytestmark = pytest.mark.scoring

SUITE = """
tier: tier4_sft_native
defaults: {max_new_tokens: 2, chat_template: '{{ messages[-1].content }}'}
prompts:
  short: {category: concise_answer, messages: [{role: user, content: A}], checks: [{check: words, at_most: 9}]}
  json: {category: strict_json, messages: [{role: user, content: B}], checks: [{check: json_only}]}
"""
SCORER = """
import json, os, pathlib

out, data = pathlib.Path(os.environ["LIGHTEVAL_RESULTS_DIR"]), pathlib.Path(os.environ["EVAL_DATA_DIR"])
prompts = [json.loads(line) for line in (data / "sft_native/prompts.jsonl").read_text().splitlines()]
names = [prompt["name"] for prompt in prompts]
(out / "tier2_ppl.json").write_text(json.dumps({path.name: 2 for path in (data / "ppl_slices").iterdir()}))
(out / "tier3_cf.json").write_text(json.dumps({path.name: 0.5 for path in (data / "cf_tasks").iterdir()}))
def write(document, rows):
    (out / "tier4_sft_native.json").write_text(json.dumps(document))
    if rows is not None:
        (out / "tier4_sft_native_generations.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
answers = [{"name": name, "answer": "é" + name} for name in names]
"""
SIMPLE = 'write({"prompts": {"short": True, "json": {"passed": False, "mine": 7}}}, answers)'
OURS = """
checks = {"short": ("words", "instruction"), "json": ("json_only", "format")}
entries = {name: {"passed": name == "json", "format": True if name == "json" else None, "clean": name == "json",
                  "checks": [{"check": check, "kind": kind, "passed": True},
                             {"check": "ends", "kind": "clean", "passed": name == "json"}]}
           for name, (check, kind) in checks.items()}
write({"prompts": entries, "summary": {"instruction_match_rate": 0.25, "mine": 1}}, answers)
"""


@pytest.fixture
def score(tmp_path):
    """Scores the three tiers by a scorer that ends like this; returns the exit code."""
    write_suites(tmp_path)
    (tmp_path / "sft.yaml").write_text(SUITE)

    def run(rest, *more):
        scorer = tmp_path / "scorer.py"
        scorer.write_text(SCORER + textwrap.dedent(rest))
        arguments = make_score_arguments(tmp_path, suites=("ppl.yaml", "cf.yaml", "sft.yaml"))
        return run_scoring_in_process([*arguments, "--backend", "command", "--command", f"{sys.executable} {scorer}", *more])

    return run


def read_document(tmp_path, name=f"{TIER4}.json"):
    return json.loads((get_results_folder(tmp_path) / name).read_text())


def read_why(tmp_path):
    return read_document(tmp_path, "run.json")["reason"]


def test_its_verdicts_and_answers_are_published_with_our_head(score, tmp_path):
    assert score(SIMPLE) == 0, read_why(tmp_path)
    document = read_document(tmp_path)
    assert (document["backend"], document["scorer_version"], document["step"]) == ("command", None, 60)
    assert document["prompts"]["json"] == {
        "passed": False, "mine": 7, "category": "strict_json", "format": None, "clean": None, "checks": []
    }  # fmt: skip
    assert document["summary"] == {
        "instruction_match_rate": None, "all_checks_pass_rate": 0.5, "format_valid_rate": None, "chat_clean_rate": None,
        "code_parse_rate": None, "json_valid_rate": None, "prompts": 2,
    }  # fmt: skip
    assert document["by_category"]["concise_answer"] == {"prompts": 1, "pass": 1.0, "format": None, "clean": None}
    suite = load_suite(str(tmp_path / "sft.yaml"), {}).to_request()
    digest, names = compute_tier_digests([suite])[TIER4]
    path = get_results_folder(tmp_path) / f"{TIER4}.json"
    fingerprint = document["checkpoint"]["fingerprint"]
    assert check_tier_file(path, tier=TIER4, fingerprint=fingerprint, suite_digest=digest, names=names).kind == "valid"
    lines = (get_results_folder(tmp_path) / f"{TIER4}_generations.jsonl").read_text("ascii").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["name"], row["answer"], row["passed"], row["messages"][0]["content"]) for row in rows] == [
        ("short", "éshort", True, "A"),
        ("json", "éjson", False, "B"),
    ]
    assert {tier: summary.get("prompts") for tier, summary in read_document(tmp_path, "run.json")["summary"].items()}[TIER4] == 2


def test_checks_in_our_form_give_the_rates_that_it_leaves_out(score, tmp_path):
    assert score(OURS) == 0, read_why(tmp_path)
    assert read_document(tmp_path)["summary"] == {
        "instruction_match_rate": 0.25, "all_checks_pass_rate": 0.5, "format_valid_rate": 1.0, "chat_clean_rate": 0.5,
        "code_parse_rate": None, "json_valid_rate": 1.0, "prompts": 2, "mine": 1,
    }  # fmt: skip


def test_where_it_writes_none_the_tier_is_scored_here(score, tmp_path):
    assert score("") == 0, read_why(tmp_path)
    assert read_document(tmp_path)["backend"] == "direct"
    assert read_document(tmp_path, "tier2_ppl.json")["backend"] == "command"


def test_two_of_its_checkpoints_are_compared(score, tmp_path):
    refs = []
    for name, rest in (("step_1", SIMPLE), ("step_2", SIMPLE.replace("False", "True"))):
        assert score(rest, "--name", name) == 0, read_why(tmp_path)
        refs.append(EvaluationRef(results=str(tmp_path / "results" / "stage1"), stage="stage1", directory=name))
    document = compare_evaluation(CompareRequest(candidate=refs[1], bridge=refs[0]))
    (delta,) = [
        effect.delta for _, tier, name, _, effect in document.iter_effects() if (tier, name) == (TIER4, "all_checks_pass_rate")
    ]
    assert delta == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ('(out / "tier4_sft_native.json").write_text("{")', "tier4_sft_native.json: the file is not readable JSON"),
        ("write([], answers)", "tier4_sft_native.json: the file has no JSON object prompts"),
        ('write({"prompts": {"short": True}}, answers)', "json has not passed, and not failed: the file does not name it"),
        (SIMPLE.replace("True", "1"), "short has not passed, and not failed: Expected `bool`, got `int`"),
        (SIMPLE.replace("7", "float('nan')"), "tier4_sft_native.json: it holds values that cannot be published"),
        (OURS.replace("0.25", "25"), "tier4_sft_native.json: instruction_match_rate is no share of 1, and not null: 25"),
        (OURS.replace('"kind": "clean"', '"sort": "clean"'), "short has not passed, and not failed: Object missing"),
        (SIMPLE.replace("answers", "None"), "generations.jsonl: the command wrote tier4_sft_native.json, but not the answers"),
        (SIMPLE.replace("answers", "answers[1:]"), "generations.jsonl: short has no answer"),
        (SIMPLE.replace("answers", '["x"]'), "generations.jsonl: short has no answer"),
        (SIMPLE.replace("answers", "[*answers, answers[0]]"), "a prompt is answered twice: it has the key 'short' twice"),
        (SIMPLE + '\n(out / "tier4_sft_native_generations.jsonl").write_text("{")', "the file is not readable JSON lines"),
    ],
)  # fmt: skip
def test_what_is_no_tier_4_fails_with_one_line_and_publishes_nothing(rest, words, score, tmp_path, capfd):
    assert score(rest) == ExitCode.COMMAND_FAILED
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("scoring: ")]
    assert words in line
    assert words in read_why(tmp_path)
    assert not list(get_results_folder(tmp_path).glob("tier*"))
