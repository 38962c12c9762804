"""What a stage forgot: its end against the ends of earlier stages, in pairs over the same items and documents.

All figures and earlier stages are one family after Holm, and stages share the level after Bonferroni: of the whole matrix of
equal checkpoints, any figure is called forgotten in at most 5 % of cases.
"""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from scoring.compare.effects import judge_effect
from scoring.compare.entries import ENTRY_KINDS, PairedEntry, build_entry, pair_entry
from scoring.compare.pairing import PairedOutcomes, find_comparable_names
from scoring.compare.published import PublishedEvaluation
from scoring.compare.rows import PairingError
from scoring.estimators.statistics import BoolArray, adjust_p_values_holm
from suites.contract.comparison import ComparedEntry, Refusal
from suites.contract.objectives import TIER_BY_SHORT_NAME
from suites.contract.stage_summary import MAX_LOST_ITEMS, ForgottenFigure


def compare_with_earlier_ends(
    end: PublishedEvaluation, earlier_ends: Sequence[PublishedEvaluation], stage_count: int, refusals: list[Refusal]
) -> list[ForgottenFigure]:
    """Every figure of ``end`` against every earlier end that has it on the same data."""
    figures = [figure for earlier in earlier_ends for figure in _compare(earlier, end, refusals)]
    tested = [figure for figure in figures if figure.effect.p is not None]
    adjusted = iter(adjust_p_values_holm([figure.effect.p for figure in tested if figure.effect.p is not None]))
    judged = []
    for figure in figures:
        if figure.effect.p is None:
            judged.append(figure)
            continue
        p = min(1.0, next(adjusted) * max(stage_count, 1))
        effect = judge_effect(msgspec.structs.replace(figure.effect, p_holm=p), p)
        is_forgotten = effect.verdict == "worse"
        # Names are many, so only what was forgotten lists them.
        lost_items = figure.lost_items if is_forgotten else ()
        judged.append(msgspec.structs.replace(figure, effect=effect, forgotten=is_forgotten, lost_items=lost_items))
    return judged


def _compare(earlier: PublishedEvaluation, end: PublishedEvaluation, refusals: list[Refusal]) -> Iterator[ForgottenFigure]:
    for tier in TIER_BY_SHORT_NAME.values():
        if tier not in end.documents or tier not in earlier.documents:
            continue
        comparable = find_comparable_names(tier, earlier, end)
        refusals += [
            Refusal(name=refusal.name, tier=tier, reason=f"{earlier.info.stage}: {refusal.reason}")
            for refusal in comparable.refusals
            if refusal.name == tier or refusal.name in earlier.list_names(tier)  # a new figure has nothing to forget
        ]
        for name in comparable.names:
            try:
                paired = pair_entry(tier, name, earlier, end)
            except PairingError as error:
                refusals.append(Refusal(name=name, tier=tier, reason=f"{earlier.info.stage}: {error}"))
                continue
            yield from _list_figures(paired, build_entry(paired, earlier, end, 1), earlier)


def _list_figures(paired: PairedEntry, entry: ComparedEntry, earlier: PublishedEvaluation) -> Iterator[ForgottenFigure]:
    """The entry's own figure, and its bits per byte."""
    for key in (entry.judged_by, "bpb"):
        if key not in entry.effects:
            continue
        shown = entry.effects.get("ppl", entry.effects[key])
        figure = ForgottenFigure(
            tier=entry.tier,
            name=entry.name,
            metric=key,
            earlier_stage=earlier.info.stage,
            earlier_directory=earlier.info.directory,
            effect=entry.effects[key],
            earlier_value=shown.baseline,
            loss=shown.delta if shown.better_when == "lower" else -shown.delta,
            forgotten=False,
        )
        outcomes = paired.outcomes.get(paired.primary)
        if key == entry.judged_by and outcomes is not None:
            lost, gained = outcomes.baseline & ~outcomes.candidate, outcomes.candidate & ~outcomes.baseline  # [n] each
            figure = msgspec.structs.replace(
                figure,
                lost=int(lost.sum()),
                gained=int(gained.sum()),
                never_known=float((~outcomes.baseline & ~outcomes.candidate).mean()),
                lost_items=_name_items(paired, outcomes, lost),
            )
        yield figure


def _name_items(paired: PairedEntry, outcomes: PairedOutcomes, lost: BoolArray) -> tuple[str, ...]:
    """The ids of the lost items of a task; empty for rates."""
    if ENTRY_KINDS[paired.tier].name != "task":
        return ()
    return tuple(outcomes.ids[index] for index in np.flatnonzero(lost)[:MAX_LOST_ITEMS])
