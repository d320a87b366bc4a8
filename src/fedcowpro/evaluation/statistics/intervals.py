"""Intervals for a mean over cases, or over seeds and cases, and for a paired difference of two such means.

The default is the studentised bootstrap over cases (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993,
section 12.5): the spread of each resample is judged by its own standard error. With several seeds the standard error is
that of the crossed layout (`standard_error`), and only the cases' share of it keeps the bootstrap's shape; Student's t
serves the seeds, of which there are too few to resample. Percentile and BCa intervals, which many papers
report, resample seeds and cases alike: with few of either they hold the mean less often than they say
(tests/evaluation/test_coverage.py measures it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.statistics.bootstrap import crossed_interval, tails
from fedcowpro.evaluation.statistics.standard_error import Array, Estimate, estimate

Method = Literal["studentised", "t", "percentile", "bca"]
RESAMPLES = 9999
FEWEST = 3  # cases; an interval from two, of one degree of freedom, is 13 standard errors wide: it says nothing
FEWEST_STUDENTISED = 8  # cases; with fewer, resamples of nearly equal cases give the limits, and t is used


@dataclass(frozen=True)
class Interval:
    """An interval for a mean or a difference; both ends are NaN where there are fewer cases than `FEWEST`.

    `method` is what was computed in the end: "studentised" turns into "t" where cases are few or mostly equal.
    """

    low: float
    high: float
    confidence: float
    method: Method

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def paired(first: Array, second: Array, same_seeds: bool) -> list[Array]:
    """The blocks whose means add up to the mean difference (see `estimate`); both are (..., seeds, cases)."""
    if first.shape[-1] != second.shape[-1] or (same_seeds and first.shape != second.shape):
        raise FedCoWProError(
            f"values (seeds, cases) of shapes {first.shape} and {second.shape}",
            "the same cases, and the same seeds unless same_seeds is off",
            "keep the cases that both have",
        )
    return [first - second] if same_seeds else [first, -second]


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
        low, high = tails(np.where(shift == 0, 0.0, shift / np.sqrt(variance)), confidence)
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


@dataclass(frozen=True)
class Draws:
    """The resamples that the intervals of a comparison share, so that they fit each other.

    Attributes:
        cases: weights of cases, (resamples, cases).
        generator: of the resamples that "percentile" and "bca" draw anew for each interval.
        method: "studentised" or "t" with the error of the crossed layout; "percentile" and "bca", of crossed
            resampling: seeds and, independently, cases are drawn with replacement, and each drawn seed meets each
            drawn case.
    """

    cases: Array
    generator: np.random.Generator
    method: Method = "studentised"

    def interval(self, blocks: Sequence[Array], confidence: float) -> Interval:
        """An interval for the sum of the blocks' means (see `estimate`); NaN at both ends for too few cases.

        Raises:
            FedCoWProError: values that are not finite or not (seeds, cases).
        """
        found = estimate(blocks)
        if len(found.cases) < FEWEST:
            return Interval(math.nan, math.nan, confidence, "t")
        if self.method == "studentised":
            return studentised_interval(found, self.cases, confidence)
        if self.method == "t":
            low, high = student(found, confidence)
            return Interval(float(low), float(high), confidence, "t")
        name = "BCa" if self.method == "bca" else "percentile"
        limits = crossed_interval(blocks, self.generator, len(self.cases), confidence, name)
        return Interval(*limits, confidence, self.method)


def points_of(by_case: Array) -> tuple[float, ...]:
    """The cases themselves where they are too few for an interval; else nothing."""
    return tuple(map(float, by_case)) if len(by_case) < FEWEST else ()


def check(confidence: float, resamples: int, method: Method = "studentised") -> None:
    """Refuse an unknown method, and what leaves no resample beyond the interval's ends."""
    if method not in get_args(Method):
        raise FedCoWProError(f"interval '{method}'", f"one of {', '.join(get_args(Method))}", "choose studentised")
    if not 0 < confidence < 1 or (resamples + 1) * (1 - confidence) / 2 < 1:
        raise FedCoWProError(
            f"a confidence of {confidence} from {resamples} resamples",
            "a confidence inside 0..1 and at least one resample beyond each end",
            f"keep 0.95 and {RESAMPLES}",
        )
