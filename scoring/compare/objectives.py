"""Outcomes of a stage's objectives against its bridge."""

from collections.abc import Iterator, Sequence

import msgspec

from scoring.compare import effects
from scoring.compare.bits_per_byte import run_bits_test
from scoring.compare.entries import ENTRY_KINDS, SINGLE_LOOK, PairedEntry, build_total_effects, join_slices
from scoring.compare.look import Look
from scoring.compare.published import PublishedEvaluation
from suites.contract.comparison import ObjectiveOutcome, ObjectiveResult
from suites.contract.objectives import Objectives, resolve_objective


def evaluate_objectives(
    objectives: Objectives,
    paired: Sequence[PairedEntry],
    baseline: PublishedEvaluation,
    candidate: PublishedEvaluation,
    look: Look = SINGLE_LOOK,
) -> Iterator[ObjectiveResult]:
    """The result of every objective of the stage, in the config's order."""
    kinds: tuple[effects.ObjectiveKind, ...] = ("improve", "hold")
    for kind in kinds:
        for name in getattr(objectives, kind):
            yield _evaluate_objective(kind, name, objectives, look, paired=paired, baseline=baseline, candidate=candidate)


def _evaluate_objective(
    kind: effects.ObjectiveKind,
    name: str,
    objectives: Objectives,
    look: Look,
    *,
    paired: Sequence[PairedEntry],
    baseline: PublishedEvaluation,
    candidate: PublishedEvaluation,
) -> ObjectiveResult:
    result = ObjectiveResult(kind=kind, name=name, outcome="inconclusive", effect=None)
    target = resolve_objective(name, objectives, candidate.list_scored_names())
    if target is None or target.tier not in candidate.documents:
        return msgspec.structs.replace(result, why=f"{name} is not scored at the candidate")
    # The total over those members that both sides have, as in the tier's summary.
    tier = target.tier
    members = candidate.list_total_members(tier) if target.names is None else target.names
    usable = [
        entry for entry in paired if entry.tier == tier and entry.name in members and entry.is_paired and not entry.is_over_bytes
    ]
    if target.metric == "bpb":
        usable = [entry for entry in usable if entry.bits is not None]
    compared = {entry.name for entry in usable}
    missing = [member for member in members if member not in compared]
    if not usable:
        reason = f"not comparable: {', '.join(missing)}"
        if target.metric == "bpb":
            command = f"python -m scoring derive {candidate.paths.folder.parent.parent}"
            reason += f"; these rows give no bits per byte: {command} says why"
        return msgspec.structs.replace(result, why=reason)
    effects_by_key = build_total_effects(usable, look)
    key = target.metric or ENTRY_KINDS[tier].judged_by
    effect = effects_by_key[key]
    margin = objectives.margins.find(effect.metric) if kind == "hold" else 0.0
    plain = effects.is_plain_rule_met({key: effect} if target.metric else effects_by_key)
    result = msgspec.structs.replace(result, effect=effect, margin=margin, plain=plain)
    if effect.p is None:
        return msgspec.structs.replace(result, why="too few items")
    # The same data as the effect's, with a one-sided test in either direction.
    if target.metric == "bpb":
        test = run_bits_test([entry.bits for entry in usable if entry.bits is not None], margin)
    else:
        data = join_slices(usable) if usable[0].rows is not None else [entry.outcomes[entry.primary] for entry in usable]
        test = effects.run_one_sided_test(kind, data, margin, is_lower_better=effect.better_when == "lower")
    pass_level, fail_level = look.get_objective_levels(kind, objectives)
    outcome: ObjectiveOutcome = (
        "pass" if test.p_not_met <= pass_level else "fail" if test.p_not_missed <= fail_level else "inconclusive"
    )
    why = f"without {', '.join(missing)}" if missing else None
    # A member that only one side scored is new or gone. One that both scored and that does not fit may hide a loss.
    mismatched = [name for name in missing if name in candidate.list_names(tier) and name in baseline.list_names(tier)]
    if outcome == "pass" and mismatched:
        outcome, why = "inconclusive", f"would pass, but these are not comparable: {', '.join(mismatched)}"
    test_text = f"{test.test}, at {100 * pass_level:.3g} %"
    test_text += "" if fail_level == pass_level else f" to pass and {100 * fail_level:.3g} % to fail"
    return msgspec.structs.replace(result, outcome=outcome, p=test.p_not_met, test=test_text, why=why)
