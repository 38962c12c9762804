"""Simulated documents of a slice, and items of a task, with known differences."""

from typing import NamedTuple

import numpy as np

from scoring.estimators.discordant_counts import DiscordantCounts
from scoring.estimators.ratio_estimate import ClusterSums, Estimate, estimate_ratio_difference

MEDIAN_LENGTH = 400
DOCUMENT_SPREAD = 0.05
"""Standard deviation of the difference per token between documents, in nats."""
TOKEN_NOISE = 0.5
"""Standard deviation of one token's difference, in nats."""

EFFECTS = {
    "normal": "normal document effects and token noise",
    "token": "token noise alone: documents are not correlated within",
    "t5": "document effects of Student's t, 5 df",
    "skewed": "exponential document effects",
    "length": "document effects that grow with the logarithm of the length",
}


class Scenario(NamedTuple):
    """A population of documents."""

    effects: str
    """A key of EFFECTS."""
    sigma: float
    """Standard deviation of the logarithm of the length."""
    count: int


def draw_documents(rng, scenario, shift=0.0, log_lengths=None):
    """A slice whose true difference is ``shift`` nats a token: sum E[difference] / sum E[tokens].

    ``log_lengths`` are those of a slice that is scored again.
    """
    count = scenario.count
    log_lengths = rng.normal(0, scenario.sigma, count) if log_lengths is None else log_lengths
    sizes = np.maximum(1, np.round(MEDIAN_LENGTH * np.exp(log_lengths)))
    unit_effects = {
        "normal": lambda: rng.normal(size=count),
        "token": lambda: np.zeros(count),
        "t5": lambda: rng.standard_t(5, count) / np.sqrt(5 / 3),
        "skewed": lambda: rng.exponential(size=count) - 1,
        # weighted by tokens, the mean of the logarithm of a lognormal length is sigma squared
        "length": lambda: 0.5 * (log_lengths - scenario.sigma**2) + rng.normal(size=count),
    }[scenario.effects]()
    noise = TOKEN_NOISE * np.sqrt(sizes) * rng.normal(size=count)
    difference = sizes * (shift + DOCUMENT_SPREAD * unit_effects) + noise
    baseline = 3.0 * sizes
    return ClusterSums(baseline, baseline + difference, sizes)


def draw_estimates(rng, scenario, draws) -> list[Estimate]:
    """Estimates of no difference by the product's own function."""
    return [estimate_ratio_difference([draw_documents(rng, scenario)]) for _ in range(draws)]


def draw_repeated_slice(rng, scenario, draws) -> list[Estimate]:
    """The same: one slice's documents, compared again and again."""
    log_lengths = rng.normal(0, scenario.sigma, scenario.count)
    return [estimate_ratio_difference([draw_documents(rng, scenario, 0.0, log_lengths)]) for _ in range(draws)]


def draw_counts(rng, n, discordant_share, difference, draws) -> list[DiscordantCounts]:
    """Tasks of ``n`` items whose shares of right answers differ by ``difference``."""
    chances = [(discordant_share + difference) / 2, max(0.0, (discordant_share - difference) / 2), 1 - discordant_share]
    return [DiscordantCounts(n=n, gained=int(gained), lost=int(lost)) for gained, lost, _ in rng.multinomial(n, chances, draws)]
