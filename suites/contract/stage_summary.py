"""stage.json: a stage's own noise, which of its figures say something, and what it forgot; and the request for it.

``python -m scoring summarise REQUEST.json`` writes it at ``stage_summary_path``; the watcher only renders it.
"""

from pathlib import Path

import msgspec

from suites.common.documents import DamagedDocument, read_struct
from suites.common.errors import UserError
from suites.common.formatting import describe_error
from suites.contract.comparison import Effect, EvaluationRef, Refusal
from suites.contract.encoding import find_non_finite_number
from suites.contract.objectives import TIER_BY_SHORT_NAME

SCHEMA = 2
"""In the request, too: a summary of before is made again."""

MIN_EVALUATIONS = 8
"""Fewer do not tell the noise."""

MAX_LOST_ITEMS = 200
"""Names of lost items that a figure lists; the others are counted."""


SUMMARY_FILE = "stage.json"


class StageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Input of ``python -m scoring summarise``. Equal requests give equal documents."""

    schema: int = SCHEMA
    stage: str
    results: str
    """The stage's folder of results, with ``by_checkpoint`` in it."""
    evaluations: tuple[EvaluationRef, ...]
    """Scored steps of the stage's own run, ascending; the last is the stage's end so far."""
    noise_within: int | None = None
    """Steps between the first and the last evaluation of the noise's window; None: the densest window."""
    earlier_ends: tuple[EvaluationRef, ...] = ()
    """The newest evaluations of the stages before."""
    references: tuple[EvaluationRef, ...] = ()
    """Other models, as the evaluations' compare.json have them."""
    stage_count: int = 1
    """Stages with earlier ends: the level of what was forgotten is divided by it."""


class FigureNoise(msgspec.Struct, frozen=True, kw_only=True):
    """One figure's noise between checkpoints, in its own unit."""

    tier: str
    name: str
    """Empty for a tier's total."""
    metric: str
    """``nll_per_token``, ``primary``, ``bpb`` or ``rate``."""
    newest: float
    noise: float | None = None
    """Standard deviation between checkpoints; null: not known yet."""
    unknown: str = ""
    """Why it is not, where the window's values are there."""
    low: float | None = None
    high: float | None = None
    """95 % band of ``noise``."""
    within_noise: float | None = None
    """Changes up to this size are within the run's noise: 1.96 sqrt(2) noise."""
    signal: float | None = None
    """Range over the stage's evaluations."""
    snr: float | None = None
    """``signal`` / ``noise``."""
    says_something: bool | None = None
    """Whether the range is larger than that of noise alone in 95 % of stages."""
    at_chance: bool | None = None
    """Of a task: whether its newest accuracy is no better than guesses."""


class ForgottenFigure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure at the stage's end against the end of an earlier stage, on the same items or documents."""

    tier: str
    name: str
    metric: str
    earlier_stage: str
    earlier_directory: str
    effect: Effect
    """Candidate: this stage's end. ``p_holm`` is corrected over all figures, earlier stages and stages."""
    earlier_value: float
    """In the report's unit: perplexity for a slice."""
    loss: float
    """How much worse the stage's end is, in that unit; negative where it is better."""
    forgotten: bool
    lost: int | None = None
    """Items that only the earlier end got right."""
    gained: int | None = None
    never_known: float | None = None
    """Share of the items that neither got right."""
    lost_items: tuple[str, ...] = ()
    """Ids of lost items of a forgotten task, at most MAX_LOST_ITEMS."""


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """Where one figure's curve goes ahead of another model for good."""

    reference: str
    """``reference:NAME``."""
    tier: str
    name: str
    """Empty for a tier's total."""
    metric: str
    is_ahead: bool
    """Whether the newest evaluation is better than the reference."""
    step: float | None
    """Of the crossing, by straight lines between evaluations; null: it is behind at the newest, or ahead from the first on."""
    low: float | None
    high: float | None
    """Ends of its 95 % interval, pointwise.

    ``low`` null: before the first evaluation, or not yet; ``high`` null: after the newest one, or before the first.
    """
    first_step: int
    newest_step: int

    def describe(self) -> str:
        """The step and its interval, for people."""
        if not self.is_ahead:
            return f"not ahead at step {self.newest_step}"
        if self.step is None:
            return f"ahead from step {self.first_step} on"
        low = f"before {self.first_step}" if self.low is None else f"{self.low:.0f}"
        high = f"after {self.newest_step}" if self.high is None else f"{self.high:.0f}"
        return f"ahead from step {self.step:.0f} on [{low}, {high}]"


class StageDocument(msgspec.Struct, frozen=True, kw_only=True):
    """stage.json."""

    schema: int = SCHEMA
    request: StageRequest
    window: tuple[int, ...] = ()
    """Steps of the evaluations that the noise is estimated from; empty: not known yet."""
    wanted: str = ""
    """What makes the noise known, for people."""
    noise: tuple[FigureNoise, ...] = ()
    forgetting: tuple[ForgottenFigure, ...] = ()
    crossings: tuple[Crossing, ...] = ()
    """Where the stage's curves overtake the references."""
    refusals: tuple[Refusal, ...] = ()

    def find_noise(self, tier: str, name: str, metric: str) -> FigureNoise | None:
        """The noise of one figure."""
        return next((each for each in self.noise if (each.tier, each.name, each.metric) == (tier, name, metric)), None)


def stage_summary_path(results: Path) -> Path:
    """File of a stage's summary in its folder of results."""
    return results / SUMMARY_FILE


def read_stage_document(path: Path) -> StageDocument | None:
    """The document at ``path``; None where there is no file. Raises UserError for any other content."""
    try:
        document = read_struct(path, StageDocument)
        if reason := find_summary_damage(document):
            raise DamagedDocument(path, reason)  # noqa: TRY301  one error for all damage
    except FileNotFoundError:
        return None
    except (OSError, DamagedDocument) as error:
        reason = error.reason if isinstance(error, DamagedDocument) else error.strerror or describe_error(error)
        raise UserError(
            f"no summary of a stage: {reason}", location=path, hint="delete it; the watcher makes it again"
        ) from error
    return document


def find_summary_damage(document: StageDocument) -> str | None:
    """What in a summary no reader can show; None where nothing is."""
    figures: tuple[FigureNoise | ForgottenFigure | Crossing, ...] = (*document.noise, *document.forgetting, *document.crossings)
    unknown = next((figure.tier for figure in figures if figure.tier not in TIER_BY_SHORT_NAME.values()), None)
    if unknown is not None:
        return f"there is no tier {unknown[:60]!r}"
    place = find_non_finite_number(document)
    return None if place is None else f"no finite number - at `{place[:100]}`"
