"""Entries of compare.json for slices, tasks and rates, and their totals."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from scoring.compare import effects
from scoring.compare.bits_per_byte import build_bits_effect
from scoring.compare.effects import MetricPair, SummedRatio
from scoring.compare.look import Look
from scoring.compare.other_models import TEXT_KEY, pair_document_bits
from scoring.compare.pairing import (
    MissingRowsError,
    PairedBits,
    PairedOutcomes,
    PairedRows,
    describe_coverage,
    pair_slice_rows,
    pair_task,
)
from scoring.compare.prompt_pairing import find_common_prompts, get_prompts, pair_rate_rows
from scoring.compare.published import PublishedEvaluation
from scoring.compare.rows import PairingError
from scoring.estimators.statistics import SIGNIFICANCE_LEVEL, adjust_p_values_holm
from suites.contract.comparison import BITS_PER_BYTE, ComparedEntry, Effect, TierTotal

SINGLE_LOOK = Look()


class EntryKind(msgspec.Struct, frozen=True):
    """How the entries of a tier are compared."""

    name: Literal["slice", "task", "rate"]
    unit: Literal["document", "item", "prompt"]
    judged_by: str
    """Key of the effect whose verdict is the entry's."""
    figure_keys: tuple[str, ...]
    """Published figures; for ratios of sums, also the effects."""


ENTRY_KINDS = {
    "tier2_ppl": EntryKind("slice", "document", "nll_per_token", ("nll_per_token", "ppl")),
    "tier3_cf": EntryKind("task", "item", "primary", ("primary", "acc")),
    "tier4_sft_native": EntryKind("rate", "prompt", "rate", ("rate",)),
}
"""Tier -> the kind of its entries."""


class PairedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The paired data of one entry.

    Without rows and outcomes, only the figures are compared.
    """

    tier: str
    name: str
    rows: PairedRows | None = None
    """Of a ratio of sums: a slice, or a share of checks."""
    outcomes: Mapping[str, PairedOutcomes] = msgspec.field(default_factory=dict)
    """Metric -> outcomes of a task, or of a share of prompts."""
    bits: PairedBits | None = None
    """Bits per byte of a task's gold answers."""
    primary: str = ""
    """The metric of ``outcomes`` that decides."""
    note: str | None = None

    @property
    def is_paired(self) -> bool:
        """Whether there is more than figures."""
        return self.rows is not None or bool(self.outcomes)

    @property
    def ratio_keys(self) -> tuple[str, ...]:
        """Effects of a ratio of sums."""
        return (BITS_PER_BYTE,) if self.is_over_bytes else ENTRY_KINDS[self.tier].figure_keys

    @property
    def judged_by(self) -> str:
        """Key of the effect whose verdict is the entry's."""
        return BITS_PER_BYTE if self.is_over_bytes else ENTRY_KINDS[self.tier].judged_by

    @property
    def is_over_bytes(self) -> bool:
        """Whether it is text of two models, over bytes."""
        return self.rows is not None and self.rows.is_over_bytes


def pair_entry(
    tier: str, name: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation, *, other_model: bool = False
) -> PairedEntry:
    """The paired data of one entry that both sides have; of ``other_model`` by text.

    Raises PairingError where they do not fit together.
    """
    kind, entry = ENTRY_KINDS[tier], candidate.get_entries(tier)[name]
    primary = entry["primary_metric"] if kind.name == "task" else kind.judged_by
    paired = PairedEntry(tier=tier, name=name, primary=primary)
    # A note says over what part the entry is compared, where that is not all of the candidate's.
    try:
        if kind.name == "slice":
            rows = (pair_document_bits if other_model else pair_slice_rows)(name, baseline, candidate)
            has_same_data = rows.is_over_bytes is False and baseline.get_entries(tier)[name].get("data_key") == entry.get(
                "data_key"
            )
            note = None if has_same_data else describe_coverage(len(rows.tokens), entry["documents"], kind.unit)
            return msgspec.structs.replace(paired, rows=rows, note=note)
        if kind.name == "task":
            metrics, key_column = tuple(dict.fromkeys((primary, "acc"))), TEXT_KEY if other_model else "key"
            task = pair_task(name, metrics, baseline, candidate, key_column=key_column)
            paired_count, total_count = len(next(iter(task.outcomes.values())).baseline), entry["examples"]
            note = None if paired_count == total_count else describe_coverage(paired_count, total_count, kind.unit)
            return msgspec.structs.replace(paired, outcomes=task.outcomes, bits=task.bits, note=note)
        common = find_common_prompts(baseline, candidate, other_model=other_model)
        total_count = len(get_prompts(candidate))
        note = None if len(common) == total_count else describe_coverage(len(common), total_count, kind.unit)
        rate = pair_rate_rows(name, common, baseline, candidate)
    except MissingRowsError as error:
        if other_model:  # published figures are per token
            raise PairingError(str(error)) from error
        return msgspec.structs.replace(paired, note=str(error))
    if isinstance(rate, PairedRows):
        return msgspec.structs.replace(paired, rows=rate, note=note)
    return msgspec.structs.replace(paired, outcomes={"rate": rate}, note=note)


def _build_paired_effects(paired: PairedEntry, *, level: float = SIGNIFICANCE_LEVEL) -> dict[str, Effect]:
    """Effects of an entry with rows or outcomes.

    ``level`` is the one of the smallest detectable difference.
    """
    kind = ENTRY_KINDS[paired.tier]
    if paired.rows is not None:
        ratio = SummedRatio((paired.rows,))
        return {metric: ratio.build_effect(metric, level=level) for metric in paired.ratio_keys}
    metrics = {kind.judged_by: paired.primary} | ({"acc": "acc"} if kind.name == "task" else {})
    outcome_effects = {
        key: effects.build_outcome_effect(metric, paired.outcomes[metric], level=level) for key, metric in metrics.items()
    }
    return outcome_effects | ({} if paired.bits is None else {"bpb": build_bits_effect([paired.bits], level=level)})


def build_entry(
    paired: PairedEntry,
    baseline: PublishedEvaluation,
    candidate: PublishedEvaluation,
    entry_count: int,
    look: Look = SINGLE_LOOK,
) -> ComparedEntry:
    """An entry of compare.json before Holm's correction.

    ``entry_count`` is the number of judged effects: the smallest detectable difference must survive their correction.
    """
    level = look.entry_level / entry_count / look.count_pairs(paired.tier)
    kind, primary_outcomes = ENTRY_KINDS[paired.tier], paired.outcomes.get(paired.primary)
    if paired.is_paired:
        effects_by_key = _build_paired_effects(paired, level=level)
    else:
        # Without rows there is no error, so the effects have no p value and no verdict.
        figures = [side.get_entries(paired.tier)[paired.name] for side in (baseline, candidate)]
        effects_by_key = {
            key: effects.build_bare_effect(
                MetricPair(
                    metric=paired.primary if key == "primary" else key, baseline=figures[0][key], candidate=figures[1][key]
                )
            )
            for key in (*kind.figure_keys, *(("bpb",) if all(figure.get("bpb") is not None for figure in figures) else ()))
        }
    if kind.name == "task" and primary_outcomes is not None:
        macro = effects.build_subject_effect(paired.primary, primary_outcomes, level=level)
        effects_by_key |= {} if macro is None else {"primary_macro": macro}
    if paired.bits is not None and (subject_bits := paired.bits.split_by_subject()):
        effects_by_key["bpb_macro"] = build_bits_effect(subject_bits, level=level)
    counts = None if primary_outcomes is None else effects.count_discordant(primary_outcomes)
    return ComparedEntry(
        tier=paired.tier,
        kind=kind.name,
        name=paired.name,
        effects=effects_by_key,
        judged_by=paired.judged_by,
        plain=effects.is_plain_rule_met(effects_by_key),
        unit=paired.rows.unit if paired.rows is not None else kind.unit,  # type: ignore[arg-type]
        tokens=int(math.fsum(paired.rows.tokens))
        if paired.rows is not None and kind.name == "slice" and not paired.is_over_bytes
        else None,
        discordant=None if counts is None else (counts.gained, counts.lost),
        note=paired.note,
    )


def apply_holm(entries: Sequence[ComparedEntry], look: Look = SINGLE_LOOK) -> list[ComparedEntry]:
    """Correct the p values and verdicts of a comparison's entries.

    Holm's correction is over the effects that decide, and over bits per byte. The effects beside them get Bonferroni's, which
    is never milder.
    """
    family = [(entry.tier, entry.name, key) for entry in entries for key in entry.judged_keys]
    p_values = {
        (entry.tier, entry.name, key): look.correct_for_choice(entry.tier, effect, effect.p)
        for entry in entries
        for key, effect in entry.effects.items()
        if effect.p is not None
    }
    tested = [member for member in family if member in p_values]
    adjusted = dict(zip(tested, adjust_p_values_holm([p_values[member] for member in tested]), strict=True))
    corrected_entries = []
    for entry in entries:
        corrected_effects = dict(entry.effects)
        for key, effect in entry.effects.items():
            member = (entry.tier, entry.name, key)
            if member in p_values:
                p = adjusted.get(member, min(1.0, p_values[member] * len(tested)))
                corrected = msgspec.structs.replace(effect, p_holm=p)
                corrected_effects[key] = effects.judge_effect(corrected, p, look.entry_level)
        corrected_entries.append(msgspec.structs.replace(entry, effects=corrected_effects))
    return corrected_entries


def count_judged_effects(paired: Sequence[PairedEntry]) -> int:
    """How many effects of entries get a verdict of their own."""
    return len(paired) + sum(entry.bits is not None for entry in paired)


def count_totals(paired: Sequence[PairedEntry], candidate: PublishedEvaluation) -> int:
    """How many totals share a look's level.

    Bits per byte are judged beside the accuracies, so tier 3 has two.
    """
    return len(candidate.documents) + any(entry.bits is not None for entry in paired)


def build_totals(paired: Sequence[PairedEntry], candidate: PublishedEvaluation, look: Look = SINGLE_LOOK) -> Iterator[TierTotal]:
    """The total of each tier over its entries with rows or outcomes."""
    for tier in candidate.documents:
        members = candidate.list_total_members(tier)
        usable = [entry for entry in paired if entry.tier == tier and entry.name in members and entry.is_paired]
        if usable:
            effects_by_key = build_total_effects(usable, look)
            names = tuple(entry.name for entry in usable)
            yield TierTotal(
                tier=tier,
                effects=effects_by_key,
                judged_by=usable[0].judged_by,
                plain=effects.is_plain_rule_met(effects_by_key),
                names=names,
                left_out=tuple(name for name in members if name not in names),
            )


def build_total_effects(usable: Sequence[PairedEntry], look: Look = SINGLE_LOOK) -> dict[str, Effect]:
    """Effects of several entries of one tier together.

    Weights are those of the tier's summary. A total is a single question, so no other entry corrects it.
    One entry has its own effects.
    """
    tier = usable[0].tier
    return look.judge_total(tier, _measure_total(usable, level=look.total_level / look.count_pairs(tier)))


def _measure_total(usable: Sequence[PairedEntry], *, level: float) -> dict[str, Effect]:
    """Effects of a total; ``level`` is the one of the smallest detectable difference."""
    kind = ENTRY_KINDS[usable[0].tier]
    if len(usable) == 1:
        return _build_paired_effects(usable[0], level=level)
    if kind.name == "slice":
        ratio = join_slices(usable)
        return {metric: ratio.build_effect(metric, level=level) for metric in usable[0].ratio_keys}
    if kind.name == "task":
        bits = [entry.bits for entry in usable if entry.bits is not None]
        return {
            "primary": effects.build_mean_effect("primary", [entry.outcomes[entry.primary] for entry in usable], level=level),
            "acc": effects.build_mean_effect("acc", [entry.outcomes["acc"] for entry in usable], level=level),
            **({"bpb": build_bits_effect(bits, level=level)} if len(bits) == len(usable) else {}),
        }
    raise ValueError("rates have no common total")


def join_slices(usable: Sequence[PairedEntry]) -> SummedRatio:
    """The rows of several entries as one ratio."""
    return SummedRatio(tuple(entry.rows for entry in usable if entry.rows is not None))
