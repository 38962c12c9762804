"""The summary of one stage: noise and signal of its figures, and what it forgot."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from scoring.compare.crossings import list_crossings
from scoring.compare.entries import ENTRY_KINDS
from scoring.compare.forgetting import compare_with_earlier_ends
from scoring.compare.pairing import find_comparable_names
from scoring.compare.publish import publish_document
from scoring.compare.published import PublishedEvaluation, describe_unread, open_evaluation
from scoring.estimators.noise import DIFFERENCE_FACTOR, Window, compute_range_limit, estimate_noise, find_resolution, find_window
from suites.checkpoint.layout import detect_layout, list_steps
from suites.common.errors import ExitCode, UserError
from suites.contract.comparison import EvaluationRef, Refusal
from suites.contract.stage_summary import MIN_EVALUATIONS, FigureNoise, StageDocument, StageRequest, stage_summary_path

_TOTALS = {"tier2_ppl": ("nll_per_token",), "tier3_cf": ("primary", "bpb"), "tier4_sft_native": ()}
"""Tier -> figures of its summary; tier 4's rates are its entries."""

_UNDERIVED = "some evaluations have no bits per byte; python -m scoring derive adds them"

_MAX_STEPS_TO_SUGGEST = 100
"""Newest checkpoints among which those to score are looked for: the search is quadratic."""


def run_stage_summary(request: StageRequest) -> StageDocument:
    """Summarise and publish stage.json.

    Equal requests of equal scores write equal bytes, but for the checkpoints that ``wanted`` finds on disk.
    Raises UserError: data missing where no evaluation has scores, cannot write where the document cannot be published.
    """
    document = summarise_stage(request)
    publish_document(stage_summary_path(Path(request.results)), document)
    return document


def summarise_stage(request: StageRequest) -> StageDocument:
    """The content of stage.json; evaluations without scores are among its refusals."""
    refusals: list[Refusal] = []
    sides = _open_evaluations(request.evaluations, refusals)
    if not sides:
        hint = "score a checkpoint of this stage first"
        raise UserError("no evaluation with scores", location=request.stage, hint=hint, code=ExitCode.DATA_MISSING)
    steps = [side.info.step for side in sides]
    window = find_window(steps, request.noise_within)
    on_disk = set() if window is not None else _list_steps_on_disk(sides[-1])
    earlier_ends = _open_evaluations(request.earlier_ends, refusals)
    return StageDocument(
        request=request,
        window=() if window is None else tuple(steps[window.start : window.stop]),
        wanted="" if window is not None else describe_wanted(request.stage, steps, request.noise_within, on_disk),
        noise=tuple(_list_noise(sides, window)),
        forgetting=tuple(compare_with_earlier_ends(sides[-1], earlier_ends, request.stage_count, refusals)),
        crossings=tuple(list_crossings(request.evaluations, request.references, refusals)),
        refusals=tuple(refusals),
    )


def _open_evaluations(refs: Sequence[EvaluationRef], refusals: list[Refusal]) -> list[PublishedEvaluation]:
    sides = []
    for ref in refs:
        try:
            side = open_evaluation(ref)
        except UserError as problem:
            refusals.append(Refusal(name=f"{ref.stage}/{ref.directory}", reason=describe_unread(ref, problem)))
            continue
        sides.append(side)
        refusals += [
            Refusal(name=name, tier=tier, reason=f"damaged entry: {reason}")
            for tier, reasons in side.damage.items()
            for name, reason in reasons.items()
        ]
        totals = {tier: side.find_total_damage(tier) for tier in side.documents}
        refusals += [
            Refusal(name=tier, tier=tier, reason=f"damaged totals: {reason}") for tier, reason in totals.items() if reason
        ]
    return sides


def describe_wanted(stage: str, steps: Sequence[int], within: int | None, on_disk: Collection[int]) -> str:
    """Which evaluations make the noise known: those of checkpoints that lie on disk, else later ones."""
    known = sorted({*steps, *on_disk} - {0})[-_MAX_STEPS_TO_SUGGEST:]
    window = find_window(known, within)
    # Training goes on at the end, so the newest checkpoints of a window are the ones to score.
    suggested = known[-MIN_EVALUATIONS:] if window is None else known[window.start : window.stop][-MIN_EVALUATIONS:]
    if window is None and within is not None:
        suggested = [step for step in suggested if known[-1] - step <= within]
    text = f"the noise needs {MIN_EVALUATIONS} evaluations{'' if within is None else f' within {within} steps'}"
    if unscored := [str(step) for step in suggested if step not in steps]:
        text += f"; to score what is on disk: watcher enqueue {stage} {' '.join(unscored)}"
    missing_count = MIN_EVALUATIONS - len(suggested)
    return text + (f"; {missing_count} more have to come from other checkpoints" if missing_count else "")


def _list_steps_on_disk(newest: PublishedEvaluation) -> set[int]:
    """The steps beside the newest evaluation's checkpoint; none where its folder is gone."""
    folder = Path(newest.info.checkpoint).parent
    try:
        return set(list_steps(folder, detect_layout(folder)).steps)
    except OSError:
        return set()


def _list_noise(sides: Sequence[PublishedEvaluation], window: Window | None) -> Iterator[FigureNoise]:
    """The noise of every figure of the newest evaluation."""
    newest = sides[-1]
    steps = tuple(side.info.step for side in sides)
    for tier in newest.documents:
        comparable = [set(find_comparable_names(tier, side, newest, same_data=True).names) for side in sides]
        entries = newest.get_entries(tier)
        for metric in _TOTALS[tier]:
            values = [
                side.get_total(tier, metric) if names >= set(newest.list_names(tier)) else None
                for side, names in zip(sides, comparable, strict=True)
            ]
            yield from _measure(FigureNoise(tier=tier, name="", metric=metric, newest=0.0), values, steps, window)
        kind = ENTRY_KINDS[tier]
        for name, entry in entries.items():
            for metric in (kind.judged_by, "bpb") if kind.name == "task" else (kind.judged_by,):
                values = [
                    side.get_entries(tier)[name].get(metric) if name in names else None
                    for side, names in zip(sides, comparable, strict=True)
                ]
                at_chance = entry.get("at_chance") if metric == kind.judged_by else None
                is_underived = metric == "bpb" and any(
                    name in names and side.get_entries(tier)[name].get(metric) is None
                    for side, names in zip(sides, comparable, strict=True)
                )
                unknown = _UNDERIVED if is_underived else ""
                figure = FigureNoise(tier=tier, name=name, metric=metric, newest=0.0, at_chance=at_chance, unknown=unknown)
                yield from _measure(figure, values, steps, window)


def _measure(
    figure: FigureNoise, values: Sequence[float | None], steps: tuple[int, ...], window: Window | None
) -> Iterator[FigureNoise]:
    """The figure with noise and signal, where all evaluations of the window have it."""
    newest = values[-1]
    if newest is None:
        return
    known = [float(value) for value in values if value is not None]
    fields = {name: getattr(figure, name) for name in ("tier", "name", "metric", "at_chance")}
    if window is None or None in values[window.start : window.stop]:
        yield FigureNoise(**fields, newest=float(newest), unknown="" if window is None else figure.unknown)
        return
    inside = [float(value) for value in values[window.start : window.stop] if value is not None]
    # The whole stage has more of the repeated values that show a figure's resolution.
    band = estimate_noise(steps[window.start : window.stop], inside, find_resolution(known))
    if band is None:
        yield FigureNoise(**fields, newest=float(newest), unknown="no smooth trend")
        return
    signal = float(np.ptp(known))
    snr = signal / band.sigma if band.sigma > 0 else None
    yield FigureNoise(
        **fields,
        newest=float(newest),
        noise=band.sigma,
        low=band.low,
        high=band.high,
        within_noise=DIFFERENCE_FACTOR * band.sigma,
        signal=signal,
        snr=snr,
        says_something=signal > 0 if snr is None else snr > compute_range_limit(steps, window),
    )
