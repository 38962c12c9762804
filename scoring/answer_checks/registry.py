"""All checks of tier 4, and the outcomes of one answer.

Three kinds:

    format       the answer has the required form: a list, JSON, code, marked parts
    instruction  it follows the instruction: length, words, refusing or not
    clean        every prompt has these: it is not blank, ends by itself, and leaks nothing of the template

A blank answer fails every check. An answer that was cut or repeats itself fails the checks that any text could pass
(``suites.definitions.checks.CHECKS_NEEDING_ANSWER``).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from scoring.answer_checks import behaviour, json_and_code, lists, numbers, refusals, repetition, sentences, text
from scoring.answer_checks.base import CheckVerdict, ModelAnswer
from suites.definitions.checks import CHECKS_NEEDING_ANSWER, CLEAN_CHECKS, PROMPT_CHECKS, get_check_kind

CHECK_FUNCTIONS: Mapping[str, Callable[..., CheckVerdict]] = {
    "bulleted_list": lists.check_bulleted_list,
    "numbered_list": lists.check_numbered_list,
    "json_only": json_and_code.check_json_only,
    "json_schema": json_and_code.check_json_schema,
    "python_parses": json_and_code.check_python_parses,
    "code_block": json_and_code.check_code_block,
    "separated": text.check_separated,
    "marked": text.check_marked,
    "words": text.check_word_count,
    "sentences": sentences.check_sentences,
    "paragraphs": text.check_paragraphs,
    "lines": text.check_lines,
    "includes": text.check_includes,
    "includes_any": text.check_includes_any,
    "excludes": text.check_excludes,
    "occurs": text.check_occurs,
    "excludes_characters": text.check_excludes_characters,
    "begins_with": text.check_begins,
    "ends_with": text.check_ends,
    "equals": text.check_equals,
    "number": numbers.check_number,
    "letter_case": text.check_letter_case,
    "python_defines": json_and_code.check_python_defines,
    "refuses": refusals.check_refuses,
    "does_not_refuse": refusals.check_does_not_refuse,
    "offers_help": behaviour.check_offers_help,
    "says_something": behaviour.check_not_blank,
    "no_template_tokens": behaviour.check_no_template_tokens,
    "no_role_tags": behaviour.check_no_role_tags,
    "no_repetition": repetition.check_no_repetition,
    "stops": behaviour.check_stops,
}
"""Check of suites/definitions/checks.py -> its function. Clean checks take the answer alone."""


class CheckOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one check on one answer."""

    check: str
    kind: str
    passed: bool
    evidence: str


def check_answer(answer: ModelAnswer, definitions: Sequence[Mapping[str, Any]]) -> list[CheckOutcome]:
    """Outcomes of the prompt's own checks, then of the clean ones."""
    is_blank = not CHECK_FUNCTIONS["says_something"](answer).passed
    failed_basics = [name for name in ("stops", "no_repetition") if not CHECK_FUNCTIONS[name](answer).passed]
    outcomes = []
    for definition in (*definitions, *({"check": name} for name in CLEAN_CHECKS)):
        name = str(definition["check"])
        if is_blank:
            verdict = CheckVerdict(False, "blank answer")
        elif name in CLEAN_CHECKS:
            verdict = CHECK_FUNCTIONS[name](answer)
        else:
            verdict = CHECK_FUNCTIONS[name](answer, msgspec.convert(definition, PROMPT_CHECKS[name]))
            # Any text passes these, so an answer that is cut or loops must not: its full text is unknown.
            if failed_basics and name in CHECKS_NEEDING_ANSWER:
                verdict = CheckVerdict(False, f"{verdict.evidence}; but it fails {' and '.join(failed_basics)}")
        outcomes.append(CheckOutcome(check=name, kind=get_check_kind(name), passed=verdict.passed, evidence=verdict.evidence))
    return outcomes
