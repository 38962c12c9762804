"""How often a comparison is wrong: real differences with random signs, and effects of known size put in.

The differences are those of step 40 and step 60 of a real run, by document and by item, as tests/data/scored has
them. With random signs nothing is better or worse, and whatever is called so is a false verdict.
"""

import math

import msgspec
import numpy as np
import pytest

from scoring.compare.entries import PairedEntry, apply_holm, build_entry, build_totals
from scoring.compare.objectives import evaluate_objectives
from scoring.compare.pairing import PairedOutcomes, PairedRows, pair_slice_rows, pair_task
from scoring.compare.published import open_evaluation
from suites.contract.objectives import Objectives
from support.samples.published_results import find_real_results, make_evaluation_ref

pytestmark = pytest.mark.scoring
SLICES, TASKS = ("prose", "code", "late"), ("prose_order", "code_order")
OBJECTIVES = Objectives(improve=("tier2", "tier3", "code", "code_order"), hold=("tier2", "tier3", "code", "code_order"))
MARGINS = (OBJECTIVES.margins.nll_per_token, OBJECTIVES.margins.points / 100)


class Real:
    """Both sides, and their paired rows."""

    def __init__(self):
        self.baseline, self.candidate = (
            open_evaluation(make_evaluation_ref(find_real_results(40))),
            open_evaluation(make_evaluation_ref(find_real_results(60))),
        )
        self.rows = {name: pair_slice_rows(name, self.baseline, self.candidate) for name in SLICES}
        self.answers = {
            name: pair_task(name, ("acc_per_char", "acc"), self.baseline, self.candidate).outcomes["acc_per_char"]
            for name in TASKS
        }

    def drawn(self, rng, *, nats=(0.0, 0.0, 0.0), odds=0.5):
        """Entries' rows with random signs; ``nats`` a token are added to each slice; a turned item is gained with ``odds``."""
        for name, shift in zip(SLICES, nats, strict=True):
            rows = self.rows[name]
            difference = (rows.candidate - rows.baseline) * rng.choice((-1, 1), len(rows.tokens))
            moved = PairedRows(
                baseline=rows.baseline,
                candidate=rows.baseline + difference + shift * rows.tokens,
                tokens=rows.tokens,
                unit=rows.unit,
            )
            yield PairedEntry(tier="tier2_ppl", name=name, rows=moved)
        for name in TASKS:
            answers = self.answers[name]
            changed = answers.baseline != answers.candidate
            gained = rng.random(len(changed)) < odds
            before, after = np.where(changed, ~gained, answers.baseline), np.where(changed, gained, answers.baseline)
            drawn = PairedOutcomes(baseline=before, candidate=after)
            yield PairedEntry(tier="tier3_cf", name=name, outcomes={"acc_per_char": drawn, "acc": drawn}, primary="acc_per_char")

    def told(self, paired):
        """(verdicts of entries, verdicts of totals, outcome by objective) of one draw, as compare gives them."""
        paired = list(paired)
        entries = apply_holm([build_entry(one, self.baseline, self.candidate, len(paired)) for one in paired])
        judged = evaluate_objectives(OBJECTIVES, paired, self.baseline, self.candidate)
        return (
            {entry.name: entry.effect.verdict for entry in entries},
            {total.tier: total.effect.verdict for total in build_totals(paired, self.candidate)},
            {(one.kind, one.name): one.outcome for one in judged},
        )


@pytest.fixture(scope="module")
def both():
    return Real()


def sampling(draws):
    """By how much a rate of 5 % may look larger in so many draws: three standard errors."""
    return 3 * math.sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize("draws", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_of_two_equals_at_most_one_comparison_in_twenty_calls_something_better_or_worse(both, draws, record_property):
    rng = np.random.default_rng(2024)
    wrong = dict.fromkeys(["any entry", "tier2_ppl", "tier3_cf"], 0)
    for _ in range(draws):
        entries, tiers, outcomes = both.told(both.drawn(rng))
        wrong["any entry"] += bool({"better", "worse"} & set(entries.values()))
        for tier, verdict in tiers.items():
            wrong[tier] += verdict in {"better", "worse"}
        for (kind, name), outcome in outcomes.items():
            if kind == "improve":
                for word in ("pass", "fail"):
                    wrong[f"improve {name}: {word}"] = wrong.get(f"improve {name}: {word}", 0) + (outcome == word)
    rates = {what: count / draws for what, count in wrong.items()}
    print(f"\nfalse verdicts in {draws} draws:", {what: f"{100 * rate:.2f} %" for what, rate in rates.items()})
    record_property("false verdicts", rates)
    assert len(rates) == 11
    assert all(rate <= 0.05 + sampling(draws) for rate in rates.values()), rates


@pytest.mark.parametrize("draws", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_what_is_worse_by_the_margin_is_said_to_hold_in_one_case_in_twenty_at_most(both, draws):
    rng = np.random.default_rng(7)
    passed = {}
    shares = [np.mean(answers.baseline != answers.candidate) for answers in both.answers.values()]
    odds = 0.5 - MARGINS[1] / min(shares) / 2  # at least a point is lost in each task
    for _ in range(draws):
        _, _, outcomes = both.told(both.drawn(rng, nats=(MARGINS[0],) * 3, odds=odds))
        for (kind, name), outcome in outcomes.items():
            if kind == "hold":
                passed[name] = passed.get(name, 0) + (outcome == "pass")
    print(f"\nheld, although worse by the margin, in {draws} draws:", {k: f"{100 * v / draws:.2f} %" for k, v in passed.items()})
    assert set(passed) == {"tier2", "tier3", "code", "code_order"}
    assert all(count / draws <= 0.05 + sampling(draws) for count in passed.values()), passed


@pytest.mark.parametrize("draws", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_smallest_detectable_difference_of_a_slice_is_found_with_the_stated_power(both, draws):
    """A family of five, of which one slice moved: Holm's correction is then Bonferroni's, which is what it allows for."""
    rng = np.random.default_rng(11)
    least = np.median(
        [build_entry(next(both.drawn(rng)), both.baseline, both.candidate, 5).effect.smallest_detectable for _ in range(20)]
    )
    found = sum(both.told(both.drawn(rng, nats=(-least, 0.0, 0.0)))[0]["prose"] == "better" for _ in range(draws))
    print(f"\nprose moved by {least:.4f} nats a token: found in {100 * found / draws:.1f} % of {draws}, 80 % were promised")
    assert found / draws >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / draws)


@pytest.mark.parametrize("draws", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_smallest_detectable_difference_of_a_task_is_found_with_the_stated_power(both, draws):
    rng = np.random.default_rng(12)
    paired = next(one for one in both.drawn(rng) if one.name == "code_order")
    least = build_entry(paired, both.baseline, both.candidate, 5).effect.smallest_detectable
    answers = both.answers["code_order"]
    odds = (least / np.mean(answers.baseline != answers.candidate) + 1) / 2
    found = 0
    for _ in range(draws):
        drawn = [
            one if one.name == "code_order" else other
            for one, other in zip(both.drawn(rng, odds=odds), both.drawn(rng), strict=True)
        ]
        found += both.told(drawn)[0]["code_order"] == "better"
    print(f"\ncode_order moved by {100 * least:.1f} points: found in {100 * found / draws:.1f} % of {draws}, 80 % were promised")
    assert found / draws >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / draws)


def test_the_signs_are_what_is_drawn_and_nothing_else(both):
    rng = np.random.default_rng(0)
    for one in both.drawn(rng):
        if one.rows is not None:
            was = both.rows[one.name]
            assert np.abs(one.rows.candidate - one.rows.baseline) == pytest.approx(np.abs(was.candidate - was.baseline), abs=1e-9)
        else:
            was, now = both.answers[one.name], one.outcomes["acc"]
            assert ((now.baseline != now.candidate) == (was.baseline != was.candidate)).all()
    assert msgspec.to_builtins(OBJECTIVES)["margins"] == {"nll_per_token": 0.005, "points": 1.0, "bits_per_byte": 0.01}
