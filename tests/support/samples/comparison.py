"""Realistic compare.json documents without scores behind them, for whoever shows them.

    documents = sample_run(results)        # writes 25 evaluations' compare.json where they belong

Figures are made up, and hang together: p and intervals follow from delta and its error.
"""

import hashlib
import math
import random
from pathlib import Path
from statistics import NormalDist

from suites.common.atomic_files import write_atomically
from suites.contract.comparison import (
    ComparedEntry,
    CompareRequest,
    Comparison,
    ComparisonDocument,
    Effect,
    EvaluationInfo,
    EvaluationRef,
    ObjectiveResult,
    Refusal,
    TierTotal,
)
from suites.contract.encoding import encode_json
from suites.contract.objectives import TIER4_RATES, Objectives

NORMAL = NormalDist()
STAGE1_SLICES = ("general_web", "code", "books_newslike", "math_finemath3plus", "math_infiwebmath3plus")
STAGE1_SLICES += ("web_fineweb_edu_sample10bt", "wiki_en_20231101")
HIGH_QUALITY_SLICES = (
    "math_finemath4plus",
    "math_infiwebmath4plus",
    "code_stackv2_edu_filtered",
    "code_starcoder2data_extras_lhq",
)
REASONING_SLICES = ("math_openmathreasoning", "math_openmathinstruct1", "code_opencodereasoning")
EASY_TASKS = (
    "hellaswag",
    "piqa",
    "winogrande",
    "arc_easy",
    "openbookqa",
    "commonsense_qa",
    "social_i_qa",
    "sciq",
    "qasc",
    "copa",
)
HARD_TASKS = ("arc_challenge", "mmlu")
STAGE_STEPS = {
    "stage1": (2000, 10000, 20000, 32000, 40000, 50000),
    "stage2": (2000, 6000, 10000, 14000, 18000, 22000),
    "stage3": (2000, 4000, 6000, 8000, 10000, 12000),
    "stage4": (500, 1500, 3500, 5000),
}
BRIDGES = {"stage2": ("stage1", 50000), "stage3": ("stage2", 22000), "stage4": ("stage3", 12000)}
OBJECTIVES = {
    "stage1": Objectives(),
    "stage2": Objectives(
        improve=("hq",), hold=("anchors", "tier3"), groups={"hq": HIGH_QUALITY_SLICES, "anchors": STAGE1_SLICES}
    ),
    "stage3": Objectives(improve=("tier3",), hold=("tier2",)),
    "stage4": Objectives(improve=("tier4",), hold=("tier3", "tier2")),
}


def list_slices(stage):
    slices = (
        STAGE1_SLICES
        + (HIGH_QUALITY_SLICES if stage != "stage1" else ())
        + (REASONING_SLICES if stage in {"stage3", "stage4"} else ())
    )
    tasks = EASY_TASKS + (HARD_TASKS if stage in {"stage3", "stage4"} else ())
    return slices, tasks, TIER4_RATES if stage == "stage4" else ()


def make_effect(metric, baseline, delta, stderr, n, *, lower=False, family=1):
    z = delta / stderr
    p = 2 * (1 - NORMAL.cdf(abs(z)))
    holm = min(1.0, p * family)
    good = (delta < 0) == lower
    verdict = "no_change_seen" if holm > 0.05 else "better" if good else "worse"
    return Effect(
        metric=metric,
        better_when="lower" if lower else "higher",
        baseline=baseline,
        candidate=baseline + delta,
        delta=delta,
        stderr=stderr,
        low=delta - 1.96 * stderr,
        high=delta + 1.96 * stderr,
        p=p,
        p_holm=holm if family > 1 else None,
        smallest_detectable=(NORMAL.inv_cdf(1 - 0.025 / family) + NORMAL.inv_cdf(0.8)) * stderr,
        n=n,
        test="made up: z",
        verdict=verdict,
    )


def _slice(name, draw, gain, family):
    base = 2.0 + draw.random()
    nll = make_effect(
        "nll_per_token", base, -gain * (0.5 + draw.random()) + draw.gauss(0, 0.004), 0.004, 5200, lower=True, family=family
    )
    ppl = make_effect("ppl", math.exp(base), math.exp(nll.candidate) - math.exp(base), 0.004 * math.exp(base), 5200, lower=True)
    return ComparedEntry(
        tier="tier2_ppl",
        kind="slice",
        name=name,
        effects={"nll_per_token": nll, "ppl": ppl},
        judged_by="nll_per_token",
        plain=ppl.delta <= 0,
        unit="document",
        tokens=5_000_000,
    )


def _task(name, draw, gain, family):
    n = {"copa": 100, "mmlu": 12000, "hellaswag": 10042}.get(name, 1500)
    stderr = 0.3 / math.sqrt(n)
    base = 0.3 + 0.4 * draw.random()
    primary = make_effect("acc_per_char", base, gain / 4 + draw.gauss(0, stderr), stderr, n, family=family)
    acc = make_effect("acc", base - 0.02, gain / 5 + draw.gauss(0, stderr), stderr, n)
    effects = {"primary": primary, "acc": acc}
    if name == "mmlu":
        effects["primary_macro"] = make_effect("acc_per_char", base - 0.003, primary.delta - 0.001, 1.2 * stderr, n)
    up = int(n * 0.05)
    return ComparedEntry(
        tier="tier3_cf",
        kind="task",
        name=name,
        effects=effects,
        judged_by="primary",
        plain=acc.delta >= 0,
        unit="item",
        discordant=(up + round(max(primary.delta, 0) * n), up + round(max(-primary.delta, 0) * n)),
    )


def _rate(name, draw, gain, family):
    base = 0.2 + 0.3 * draw.random()
    rate = make_effect("rate", base, min(4 * gain + draw.gauss(0, 0.04), 0.95 - base), 0.04, 120, family=family)
    return ComparedEntry(
        tier="tier4_sft_native",
        kind="rate",
        name=name,
        effects={"rate": rate},
        judged_by="rate",
        plain=rate.delta >= 0,
        unit="prompt",
        discordant=(20, 5),
    )


def _total(tier, entries):
    effects = {}
    for key in [key for key in entries[0].effects if key != "primary_macro"]:
        of = [entry.effects[key] for entry in entries][: 1 if tier == "tier4_sft_native" else None]
        mean = [sum(getattr(one, field) for one in of) / len(of) for field in ("baseline", "delta", "stderr")]
        first = of[0]
        effects[key] = make_effect(
            "primary" if key == "primary" else first.metric, *mean, sum(one.n for one in of), lower=first.better_when == "lower"
        )
    judged = entries[0].judged_by
    return TierTotal(
        tier=tier,
        effects=effects,
        judged_by=judged,
        plain=entries[0].plain,
        names=tuple(entry.name for entry in entries),
    )


def _objectives(objectives, totals, entries):
    for kind in ("improve", "hold"):
        for name in getattr(objectives, kind):
            tier = {"tier2": "tier2_ppl", "tier3": "tier3_cf", "tier4": "tier4_sft_native"}.get(name, "tier2_ppl")
            total = totals.get(tier)
            if name in objectives.groups:
                total = _total(tier, [entry for entry in entries if entry.name in objectives.groups[name]])
            yield judge_objective(kind, name, total)


def judge_objective(kind, name, total):
    """The outcome of a one-sided z-test on a total's effect; inconclusive without a total."""
    if total is None:
        return ObjectiveResult(kind=kind, name=name, outcome="inconclusive", effect=None, why=f"{name} was not scored")
    effect = total.effect
    margin = 0.0 if kind == "improve" else 0.005 if effect.better_when == "lower" else 0.01
    loss = effect.delta if effect.better_when == "lower" else -effect.delta
    p = NORMAL.cdf((loss - margin) / effect.stderr)
    return ObjectiveResult(
        kind=kind,
        name=name,
        outcome="pass" if p <= 0.05 else "fail" if p >= 0.95 else "inconclusive",
        effect=effect,
        margin=margin,
        p=p,
        test="made up: one-sided z at the 5 % level",
        plain=loss <= 0,
    )


def make_evaluation_scores(stage, source, step, directory):
    return EvaluationInfo(
        stage=stage,
        source_stage=source,
        step=step,
        directory=directory,
        checkpoint=f"/scratch/ckpts/{source}/{step}",
        fingerprint=hashlib.sha256(f"{source} {step}".encode()).hexdigest(),
        tokens_seen=step * 2_097_152,
        suites={"tier2_ppl": "ab" * 32, "tier3_cf": "cd" * 32} | ({"tier4_sft_native": "ef" * 32} if stage == "stage4" else {}),
    )


def make_sample_comparison(role, stage, baseline, *, gain, seed=0, note=None):
    """One comparison; ``gain`` is about how many nats a token better the candidate is (and a quarter of it in accuracy)."""
    draw = random.Random(f"{seed} {stage} {role} {gain}")
    slices, tasks, rates = list_slices(stage)
    family = len(slices) + len(tasks) + len(rates)
    anchors_lose = stage == "stage2"
    of_slices = [_slice(name, draw, -0.15 * gain if anchors_lose and name in STAGE1_SLICES else gain, family) for name in slices]
    of_tasks = [_task(name, draw, gain, family) for name in tasks]
    of_rates = [_rate(name, draw, gain, family) for name in rates]
    entries = [*of_slices, *of_tasks, *of_rates]
    totals = [_total(each[0].tier, each) for each in (of_slices, of_tasks, of_rates) if each]
    judged = tuple(_objectives(OBJECTIVES[stage], {total.tier: total for total in totals}, entries)) if role == "bridge" else ()
    outcomes = {one.outcome for one in judged}
    return Comparison(
        role=role,
        baseline=baseline,
        entries=tuple(entries),
        totals=tuple(totals),
        objectives=judged,
        outcome=next((word for word in ("fail", "inconclusive", "pass") if word in outcomes), None),
        refusals=(Refusal(name="qasc", reason="data_key differs: 1f2e.. and 77aa..", tier="tier3_cf"),)
        if stage == "stage3"
        else (),
        note=note,
    )


def make_sample_document(stage, step, results="/scratch/evaluation_results", *, seed=0):
    """The compare.json of one scheduled step: against the bridge, the previous step and the best one, as far as there are any."""
    steps = STAGE_STEPS[stage]
    place = steps.index(step)

    def where(directory):
        return EvaluationRef(results=f"{results}/{stage}", stage=stage, directory=directory)

    gain = 0.05 * (place + 1) / len(steps) if stage != "stage1" else 0.3
    comparisons = []
    note = None
    if stage in BRIDGES:
        source, at = BRIDGES[stage]
        note = f"{stage} began from {source} 21000, not from this one" if stage == "stage3" else None
        bridge = make_evaluation_scores(stage, source, at, f"step_{at}")
        comparisons.append(make_sample_comparison("bridge", stage, bridge, gain=gain, seed=seed, note=note))
    if place:
        before = make_evaluation_scores(stage, stage, steps[place - 1], f"step_{steps[place - 1]}")
        comparisons.append(make_sample_comparison("previous", stage, before, gain=0.01, seed=seed))
        best = make_evaluation_scores(stage, stage, steps[max(0, place - 2)], f"step_{steps[max(0, place - 2)]}")
        comparisons.append(make_sample_comparison("best", stage, best, gain=0.004, seed=seed))
    return ComparisonDocument(
        candidate=make_evaluation_scores(stage, stage, step, f"step_{step}"),
        request=CompareRequest(
            candidate=where(f"step_{step}"),
            bridge=where(f"step_{BRIDGES[stage][1]}") if stage in BRIDGES else None,
            earlier=tuple(where(f"step_{each}") for each in steps[:place]),
            objectives=OBJECTIVES[stage],
        ),
        comparisons=tuple(comparisons),
    )


def write_sample_run(results):
    """Write the compare.json of every scheduled step of the four stages; (stage, step) -> document."""
    documents = {}
    for stage, steps in STAGE_STEPS.items():
        for step in steps:
            document = make_sample_document(stage, step, results)
            path = document.request.candidate.paths.compare_json
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, encode_json(document))
            documents[stage, step] = document
    return documents


if __name__ == "__main__":
    import sys

    print(len(write_sample_run(Path(sys.argv[1]))), "written")
