"""The contract of compare.json: one document an evaluation, with its comparisons against earlier checkpoints.

``python -m scoring compare REQUEST.json`` writes it at ``EvaluationPaths.compare_json``; the watcher only renders it.

Signs and units. ``delta`` is always candidate minus baseline. Perplexities and nats a token are better when they
fall, accuracies and rates (shares, 0 to 1) when they rise; ``Effect.better_when`` says which. Every pair of
numbers is paired: the same rows, items or prompts on both sides.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from suites.common.errors import UserError
from suites.contract.objectives import Objectives
from suites.contract.paths import EvaluationPaths

SCHEMA = 1

BaselineRole = Literal["bridge", "previous", "best"]

BASELINE_ROLES: tuple[BaselineRole, ...] = ("bridge", "previous", "best")

EffectVerdict = Literal["better", "worse", "no_change_seen", "too_few_items"]

ObjectiveOutcome = Literal["pass", "fail", "inconclusive"]


class EvaluationRef(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation in a CompareRequest."""

    results: str
    stage: str
    directory: str
    fingerprint: str | None = None
    """As the asker knows it: scores of another content are refused. None: whatever is there."""
    suites: dict[str, str] = msgspec.field(default_factory=dict)
    """Tier -> suite_digest, as the asker knows them: not checked, but a request that differs is another request."""
    note: str | None = None
    """For people, kept in the Comparison: another baseline than the config's, or than training says it started from."""

    @property
    def paths(self) -> EvaluationPaths:
        """Where its results are."""
        return EvaluationPaths(Path(self.results), self.stage, self.directory)


class CompareRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What ``python -m scoring compare REQUEST.json`` is asked. Equal requests give equal documents, to the byte."""

    schema: int = SCHEMA
    candidate: EvaluationRef
    bridge: EvaluationRef | None = None
    earlier: tuple[EvaluationRef, ...] = ()
    """The stage's own steps before the candidate's that are scored, ascending. The last is ``previous``; ``best`` is
    chosen among them by ``objectives.own_total``."""
    objectives: Objectives = msgspec.field(default_factory=Objectives)
    """Judged against the bridge only."""


class EvaluationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Whose scores they are."""

    stage: str
    """Of the suites."""
    source_stage: str
    """Of the checkpoint."""
    step: int
    directory: str
    checkpoint: str
    """Its path when it was scored."""
    fingerprint: str
    tokens_seen: int | None = None
    suites: dict[str, str] = msgspec.field(default_factory=dict)
    """Tier -> suite_digest, of the tiers that are there."""


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """One figure on both sides, and what can be said of the difference.

    Everything but the three figures is null where there is nothing to tell an error from: no rows, or one of them.
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
    """Two-sided, of no difference."""
    p_holm: float | None = None
    """After Holm's correction over the entries of this comparison; null for totals, and for figures that no verdict goes by."""
    smallest_detectable: float | None = None
    """Size of the difference that this test finds in 80 % of cases, in the same unit, never negative."""
    n: int = 0
    """What was drawn independently: documents (or windows), items or prompts."""
    test: str = ""
    """Which test gave p, in words."""
    verdict: EffectVerdict = "too_few_items"


class ComparedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One slice, one task, or one rate of tier 4."""

    tier: str
    kind: Literal["slice", "task", "rate"]
    name: str
    effects: dict[str, Effect]
    """A slice's ``nll_per_token`` and ``ppl``; a task's ``primary``, ``acc``, and where it has subjects
    ``primary_macro`` (mean over subjects); a rate's ``rate``."""
    judged_by: str
    """Key of ``effects``: whose verdict is the entry's, and whose p entered Holm's correction."""
    plain: bool
    """The plain rule, for what it is worth: delta_ppl <= 0, delta_acc >= 0 (rates: delta >= 0)."""
    unit: Literal["document", "window", "item", "prompt"]
    """What ``n`` counts."""
    tokens: int | None = None
    """Predicted tokens of a slice."""
    discordant: tuple[int, int] | None = None
    """Items that only the candidate got right, and that only the baseline did, by the metric of ``judged_by``."""
    note: str | None = None

    @property
    def effect(self) -> Effect:
        """The one that the verdict goes by."""
        return self.effects[self.judged_by]


class TierTotal(msgspec.Struct, frozen=True, kw_only=True):
    """A tier's total over the entries that both sides have, weighted as the tier's own summary is."""

    tier: str
    effects: dict[str, Effect]
    """Tier 2 ``nll_per_token`` and ``ppl`` (sums over all tokens), tier 3 ``primary`` and ``acc`` (means over tasks),
    tier 4 ``rate`` (all_checks_pass_rate)."""
    judged_by: str
    plain: bool
    names: tuple[str, ...]
    """The entries that are in it."""
    left_out: tuple[str, ...] = ()
    """Those of the candidate that are not: refused, or not scored at the baseline."""

    @property
    def effect(self) -> Effect:
        """The one that the verdict goes by."""
        return self.effects[self.judged_by]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """What was not compared, and why."""

    name: str
    """A slice, a task, a tier, or a role where nothing at all was compared."""
    reason: str
    tier: str | None = None


class ObjectiveResult(msgspec.Struct, frozen=True, kw_only=True):
    """One objective and how it came out."""

    kind: Literal["improve", "hold"]
    name: str
    """As the config has it."""
    outcome: ObjectiveOutcome
    effect: Effect | None
    """Of the named total; null where nothing of it could be compared."""
    margin: float = 0.0
    """In the unit of ``effect.delta``; 0 for improve."""
    p: float | None = None
    """One-sided. improve: of not being better. hold: of being worse by the margin or more."""
    test: str = ""
    """In words, with its level."""
    plain: bool | None = None
    """The plain rule on the same total."""
    why: str | None = None
    """Why it is inconclusive where that is not the test's doing."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate against one baseline."""

    role: BaselineRole
    baseline: EvaluationInfo
    entries: tuple[ComparedEntry, ...] = ()
    """In the order of the candidate's tier files: slices, tasks, rates."""
    totals: tuple[TierTotal, ...] = ()
    objectives: tuple[ObjectiveResult, ...] = ()
    """Of the bridge only."""
    outcome: ObjectiveOutcome | None = None
    """Of all objectives: fail if one fails, else inconclusive if one is, else pass. Null where there are none."""
    refusals: tuple[Refusal, ...] = ()
    note: str | None = None
    """The request's, about this baseline."""

    def get_total(self, tier: str) -> TierTotal | None:
        """A tier's total; None where nothing of it was compared."""
        return next((total for total in self.totals if total.tier == tier), None)


class ComparisonDocument(msgspec.Struct, frozen=True, kw_only=True):
    """compare.json."""

    schema: int = SCHEMA
    candidate: EvaluationInfo
    request: CompareRequest
    """What it answers: where it equals the one that would be asked now, nothing need be compared again."""
    comparisons: tuple[Comparison, ...] = ()
    """In the order of ``BASELINE_ROLES``; previous and best may be the same evaluation."""
    refusals: tuple[Refusal, ...] = ()
    """Baselines that could not be compared at all; ``name`` is the role."""
    level: float = 0.05
    """Of every test in it."""
    power: float = 0.8
    """Of every ``smallest_detectable``."""

    def get_comparison(self, role: BaselineRole) -> Comparison | None:
        """The comparison with the baseline of that role."""
        return next((comparison for comparison in self.comparisons if comparison.role == role), None)

    def iter_effects(self) -> Iterator[tuple[BaselineRole, str, str, str, Effect]]:
        """(role, tier, name, key, effect) of every entry and total; a total's name is its tier's."""
        for comparison in self.comparisons:
            named_effects = [(compared.tier, compared.name, compared.effects) for compared in comparison.entries]
            named_effects += [(compared.tier, compared.tier, compared.effects) for compared in comparison.totals]
            for tier, name, effects in named_effects:
                for key, effect in effects.items():
                    yield comparison.role, tier, name, key, effect


def read_comparison_document(path: Path) -> ComparisonDocument | None:
    """The document at ``path``; None where there is none. Problem where it cannot be read as one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ComparisonDocument)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UserError(f"not a comparison: {error}", location=path, hint="delete it: it is made again") from error


def read_compare_request(path: Path) -> CompareRequest:
    """Problem (usage) naming the file and the field where it is no such request."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=CompareRequest)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", location=path, hint="give the path of a request") from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UserError(f"not a request to compare: {error}", location=path, hint="mend that field") from error
