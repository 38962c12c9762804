"""The run's own noise: how much a figure jumps from checkpoint to checkpoint, and whether its signal is larger.

Neighbouring checkpoints share data and learning rate, so their noise is correlated, as AR(1) with rho up to about 0.6. A robust
spread of detrended values is compared with that of simulated noise, detrended alike: this corrects what the trend's fit takes
away, and gives the band. Its quantiles are those of fixed correlations, since an estimate from so few values would be worse:
docs/statistics.md has the coverage.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scoring.estimators.statistics import FloatArray

MIN_EVALUATIONS = 8

BAND_LEVEL = 0.05

DIFFERENCE_FACTOR = 1.96 * math.sqrt(2)
"""Noise of one value -> the 95 % range of a difference of two."""


class _Correlations(NamedTuple):
    """The rho at which quantiles of the simulated spread are taken."""

    low: float
    """Of the smallest spreads, which give the band's upper end."""
    middle: float
    high: float


_FEW, _MANY = _Correlations(0.3, 0.15, 0.1), _Correlations(0.4, 0.2, 0.3)
"""Below and from MANY_EVALUATIONS on: only there the band covers at strong correlation, too."""

MANY_EVALUATIONS = 20

_SIMULATIONS, _SEED = 4000, 20
_HUBER_LIMIT, _HUBER_STEPS = 1.5, 3
_MAD_TO_SIGMA = 1.4826


class NoiseBand(NamedTuple):
    """A standard deviation between checkpoints, with its 95 % band."""

    sigma: float
    low: float
    high: float


class Window(NamedTuple):
    """The evaluations that the noise is estimated from."""

    start: int
    stop: int


def find_window(steps: Sequence[int], within: int | None) -> Window | None:
    """The evaluations no further apart than ``within`` steps; None for fewer than MIN_EVALUATIONS.

    Of several windows it is the one with the most, the newest of equals. Without ``within`` it is the densest run of at least
    MIN_EVALUATIONS: the shortest mean distance, then the most, then the newest. ``steps`` ascend.
    """
    windows = [Window(start, stop) for start in range(len(steps)) for stop in range(start + MIN_EVALUATIONS, len(steps) + 1)]
    if within is not None:
        windows = [window for window in windows if steps[window.stop - 1] - steps[window.start] <= within]
        return max(windows, key=lambda window: (window.stop - window.start, window.stop), default=None)

    def rank(window: Window) -> tuple[float, int, int]:
        count = window.stop - window.start
        return -(steps[window.stop - 1] - steps[window.start]) / (count - 1), count, window.stop

    return max(windows, key=rank, default=None)


def estimate_noise(steps: Sequence[int], values: Sequence[float]) -> NoiseBand:
    """The noise of at least MIN_EVALUATIONS values at ascending steps."""
    if np.ptp(values) == 0:  # the fit's rounding is no noise
        return NoiseBand(0.0, 0.0, 0.0)
    spread = float(_measure_spread(np.asarray(values, dtype=np.float64)[None], _make_trend(tuple(steps)))[0])
    low, middle, high = _simulate_spreads(tuple(steps))
    return NoiseBand(spread / middle, spread / high, spread / low)


@functools.lru_cache(64)
def compute_range_limit(steps: tuple[int, ...], window: Window) -> float:
    """The largest range, in estimated noise, that noise alone has in 95 % of stages."""
    inside = slice(window.start, window.stop)
    simulated = _simulate_noise(len(steps), _MANY.high)  # [simulations, n]
    spreads = _measure_spread(simulated[:, inside], _make_trend(steps[inside])) / _simulate_spreads(steps[inside])[1]
    return float(np.quantile(np.ptp(simulated, axis=1) / np.maximum(spreads, np.finfo(float).tiny), 1 - BAND_LEVEL))


def _make_trend(steps: tuple[int, ...]) -> FloatArray:
    """[k, degree + 1]: an orthonormal basis of the polynomials that are taken for the trend."""
    count = len(steps)
    degree = 2 if count < 24 else 3  # noqa: PLR2004  more values show more bends
    positions = np.asarray(steps, dtype=np.float64)
    scaled = (positions - positions.mean()) / max(float(np.ptp(positions)), 1.0)
    basis: FloatArray = np.linalg.qr(np.vander(scaled, degree + 1))[0]
    return basis


def _measure_spread(values: FloatArray, basis: FloatArray) -> FloatArray:
    """[B]: the MAD of the residuals of ``values`` [B, k] from a trend that Huber's weights keep from outliers."""
    residuals = values - (values @ basis) @ basis.T  # [B, k]
    for _ in range(_HUBER_STEPS):
        scale = _MAD_TO_SIGMA * np.median(np.abs(residuals), axis=1, keepdims=True)
        weights = 1 / np.maximum(1, np.abs(residuals) / np.maximum(_HUBER_LIMIT * scale, np.finfo(float).tiny))
        left = np.einsum("bk,kp,kq->bpq", weights, basis, basis)
        right = np.einsum("bk,kp,bk->bp", weights, basis, values)
        residuals = values - np.linalg.solve(left, right[..., None])[..., 0] @ basis.T
    spread: FloatArray = _MAD_TO_SIGMA * np.median(np.abs(residuals), axis=1)
    return spread


@functools.lru_cache(64)
def _simulate_spreads(steps: tuple[int, ...]) -> tuple[float, float, float]:
    """Quantiles of the spread of noise of standard deviation one: low, median, high."""
    basis = _make_trend(steps)
    rho = _FEW if len(steps) < MANY_EVALUATIONS else _MANY
    quantiles = ((rho.low, BAND_LEVEL / 2), (rho.middle, 0.5), (rho.high, 1 - BAND_LEVEL / 2))
    low, middle, high = (
        float(np.quantile(_measure_spread(_simulate_noise(len(steps), value), basis), share)) for value, share in quantiles
    )
    return low, middle, high


def _simulate_noise(count: int, rho: float) -> FloatArray:
    """[simulations, count]: stationary AR(1) noise of standard deviation one, always the same."""
    innovations = np.random.default_rng(_SEED).normal(size=(_SIMULATIONS, count))
    noise = innovations.copy()
    for index in range(1, count):
        noise[:, index] = rho * noise[:, index - 1] + math.sqrt(1 - rho**2) * innovations[:, index]
    return noise
