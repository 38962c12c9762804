"""From paired rows to effects: of a slice, of a task, of a rate, and of totals over several."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from scoring.compare.pairing import Answers, Rows
from scoring.compare.statistics import LEVEL, Discordant, Estimate, Floats, joined, linearised, plain_stderr
from suites.contract.comparison import Effect, Verdict

FEWEST = 10
"""Documents, in effect, below which a t test of them is not believed."""

T_TEST = "t test of the paired ratio estimator, clustered by {unit}"

MCNEMAR = "McNemar's exact test; Tango's score interval"

MEAN = "t test of the mean of {count} paired differences, half an item added to each cell"


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A metric's value on both sides, as published or as made of published values."""

    metric: str
    baseline: float
    candidate: float

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.metric in {"ppl", "nll_per_token"}


def bare(figures: Figures) -> Effect:
    """Without an error."""
    return Effect(
        metric=figures.metric,
        better_when="lower" if figures.lower else "higher",
        baseline=figures.baseline,
        candidate=figures.candidate,
        delta=figures.candidate - figures.baseline,
    )


def verdict(effect: Effect, p: float) -> Verdict:
    """What a test at LEVEL says."""
    if p > LEVEL or effect.delta == 0:
        return "no_change_seen"
    return "better" if (effect.delta < 0) == (effect.better_when == "lower") else "worse"


def of_estimate(figures: Figures, found: Estimate, n: int, test: str, *, stderr: float, level: float) -> Effect:
    """An effect with a t-distributed error; ``level`` is the one of its smallest detectable difference."""
    effect = msgspec.structs.replace(bare(figures), n=n, stderr=stderr if math.isfinite(stderr) else None)
    if not found.known or found.df + 1 < FEWEST:
        return effect
    low, high = found.interval()
    filled = msgspec.structs.replace(
        effect, low=low, high=high, p=found.p, smallest_detectable=found.detectable(level), test=test
    )
    return msgspec.structs.replace(filled, verdict=verdict(filled, found.p))


def of_discordant(figures: Figures, found: Discordant, *, level: float) -> Effect:
    """An effect of right and wrong answers to the same questions."""
    effect = msgspec.structs.replace(bare(figures), n=found.n, stderr=None if math.isnan(found.stderr) else found.stderr)
    if found.too_few(level):
        return effect
    low, high = found.interval()
    filled = msgspec.structs.replace(
        effect, low=low, high=high, p=found.p, smallest_detectable=found.detectable(level), test=MCNEMAR
    )
    return msgspec.structs.replace(filled, verdict=verdict(filled, found.p))


# Slices


class Ratio(msgspec.Struct, frozen=True):
    """Nats over tokens on both sides, of one slice or of several; each slice is a stratum of its own."""

    slices: tuple[Rows, ...]

    @property
    def tokens(self) -> float:
        """Predicted tokens of all."""
        return math.fsum(math.fsum(rows.tokens) for rows in self.slices)

    def per_token(self) -> tuple[float, float]:
        """Nats a token, baseline and candidate: sums over all tokens."""
        sums = ([math.fsum(rows.baseline) for rows in self.slices], [math.fsum(rows.candidate) for rows in self.slices])
        return math.fsum(sums[0]) / self.tokens, math.fsum(sums[1]) / self.tokens

    def figures(self, metric: str) -> Figures:
        """``nll_per_token``, ``ppl`` or ``rate``, of the rows that are compared."""
        before, after = self.per_token()
        if metric == "ppl":
            before, after = math.exp(before), math.exp(after)
        return Figures(metric=metric, baseline=before, candidate=after)

    def estimate(self, metric: str) -> Estimate:
        """The paired difference and its error.

        Both sides predict the same tokens, so delta = sum(nll_candidate - nll_baseline) / tokens is one ratio, with
        residuals d - delta * tokens. Of the perplexities exp(R), R nats a token, to first order (delta method) the
        residuals are exp(R_c) (nll_c - R_c tokens) - exp(R_b) (nll_b - R_b tokens).
        """
        before, after = self.per_token()
        figures = self.figures(metric)
        if metric == "ppl":
            weights = (math.exp(before), math.exp(after))
            residuals: list[Floats] = [
                weights[1] * (rows.candidate - after * rows.tokens) - weights[0] * (rows.baseline - before * rows.tokens)
                for rows in self.slices
            ]
        else:
            residuals = [rows.candidate - rows.baseline - (after - before) * rows.tokens for rows in self.slices]
        sizes = [rows.tokens for rows in self.slices]
        return linearised(figures.candidate - figures.baseline, residuals, sizes, self.tokens)

    def effect(self, metric: str, *, level: float = LEVEL) -> Effect:
        """Of nats a token, or of perplexity."""
        found = self.estimate(metric)
        units = sorted({rows.unit for rows in self.slices})
        count = sum(len(rows.tokens) for rows in self.slices)
        test = T_TEST.format(unit=" and ".join(units))
        return of_estimate(self.figures(metric), found, count, test, stderr=found.stderr, level=level)


# Tasks and rates


def discordant(answers: Answers) -> Discordant:
    """Counts of the four cells."""
    return Discordant(
        n=len(answers.baseline),
        gained=int((answers.candidate & ~answers.baseline).sum()),
        lost=int((answers.baseline & ~answers.candidate).sum()),
    )


def shares(metric: str, answers: Answers) -> Figures:
    """Of right answers."""
    return Figures(metric=metric, baseline=float(answers.baseline.mean()), candidate=float(answers.candidate.mean()))


def of_answers(metric: str, answers: Answers, *, level: float = LEVEL) -> Effect:
    """A task's share of right answers over its items (mmlu: micro), or a rate over its prompts."""
    return of_discordant(shares(metric, answers), discordant(answers), level=level)


def of_subjects(metric: str, answers: Answers, *, level: float = LEVEL) -> Effect | None:
    """The mean over subjects of their shares (mmlu: macro), subjects as strata; None where items have no subjects."""
    names = sorted({subject for subject in answers.subjects if subject is not None})
    if not names:
        return None
    parts = []
    for name in names:
        kept = [subject == name for subject in answers.subjects]
        parts.append(Answers(baseline=answers.baseline[kept], candidate=answers.candidate[kept]))
    return mean_effect(metric, parts, level=level)


def mean_effect(metric: str, parts: Sequence[Answers], *, level: float = LEVEL) -> Effect:
    """The plain mean of several shares, each counting the same, as tier 3's summary has tasks and mmlu's macro has subjects."""
    cells, figures = [discordant(part) for part in parts], [shares(metric, part) for part in parts]
    mean = Figures(
        metric=metric,
        baseline=math.fsum(one.baseline for one in figures) / len(parts),
        candidate=math.fsum(one.candidate for one in figures) / len(parts),
    )
    test = MEAN.format(count=len(parts))
    return of_estimate(mean, joined(cells), sum(part.n for part in cells), test, stderr=plain_stderr(cells), level=level)


# What an objective asks


class OneSided(msgspec.Struct, frozen=True, kw_only=True):
    """The two p values that an objective is decided by."""

    good: float
    """Of the claim not holding: small where the objective is surely met."""
    bad: float
    """Of the claim's contrary not holding: small where it is surely missed."""
    test: str


Kind = Literal["improve", "hold"]


def one_sided(kind: Kind, of: Ratio | Sequence[Answers], margin: float, *, lower: bool) -> OneSided:
    """The test of one objective.

    improve: that the total is better. hold: that it is not worse by ``margin`` (in the total's unit) or more,
    which is non-inferiority (one-sided, as in ICH E9). A single task or rate has exact or score tests, everything
    else a t test. ``lower``: less is better.
    """
    allowed = margin if kind == "hold" else 0.0
    if isinstance(of, Ratio):
        found = of.estimate("nll_per_token" if lower else "rate")
        good = (found if lower else msgspec.structs.replace(found, delta=-found.delta)).below(allowed)
        return OneSided(good=good, bad=1 - good, test="one-sided t test of the paired ratio estimator")
    if len(of) > 1:
        mean = joined([discordant(answers) for answers in of])
        good = msgspec.structs.replace(mean, delta=-mean.delta).below(allowed)
        return OneSided(good=good, bad=1 - good, test="one-sided t test of the mean of paired differences")
    cells = discordant(of[0])
    if kind == "hold":
        good = cells.p_worse_by(margin)
        return OneSided(good=good, bad=1 - good, test="Tango's one-sided score test")
    swapped = Discordant(n=cells.n, gained=cells.lost, lost=cells.gained)
    return OneSided(good=cells.p_improved(), bad=swapped.p_improved(), test="McNemar's exact test, one-sided")


def plain_rule(found: Mapping[str, Effect]) -> bool:
    """delta_ppl <= 0, delta_acc >= 0, delta of a rate >= 0: the sign alone."""
    effect = next(found[key] for key in ("ppl", "acc", "rate") if key in found)
    return effect.delta <= 0 if effect.better_when == "lower" else effect.delta >= 0
