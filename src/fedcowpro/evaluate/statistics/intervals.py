"""Intervals for a mean over cases, or over seeds and cases, and for a paired difference of two such means.

The default is the studentised bootstrap over cases (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993,
section 12.5): the spread of each resample is judged by its own standard error. With several seeds the standard error is
that of the crossed layout (`standard_error`), and only the cases' share of it keeps the bootstrap's shape; Student's t
serves the seeds, of which there are too few to resample. Percentile and BCa intervals are here for comparison: with few
cases or seeds they hold the mean less often than they say (tests/evaluate/test_coverage.py measures it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedcowpro.errors import FedCoWProError
from fedcowpro.evaluate.statistics.standard_error import Array, Estimate, estimate

Method = Literal["studentised", "t", "percentile", "bca"]
RESAMPLES = 9999
FEWEST_STUDENTISED = 8  # cases; with fewer, resamples of nearly equal cases give the limits, and t is used


@dataclass(frozen=True)
class Interval:
    """An interval for a mean or a difference; both ends are NaN where there is only one case.

    `method` is what was computed in the end: "studentised" turns into "t" where cases are few or mostly equal.
    """

    low: float
    high: float
    confidence: float
    method: Method

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def mean_interval(
    values: npt.ArrayLike,
    generator: np.random.Generator,
    *,
    method: Method = "studentised",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """An interval for a mean.

    Args:
        values: one value per case, (cases,), or (seeds, cases).
        generator: source of the resamples.
        method: "studentised" or "t" with the error of the crossed layout; "percentile", of crossed resampling: seeds
            and, independently, cases are drawn with replacement, and each drawn seed meets each drawn case; "bca" over
            cases, for one seed.
        confidence: 0..1.
        resamples: number of bootstrap samples.

    Raises:
        FedCoWProError: values that are not finite or not (seeds, cases), "bca" with several seeds, a confidence that is
            not inside 0..1 or too high for the number of resamples.
    """
    return _interval([_block(values)], generator, method, confidence, resamples)


def difference_interval(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    generator: np.random.Generator,
    *,
    same_seeds: bool = True,
    method: Method = "studentised",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """An interval for the mean of first - second, paired by case.

    Args:
        first: one value per case, (cases,), or (seeds, cases).
        second: values of the same cases in the same order.
        same_seeds: seed i of both belongs together, and both have as many; otherwise seeds vary independently.
        generator, method, confidence, resamples: as for `mean_interval`.

    Raises:
        FedCoWProError: as for `mean_interval`; other cases in `second`, or other seeds although `same_seeds`.
    """
    return _interval(paired(_block(first), _block(second), same_seeds), generator, method, confidence, resamples)


def paired(first: Array, second: Array, same_seeds: bool) -> list[Array]:
    """The blocks whose means add up to the mean difference (see `estimate`); both are (..., seeds, cases)."""
    if first.shape[-1] != second.shape[-1] or (same_seeds and first.shape != second.shape):
        raise FedCoWProError(
            f"values (seeds, cases) of shapes {first.shape} and {second.shape}",
            "the same cases, and the same seeds unless same_seeds is off",
            "keep the cases that both have",
        )
    return [first - second] if same_seeds else [first, -second]


def draw(generator: np.random.Generator, n: int, resamples: int) -> Array:
    """How often each of `n` things is in each resample, (resamples, n)."""
    return generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def studentised(found: Estimate, weights: Array, confidence: float) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Limits of studentised intervals.

    Args:
        found: estimates with leading axes (...).
        weights: see `draw`; (resamples, cases), the same for all estimates.
        confidence: 0..1.

    Returns:
        (low, high, whether the bootstrap served rather than t), each (...).
    """
    n = found.cases.shape[-1]
    low_t, high_t = student(found, confidence)
    if n < FEWEST_STUDENTISED:
        return low_t, high_t, np.zeros(found.mean.shape, dtype=bool)
    offset = found.cases - found.mean[..., None]
    shift = offset @ weights.T / n
    variance = np.maximum((offset**2) @ weights.T / n - shift**2, 0) / (n - 1)
    # A resample of equal cases has no error of its own; what rounding leaves of it must not pass for one.
    variance[variance <= 1e-12 * offset.var(axis=-1)[..., None]] = 0
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = _tails(np.where(shift == 0, 0.0, shift / np.sqrt(variance)), confidence)
    tail = (1 + confidence) / 2
    t, share = stats.t.ppf(tail, found.freedom), found.case_share
    stretch_low, stretch_high = high / stats.t.ppf(tail, n - 1), -low / stats.t.ppf(tail, n - 1)
    usable = np.isfinite(low) & np.isfinite(high) & (found.error > 0)
    with np.errstate(invalid="ignore"):
        below = found.mean - found.error * t * (1 + share * (stretch_low - 1))
        above = found.mean + found.error * t * (1 + share * (stretch_high - 1))
    return np.where(usable, below, low_t), np.where(usable, above, high_t), usable


def studentised_interval(found: Estimate, weights: Array, confidence: float) -> Interval:
    """The studentised interval of a single estimate (see `studentised`)."""
    low, high, served = studentised(found, weights, confidence)
    return Interval(float(low), float(high), confidence, "studentised" if served else "t")


def student(found: Estimate, confidence: float) -> tuple[Array, Array]:
    """Limits (low, high) of Student's t intervals, each (...)."""
    half = stats.t.ppf((1 + confidence) / 2, found.freedom) * found.error
    return found.mean - half, found.mean + half


def percentile(
    blocks: Sequence[Array], weights: Array, seeds: Sequence[Array], confidence: float
) -> tuple[Array, Array]:
    """Limits of percentile intervals under crossed resampling (Owen, "The pigeonhole bootstrap", 2007).

    Args:
        blocks: see `estimate`.
        weights: of cases, (resamples, cases).
        seeds: weights of each block's seeds, (resamples, seeds).
        confidence: 0..1.

    Returns:
        (low, high), each (...).
    """
    means = sum(
        ((of_seeds @ block) * weights).sum(axis=-1) / math.prod(block.shape[-2:])
        for block, of_seeds in zip(blocks, seeds, strict=True)
    )
    return _tails(np.asarray(means), confidence)


def bca(cases: Array, weights: Array, confidence: float) -> tuple[float, float]:
    """Limits (low, high) of the bias-corrected and accelerated interval (Efron 1987) for a mean of values (cases,)."""
    offset = cases - cases.mean()
    if not offset.any():
        return float(cases[0]), float(cases[0])
    means = np.sort(weights @ offset / len(cases))
    bias = stats.norm.ppf(((means < 0).mean() + (means <= 0).mean()) / 2)
    acceleration = (offset**3).sum() / (6 * (offset**2).sum() ** 1.5)
    reach = bias + stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = cases.mean() + np.quantile(means, stats.norm.cdf(bias + reach / (1 - acceleration * reach)))
    return float(low), float(high)


def _interval(
    blocks: Sequence[Array], generator: np.random.Generator, method: Method, confidence: float, resamples: int
) -> Interval:
    found = estimate(blocks)
    check(confidence, resamples)
    several = max(block.shape[-2] for block in blocks) > 1
    if method not in get_args(Method) or (method == "bca" and several):
        raise FedCoWProError(
            f"interval '{method}' for {'several seeds' if several else 'one seed'}",
            f"one of {', '.join(get_args(Method))}; bca for one seed only",
            "choose studentised",
        )
    if (n := len(found.cases)) < 2:
        return Interval(math.nan, math.nan, confidence, "t")
    weights = draw(generator, n, resamples)
    if method == "studentised":
        return studentised_interval(found, weights, confidence)
    if method == "t":
        low, high = student(found, confidence)
    elif method == "bca":
        return Interval(*bca(found.cases, weights, confidence), confidence, "bca")
    else:
        seeds = [draw(generator, block.shape[-2], resamples) for block in blocks]
        low, high = percentile(blocks, weights, seeds, confidence)
    return Interval(float(low), float(high), confidence, method)


def check(confidence: float, resamples: int) -> None:
    """Refuse what leaves no resample beyond the interval's ends."""
    if not 0 < confidence < 1 or (resamples + 1) * (1 - confidence) / 2 < 1:
        raise FedCoWProError(
            f"a confidence of {confidence} from {resamples} resamples",
            "a confidence inside 0..1 and at least one resample beyond each end",
            f"keep 0.95 and {RESAMPLES}",
        )


def _block(values: npt.ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array[None] if array.ndim == 1 else array


def _tails(samples: Array, confidence: float) -> tuple[Array, Array]:
    """The k-th smallest and the k-th largest along the last axis, with k = (resamples + 1) * (1 - confidence) / 2."""
    last = samples.shape[-1] - 1
    k = math.floor((last + 2) * (1 - confidence) / 2 + 1e-9) - 1
    ends = np.partition(samples, (k, last - k), axis=-1)
    return ends[..., k], ends[..., last - k]
