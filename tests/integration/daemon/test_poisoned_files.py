"""One poisoned file of any kind, in any place: the other evaluations are scored, and this one says what is wrong."""

import pytest

from support.runs.poisoned_run import CASES, PLACES, VICTIM, VICTIMS_FILES, run_poisoned

FEW = CASES[:: len(CASES) // 90]
"""Every place with some of the poisons; the slow test tries all."""


def check(tmp_path, monkeypatch, place, poison):
    outcome = run_poisoned(tmp_path, monkeypatch, place, poison)
    victims = {VICTIM} if place not in PLACES or place in VICTIMS_FILES else set()
    others = {key: state for key, state in outcome.states.items() if key not in victims}
    assert set(others.values()) == {"scored"}, outcome
    assert len(outcome.states) == 5, outcome
    # What keeps the victim from its score is said; most poisons in results are replaced by the score.
    assert outcome.states[VICTIM] == "scored" or outcome.said, outcome


@pytest.mark.parametrize(("place", "poison"), FEW)
def test_one_poisoned_file_harms_one_evaluation(tmp_path, monkeypatch, place, poison):
    check(tmp_path, monkeypatch, place, poison)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "poison"), [case for case in CASES if case not in FEW])
def test_every_poison_in_every_place(tmp_path, monkeypatch, place, poison):
    check(tmp_path, monkeypatch, place, poison)
