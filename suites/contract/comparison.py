"""compare.json, an evaluation's comparisons with earlier checkpoints, and the request for it.

``python -m scoring compare REQUEST.json`` writes it at ``EvaluationPaths.compare_json``; the watcher only renders it.

``delta`` is always candidate minus baseline, over the same rows, items or prompts on both sides. Units are perplexity,
nats per token, or shares from 0 to 1; ``Effect.better_when`` says which direction is better.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from suites.common.documents import DamagedDocument, read_struct
from suites.common.errors import UserError
from suites.common.formatting import describe_error
from suites.contract.encoding import find_non_finite_number
from suites.contract.looks import STAGE_LEVEL, Level
from suites.contract.objectives import TIER_BY_SHORT_NAME, Objectives
from suites.contract.paths import EvaluationPaths

SCHEMA = 1

BaselineRole = Literal["bridge", "previous", "best", "last_member", "previous_average", "reference"]

BASELINE_ROLES: tuple[BaselineRole, ...] = ("bridge", "previous", "best", "last_member", "previous_average")
"""Roles of which an evaluation has at most one baseline."""

Direction = Literal["better", "worse"]

GOLD_BITS = "bpb"
"""Key of the effect on bits per byte of gold answers."""

BITS_PER_BYTE = "bits_per_byte"
"""Key of the effect on text, where two models have other tokenizers or lengths."""

EffectVerdict = Literal["better", "worse", "hint", "no_change_seen", "too_few_items"]
"""``hint``: significant at a single look and not at this look's level, so it may be one of many looks' false alarms."""

ObjectiveOutcome = Literal["pass", "fail", "inconclusive"]


class EvaluationRef(msgspec.Struct, frozen=True, kw_only=True):
    """Identifies one evaluation in a CompareRequest."""

    results: str
    """The stage's folder of results, with ``by_checkpoint`` in it."""
    stage: str
    directory: str
    fingerprint: str | None = None
    """Expected fingerprint: scores of another content are refused. None accepts any."""
    suites: dict[str, str] = msgspec.field(default_factory=dict)
    """Tier -> expected suite_digest. Not checked; a difference makes it another request."""
    note: str | None = None
    """For people, copied to the Comparison: why the baseline is not the configured or the recorded one."""

    @property
    def paths(self) -> EvaluationPaths:
        """Paths of its results."""
        return EvaluationPaths(Path(self.results), self.directory)


class CompareRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Input of ``python -m scoring compare``.

    Equal requests give equal documents, byte for byte.
    """

    schema: int = SCHEMA
    candidate: EvaluationRef
    bridge: EvaluationRef | None = None
    earlier: tuple[EvaluationRef, ...] = ()
    """Scored steps of the same stage before the candidate's, ascending.

    The last is ``previous``; ``objectives.choose_ranking_total`` decides which is ``best``.
    """
    last_member: EvaluationRef | None = None
    """Of an average: the step that it is made at."""
    previous_average: EvaluationRef | None = None
    """Of an average: the one before it with the same weights."""
    references: tuple[EvaluationRef, ...] = ()
    """Other models on the same suites. Each comparison with one is a single look, in the order given here."""
    objectives: Objectives = msgspec.field(default_factory=Objectives)
    """Checked against the bridge only."""
    level: Level | None = None
    """Level of this look against each baseline, fixed and journaled at its first comparison; None: a single look at 5 %."""

    @property
    def lacks_level(self) -> bool:
        """Whether it is one of a stage's looks, and its level is not fixed yet. An average's is a single look."""
        return self.level is None and (self.bridge is not None or bool(self.earlier))


class EvaluationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The evaluation that a side of a comparison shows."""

    stage: str
    """Stage of the suites."""
    source_stage: str
    """Stage of the checkpoint."""
    step: int
    directory: str
    checkpoint: str
    """Path of the checkpoint when it was scored."""
    fingerprint: str
    tokens_seen: int | None = None
    suites: dict[str, str] = msgspec.field(default_factory=dict)
    """Tier -> suite_digest of every published tier."""


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """One figure on both sides, with the error of their difference.

    Where fewer than two rows exist, no error can be estimated, and all fields but the three figures are null.
    """

    metric: str
    """``nll_per_token`` (nats), ``ppl``, ``acc``, ``acc_per_char``, ``rate`` and so on."""
    better_when: Literal["lower", "higher"]
    baseline: float
    candidate: float
    delta: float
    stderr: float | None = None
    """Paired standard error of ``delta``."""
    low: float | None = None
    high: float | None = None
    """95 % interval of ``delta``."""
    p: float | None = None
    """Two-sided, for the hypothesis of no difference."""
    p_holm: float | None = None
    """After Holm's correction over the entries; where worse than the best, also over the steps that it was chosen from.
    Null where nothing was corrected."""
    smallest_detectable: float | None = None
    """Size of the difference that this test, at its level, detects in 80 % of cases; same unit, never negative."""
    n: int = 0
    """Number of independent samples: documents (or windows), items or prompts."""
    test: str = ""
    """Name of the test that gave ``p``."""
    verdict: EffectVerdict = "too_few_items"
    hint: Direction | None = None
    """Direction of the verdict ``hint``; null for every other verdict."""


class ComparedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One slice, one task, or one rate of tier 4."""

    tier: str
    kind: Literal["slice", "task", "rate"]
    name: str
    effects: dict[str, Effect]
    """A slice has ``nll_per_token`` and ``ppl``, and ``bits_per_byte`` instead where two models have other tokenizers or lengths.

    A task has ``primary``, ``acc``, ``bpb`` and, with subjects, ``primary_macro`` and ``bpb_macro`` (means over subjects); a rate
    has ``rate``.
    """
    judged_by: str
    """Key in ``effects`` of the effect that gives the verdict and enters Holm's correction."""
    plain: bool
    """The plain rule without a test: delta_ppl <= 0, delta_acc >= 0 (rates: delta >= 0)."""
    unit: Literal["document", "window", "item", "prompt"]
    """Unit of ``n``."""
    tokens: int | None = None
    """Number of predicted tokens of a slice."""
    discordant: tuple[int, int] | None = None
    """Numbers of items that only the candidate and that only the baseline got right, by ``judged_by``."""
    note: str | None = None

    @property
    def effect(self) -> Effect:
        """The effect that gives the verdict."""
        return self.effects[self.judged_by]

    @property
    def judged_keys(self) -> tuple[str, ...]:
        """Keys of the effects with a verdict of their own: ``judged_by``, and bits per byte of gold answers."""
        return tuple(key for key in (self.judged_by, GOLD_BITS) if key in self.effects)


class TierTotal(msgspec.Struct, frozen=True, kw_only=True):
    """A tier's total over common entries, weighted as in its summary."""

    tier: str
    effects: dict[str, Effect]
    """Tier 2 ``nll_per_token`` and ``ppl`` (sums over all tokens), tier 3 ``primary``, ``acc`` and ``bpb`` (means over tasks),
    tier 4 ``rate`` (all_checks_pass_rate)."""
    judged_by: str
    plain: bool
    names: tuple[str, ...]
    """Entries in the total."""
    left_out: tuple[str, ...] = ()
    """Entries of the candidate that were refused, or not scored at the baseline."""

    @property
    def effect(self) -> Effect:
        """The effect that gives the verdict."""
        return self.effects[self.judged_by]

    @property
    def judged_keys(self) -> tuple[str, ...]:
        """Keys of the effects with a verdict of their own: ``judged_by``, and bits per byte of gold answers."""
        return tuple(key for key in (self.judged_by, GOLD_BITS) if key in self.effects)


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was not compared, and the reason."""

    name: str
    """A slice, task or tier; a role where nothing was compared."""
    reason: str
    tier: str | None = None


class ObjectiveResult(msgspec.Struct, frozen=True, kw_only=True):
    """One objective and its outcome."""

    kind: Literal["improve", "hold"]
    name: str
    """Name in the config."""
    outcome: ObjectiveOutcome
    effect: Effect | None
    """Effect on the named total; null where no part of it could be compared."""
    margin: float = 0.0
    """In the unit of ``effect.delta``; 0 for improve."""
    p: float | None = None
    """One-sided. Null hypothesis of improve: not better; of hold: worse by the margin or more."""
    test: str = ""
    """Name and level of the test."""
    plain: bool | None = None
    """The plain rule on the same total."""
    why: str | None = None
    """Reason of an inconclusive outcome that no test gave."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate against one baseline."""

    role: BaselineRole
    baseline: EvaluationInfo
    entries: tuple[ComparedEntry, ...] = ()
    """Slices, tasks and rates in the order of the candidate's tier files."""
    totals: tuple[TierTotal, ...] = ()
    objectives: tuple[ObjectiveResult, ...] = ()
    """Results of the comparison with the bridge; empty for other roles."""
    outcome: ObjectiveOutcome | None = None
    """Fail if one objective fails, else inconclusive if one is, else pass. Null without objectives."""
    refusals: tuple[Refusal, ...] = ()
    note: str | None = None
    """Note of the request about this baseline."""
    total_level: float = STAGE_LEVEL
    """Level of the verdict of each total."""
    entry_level: float = STAGE_LEVEL
    """Level of the verdicts of all entries together, after Holm's correction."""
    candidate_count: int = 1
    """Number of earlier steps that the baseline was chosen from.

    In the tier that chose it, ``worse`` is corrected for so many pairs."""
    choice: str | None = None
    """How the best was chosen, for people; null for other roles."""

    def get_total(self, tier: str) -> TierTotal | None:
        """The total of a tier.

        None where no part of it was compared.
        """
        return next((total for total in self.totals if total.tier == tier), None)


def describe_levels(comparison: Comparison) -> str:
    """The levels of a comparison's verdicts, for people."""
    if comparison.entry_level == STAGE_LEVEL:
        return f"a single look: each total, and all entries together, at {100 * STAGE_LEVEL:g} %"
    return f"each total at {100 * comparison.total_level:.2g} %, all entries together at {100 * comparison.entry_level:.2g} %"


class NamedEffect(NamedTuple):
    """An effect with its position in a ComparisonDocument."""

    role: BaselineRole
    tier: str
    name: str
    """Slice, task or rate; the tier itself for a total."""
    key: str
    """Metric, as in ``ComparedEntry.effects``."""
    effect: Effect


class ComparisonDocument(msgspec.Struct, frozen=True, kw_only=True):
    """compare.json."""

    schema: int = SCHEMA
    candidate: EvaluationInfo
    request: CompareRequest
    """The request that was answered. While it equals the present one, no new comparison is needed."""
    comparisons: tuple[Comparison, ...] = ()
    """In the order of ``BASELINE_ROLES``; previous and best may be the same evaluation."""
    references: tuple[Comparison, ...] = ()
    """With other models, by text where their tokenizers or lengths differ."""
    refusals: tuple[Refusal, ...] = ()
    """Baselines that could not be compared; ``name`` is the role, or that of a reference's evaluation."""
    level: float = STAGE_LEVEL
    """Level of a single look: of intervals and hints, and of verdicts where ``request.level`` is null."""
    power: float = 0.8
    """Power of every ``smallest_detectable``."""

    def get_comparison(self, role: BaselineRole) -> Comparison | None:
        """The comparison with the baseline of that role."""
        return next((comparison for comparison in self.comparisons if comparison.role == role), None)

    def iter_effects(self) -> Iterator[NamedEffect]:
        """Every effect of every entry and total."""
        for comparison in self.comparisons:
            compared_scores: tuple[ComparedEntry | TierTotal, ...] = (*comparison.entries, *comparison.totals)
            for compared in compared_scores:
                name = compared.name if isinstance(compared, ComparedEntry) else compared.tier
                for key, effect in compared.effects.items():
                    yield NamedEffect(comparison.role, compared.tier, name, key, effect)


def read_comparison_document(path: Path) -> ComparisonDocument | None:
    """The document at ``path``; None where there is no file.

    Raises UserError for any other content.
    """
    try:
        document = read_struct(path, ComparisonDocument)
        if reason := find_contradiction(document):
            raise DamagedDocument(path, reason)  # noqa: TRY301  one error for all damage
    except FileNotFoundError:
        return None
    except (OSError, DamagedDocument) as error:
        reason = error.reason if isinstance(error, DamagedDocument) else error.strerror or describe_error(error)
        raise UserError(f"not a comparison: {reason}", location=path, hint="delete it; the watcher makes it again") from error
    return document


def find_worst_outcome(objectives: Sequence[ObjectiveResult]) -> ObjectiveOutcome | None:
    """The outcome of a comparison with these objectives."""
    outcomes = {objective.outcome for objective in objectives}
    order: tuple[ObjectiveOutcome, ...] = ("fail", "inconclusive", "pass")
    return next((outcome for outcome in order if outcome in outcomes), None)


def find_contradiction(document: ComparisonDocument) -> str | None:
    """What in a document contradicts itself, so that no reader can show it; None where nothing does."""
    roles = [comparison.role for comparison in document.comparisons]
    if len(set(roles)) < len(roles):
        return "it has two comparisons of one role"
    for comparison in (*document.comparisons, *document.references):
        compared_scores: tuple[ComparedEntry | TierTotal, ...] = (*comparison.entries, *comparison.totals)
        for compared in compared_scores:
            name = f"{comparison.role}: {compared.name if isinstance(compared, ComparedEntry) else 'total of ' + compared.tier}"
            if compared.tier not in TIER_BY_SHORT_NAME.values():
                return f"{name}: there is no tier {compared.tier[:60]!r}"
            if compared.judged_by not in compared.effects:
                return f"{name}: it is judged by {compared.judged_by[:60]!r}, which is none of its effects"
        if comparison.outcome != (worst := find_worst_outcome(comparison.objectives)):
            return f"{comparison.role}: its outcome is {comparison.outcome}, that of its objectives {worst}"
    place = find_non_finite_number(document)
    return None if place is None else f"no finite number - at `{place[:100]}`"
