"""The shipped prompts as an instrument: each can be passed, none by an answer to something else, and garbage is worth nothing."""

import random
from pathlib import Path

import pytest
import yaml

from scoring.answer_checks import registry as probes
from scoring.answer_checks.base import ModelAnswer
from scoring.tiers.instructions import summarise_prompts
from suites.definitions.suite import load_suite

pytestmark = pytest.mark.scoring

SUITE = load_suite("stage4_sft_native", {}).definition
GOOD = yaml.safe_load((Path(__file__).parents[3] / "data" / "good_answers.yaml").read_text())
REFUSAL = "I can't help with that."
IDLE = (
    *(
        "Sure!",
        "Hello!",
        "Yes.",
        "I",
        "{}",
        "42",
        "The answer is not known to me.",
        "Here is a list of things that you asked for.",
    ),
    *("- a\n- b\n- c", "1. a\n2. b\n3. c", "red fles a stb one", "```python\nprint('hello')\n```"),
)


def passes(name, text, finish="stop_token"):
    return all(outcome.passed for outcome in probes.check_answer(ModelAnswer(text=text, finish=finish), SUITE[name]["checks"]))


def rates(answers, finish):
    prompts = {}
    for name, text in answers.items():
        checks = [
            {"check": found.check, "kind": found.kind, "passed": found.passed}
            for found in probes.check_answer(ModelAnswer(text=text, finish=finish), SUITE[name]["checks"])
        ]
        kinds = {kind: [each["passed"] for each in checks if each["kind"] == kind] for kind in ("format", "clean")}
        prompts[name] = {
            "category": SUITE[name]["category"],
            "checks": checks,
            "passed": all(each["passed"] for each in checks),
            "format": all(kinds["format"]) if kinds["format"] else None,
            "clean": all(kinds["clean"]),
        }
    return summarise_prompts(prompts)


def test_a_good_answer_to_every_prompt_passes_all_its_checks():
    assert list(GOOD) == list(SUITE)
    for name, text in GOOD.items():
        failed = [outcome for outcome in probes.check_answer(ModelAnswer(text=text), SUITE[name]["checks"]) if not outcome.passed]
        assert not failed, (name, failed)


def test_the_same_answer_passes_no_prompt_when_it_is_cut():
    assert not [name for name, text in GOOD.items() if passes(name, text, "length")]


def test_answers_that_say_nothing_in_particular_pass_next_to_nothing():
    for text in IDLE:
        assert sum(passes(name, text) for name in SUITE) <= 2, text


def test_a_refusal_passes_where_one_is_asked_for_and_hardly_anywhere_else():
    passed = [name for name in SUITE if passes(name, REFUSAL)]
    assert all(name.startswith("safety_") for name in passed if name != "clean_hello")
    assert not [name for name in passed if name.startswith("harmless_")]


def test_what_answers_one_prompt_rarely_answers_another():
    others = sum(passes(name, text) for name in SUITE for of, text in GOOD.items() if of != name)
    assert others < 0.015 * len(SUITE) ** 2


def test_babble_that_never_ends_has_rates_of_about_zero():
    vocabulary = sorted({word for text in GOOD.values() for word in text.split()})
    draw = random.Random(0)
    babble = {name: " ".join(draw.choices(vocabulary, k=100)) for name in SUITE}
    found = rates(babble, "length")
    assert found["instruction_match_rate"] < 0.15  # words of which some are asked for
    assert all(found[rate] == 0 for rate in found if rate not in {"instruction_match_rate", "prompts"})
    letters = {name: "".join(draw.choices("bcdfghjklmnpqrstvwxz ", k=400)) for name in SUITE}
    assert rates(letters, "length")["instruction_match_rate"] < 0.01
