"""The checks of tier 4: names -> functions, and the verdict on one answer.

A check is a pure function of an answer and its parameters; which parameters it takes is in suites/definitions/checks.py.
Three kinds:

    format       the answer has the form that was demanded: a list, JSON, code, marked parts
    instruction  it does what was said: length, words, refusing or not
    clean        held against every prompt: it says something, ends by itself, and leaks nothing of the template

An answer without a letter or digit fails every check, so that silence is never good conduct. One that is no answer, since it was
cut or says the same over and over, fails those that any text could pass (``checks.NEEDS_AN_ANSWER``: amounts, absence,
letter case): what it does not say, and how long it would be, nobody knows. So garbage that never ends is worth nothing, and what
must be said (phrases, a list, JSON, code, a refusal) still counts where it stands.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from scoring.answer_checks import behaviour as probes_manners
from scoring.answer_checks import json_and_code as probes_data
from scoring.answer_checks import text as probes_text
from scoring.answer_checks.base import Answer, Verdict
from suites.definitions.checks import CHECKS, CLEAN, NEEDS_AN_ANSWER, kind_of

_MODULES = (probes_text, probes_data, probes_manners)


def _function(name: str) -> Callable[..., Verdict]:
    found: Callable[..., Verdict] = next(getattr(module, name) for module in _MODULES if hasattr(module, name))
    return found


PROBES: Mapping[str, Callable[..., Verdict]] = {name: _function(name) for name in (*CHECKS, *CLEAN)}
"""Every check of suites/definitions/checks.py."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One check of one answer."""

    check: str
    kind: str
    passed: bool
    evidence: str


def judge(answer: Answer, definitions: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """The prompt's own checks in their order, then the clean ones."""
    silent = not PROBES["says_something"](answer).passed
    unfit = [name for name in ("stops", "no_repetition") if not PROBES[name](answer).passed]
    outcomes = []
    for definition in (*definitions, *({"check": name} for name in CLEAN)):
        name = str(definition["check"])
        if silent:
            verdict = Verdict(False, "says nothing")
        elif name in CLEAN:
            verdict = PROBES[name](answer)
        else:
            verdict = PROBES[name](answer, msgspec.convert(definition, CHECKS[name]))
            if unfit and name in NEEDS_AN_ANSWER:
                verdict = Verdict(False, f"{verdict.evidence}; but it fails {' and '.join(unfit)}")
        outcomes.append(Outcome(check=name, kind=kind_of(name), passed=verdict.passed, evidence=verdict.evidence))
    return outcomes
