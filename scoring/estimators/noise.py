"""The run's own noise: how much a figure jumps from checkpoint to checkpoint, and whether its signal is larger.

Neighbouring checkpoints share data and learning rate, so their noise is correlated, as AR(1) with rho up to about 0.6. A robust
spread of detrended values is compared with that of simulated noise, detrended alike: this corrects what the trend's fit takes
away, and gives the band. Its quantiles are those of fixed correlations, since an estimate from so few values would be worse.
Residuals that hold a jump, or a bend that the trend cannot follow, are refused. docs/statistics.md has coverage and refusals.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scoring.estimators.statistics import FloatArray
from suites.contract.stage_summary import MIN_EVALUATIONS

BAND_LEVEL = 0.05

DIFFERENCE_FACTOR = 1.96 * math.sqrt(2)
"""Noise of one value -> the 95 % range of a difference of two."""


class _Correlations(NamedTuple):
    """The rho at which quantiles of simulated noise are taken."""

    low: float
    """Of the smallest spreads, which give the band's upper end."""
    middle: float
    high: float
    jump: float
    """Of the largest jumps that are still noise."""


MANY_EVALUATIONS = 20
"""From here on the band covers at strong correlation, too."""

RICH_TREND_EVALUATIONS = 12

_STRONG_RHO, _RANGE_RHO = 0.6, 0.3

_SIMULATIONS, _SEED = 4000, 20
_HUBER_LIMIT, _HUBER_STEPS = 1.5, 8
_MAD_TO_SIGMA = 1.4826
_JUMP_LEVEL = 0.025
_JUMP_CLIP = 3
_MIN_JUMP_LENGTH = 0.2
"""Jumps that the trend follows almost whole cannot be seen."""
_ROUNDING = 1e-12
"""Of the largest value: a spread of that size is the fit's rounding."""


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
    Step 0 is left out: what comes before training is on no trend.
    """
    starts = range(sum(step == 0 for step in steps), len(steps))
    windows = [Window(start, stop) for start in starts for stop in range(start + MIN_EVALUATIONS, len(steps) + 1)]
    if within is not None:
        windows = [window for window in windows if steps[window.stop - 1] - steps[window.start] <= within]
        return max(windows, key=lambda window: (window.stop - window.start, window.stop), default=None)

    def rank(window: Window) -> tuple[float, int, int]:
        count = window.stop - window.start
        return -(steps[window.stop - 1] - steps[window.start]) / (count - 1), count, window.stop

    return max(windows, key=rank, default=None)


def find_resolution(values: Sequence[float]) -> float:
    """The smallest step of a figure whose values often repeat, as rare counts do; else 0.

    The median absolute residual of such values is near zero, whatever their standard deviation is.
    """
    distinct = np.unique(np.round(np.asarray(values, dtype=np.float64), 12))
    repeats = len(values) - len(distinct)
    return float(np.diff(distinct).min()) if len(distinct) > 1 and 3 * repeats >= len(values) else 0.0


def estimate_noise(steps: Sequence[int], values: Sequence[float], resolution: float | None = None) -> NoiseBand | None:
    """The noise of at least MIN_EVALUATIONS values at ascending steps; None where a jump or a bend is left of the trend.

    The noise is at least ``resolution``, by default that of the values.
    """
    if resolution is None:
        resolution = find_resolution(values)
    basis, reference = _make_trend(tuple(steps)), _simulate_noise_reference(tuple(steps))
    residuals = _detrend(np.asarray(values, dtype=np.float64)[None], basis)
    spread = float(_measure_spread(residuals)[0])
    if spread <= _ROUNDING * float(np.abs(values).max()):
        spread = 0.0
    band = NoiseBand(spread / reference.middle, spread / reference.high, spread / reference.low)
    if band.sigma <= resolution:
        return NoiseBand(resolution, band.low, max(band.high, resolution))
    has_jump = float(_measure_jump(residuals, basis)[0]) > reference.jump
    return None if has_jump else band


@functools.lru_cache(64)
def compute_range_limit(steps: tuple[int, ...], window: Window) -> float:
    """The largest range, in estimated noise, that noise alone has in 95 % of stages."""
    inside = slice(window.start, window.stop)
    simulated = _simulate_noise(len(steps), _RANGE_RHO)  # [simulations, n]
    spreads = _measure_spread(_detrend(simulated[:, inside], _make_trend(steps[inside])))
    sigmas = np.maximum(spreads / _simulate_noise_reference(steps[inside]).middle, np.finfo(float).tiny)
    return float(np.quantile(np.ptp(simulated, axis=1) / sigmas, 1 - BAND_LEVEL))


def _choose_correlations(count: int) -> _Correlations:
    if count < MANY_EVALUATIONS:
        return _Correlations(low=0.3, middle=0.15, high=0.1, jump=0.3)
    # The more values, the less does the band's width hide what strong correlation takes from the spread.
    return _Correlations(low=min(0.3 + count / 200, _STRONG_RHO), middle=0.2, high=0.2, jump=_STRONG_RHO)


def _make_trend(steps: tuple[int, ...]) -> FloatArray:
    """[k, p]: an orthonormal basis of the curves that are taken for the trend.

    Polynomials of the step follow schedules; those of its logarithm follow power laws and exponentials, which fall steeply at
    the beginning. The higher degree goes to the one in which the evaluations are more evenly spaced.
    """
    positions = np.asarray(steps, dtype=np.float64) - steps[0]
    # From the stage's first steps on it is log(step); later windows count from their own first step.
    offset = min(float(np.median(np.diff(positions))), float(steps[0] or np.inf))
    scales = [positions, np.log1p(positions / offset)]
    scales = [scale / scale[-1] for scale in sorted(scales, key=lambda scale: float(np.std(np.diff(scale / scale[-1]))))]
    degrees = (3, 2 if len(steps) >= RICH_TREND_EVALUATIONS else 1)
    powers = [scale**power for scale, degree in zip(scales, degrees, strict=True) for power in range(1, degree + 1)]
    basis: FloatArray = np.linalg.qr(np.stack([np.ones(len(steps)), *powers], axis=1))[0]
    return basis


def _detrend(values: FloatArray, basis: FloatArray) -> FloatArray:
    """[B, k]: residuals of ``values`` [B, k] from a trend that Huber's weights keep from outliers."""
    residuals = values - (values @ basis) @ basis.T  # [B, k]
    for _ in range(_HUBER_STEPS):
        scale = _measure_spread(residuals)[:, None]
        weights = 1 / np.maximum(1, np.abs(residuals) / np.maximum(_HUBER_LIMIT * scale, np.finfo(float).tiny))
        left = np.einsum("bk,kp,kq->bpq", weights, basis, basis)
        right = np.einsum("bk,kp,bk->bp", weights, basis, values)
        residuals = values - np.linalg.solve(left, right[..., None])[..., 0] @ basis.T
    return residuals


def _measure_spread(residuals: FloatArray) -> FloatArray:
    """[B]: the standard deviation of normal values with the same median absolute residual."""
    spread: FloatArray = _MAD_TO_SIGMA * np.median(np.abs(residuals), axis=1)
    return spread


def _measure_jump(residuals: FloatArray, basis: FloatArray) -> FloatArray:
    """[B]: how well the best single jump explains the residuals, from 0 to sqrt(k): a CUSUM test.

    Residuals are clipped, so that an outlier is no jump. A bend that the trend misses looks like jumps, too.
    """
    count = residuals.shape[1]
    scale = np.maximum(_measure_spread(residuals)[:, None], np.finfo(float).tiny)
    clipped = np.clip(residuals / scale, -_JUMP_CLIP, _JUMP_CLIP)
    jumps = np.tri(count)[:, 1:]  # [k, k - 1]
    jumps = jumps - basis @ (basis.T @ jumps)
    lengths = np.linalg.norm(jumps, axis=0)
    shows = lengths > _MIN_JUMP_LENGTH
    explained = np.abs(clipped @ (jumps[:, shows] / lengths[shows])).max(axis=1)
    largest: FloatArray = explained / np.maximum(np.sqrt(np.mean(clipped**2, axis=1)), np.finfo(float).tiny)
    return largest


class _Reference(NamedTuple):
    """Quantiles of simulated noise of standard deviation one."""

    low: float
    middle: float
    high: float
    """Of the spread."""
    jump: float


@functools.lru_cache(64)
def _simulate_noise_reference(steps: tuple[int, ...]) -> _Reference:
    basis, rho = _make_trend(steps), _choose_correlations(len(steps))

    def detrend_noise(value: float) -> FloatArray:
        return _detrend(_simulate_noise(len(steps), value), basis)

    return _Reference(
        low=float(np.quantile(_measure_spread(detrend_noise(rho.low)), BAND_LEVEL / 2)),
        middle=float(np.median(_measure_spread(detrend_noise(rho.middle)))),
        high=float(np.quantile(_measure_spread(detrend_noise(rho.high)), 1 - BAND_LEVEL / 2)),
        jump=float(np.quantile(_measure_jump(detrend_noise(rho.jump), basis), 1 - _JUMP_LEVEL)),
    )


def _simulate_noise(count: int, rho: float) -> FloatArray:
    """[simulations, count]: stationary AR(1) noise of standard deviation one, always the same."""
    innovations = np.random.default_rng(_SEED).normal(size=(_SIMULATIONS, count))
    noise = innovations.copy()
    for index in range(1, count):
        noise[:, index] = rho * noise[:, index - 1] + math.sqrt(1 - rho**2) * innovations[:, index]
    return noise
