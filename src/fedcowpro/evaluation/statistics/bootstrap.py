"""Resamples of seeds and cases, and the intervals that take their limits from them: percentile and BCa."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from fedcowpro.evaluation.statistics.standard_error import Array


def draw(generator: np.random.Generator, n: int, resamples: int) -> Array:
    """How often each of `n` things is in each resample, (resamples, n)."""
    return generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def crossed_means(blocks: Sequence[Array], weights: Array, seeds: Sequence[Array]) -> Array:
    """Means of crossed resamples (Owen, "The pigeonhole bootstrap", 2007), (..., resamples).

    Args:
        blocks: see `estimate`.
        weights: of cases, (resamples, cases).
        seeds: weights of each block's seeds, (resamples, seeds).
    """
    means = sum(
        ((of_seeds @ block) * weights).sum(axis=-1) / math.prod(block.shape[-2:])
        for block, of_seeds in zip(blocks, seeds, strict=True)
    )
    return np.asarray(means)


def percentile(
    blocks: Sequence[Array], weights: Array, seeds: Sequence[Array], confidence: float
) -> tuple[Array, Array]:
    """Limits (low, high) of percentile intervals, each (...), from the arguments of `crossed_means`."""
    return tails(crossed_means(blocks, weights, seeds), confidence)


def bca(blocks: Sequence[Array], weights: Array, seeds: Sequence[Array], confidence: float) -> tuple[float, float]:
    """Limits (low, high) of the bias-corrected and accelerated interval (Efron 1987) of a single estimate.

    Cases and each block's seeds are independent samples, whose influences make up the acceleration together (Efron
    1987, section 7). With one seed it is the textbook's interval for a mean over cases.
    """
    cases = np.sum([block.mean(axis=-2) for block in blocks], axis=0)
    parts = [cases, *(block.mean(axis=-1) for block in blocks)]
    influence = np.concatenate([(part - part.mean()) / len(part) for part in parts])
    mean = cases.mean()
    if not influence.any():
        return float(mean), float(mean)
    means = crossed_means(blocks, weights, seeds) - mean
    means[np.abs(means) <= 1e-12 * np.abs(influence).max()] = 0  # what rounding leaves of a resample like the sample
    below = ((means < 0).mean() + (means <= 0).mean()) / 2
    bias = stats.norm.ppf(np.clip(below, 1 / (len(means) + 1), 1 - 1 / (len(means) + 1)))
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    reach = bias + stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = mean + np.quantile(means, stats.norm.cdf(bias + reach / (1 - acceleration * reach)))
    return float(low), float(high)


def tails(samples: Array, confidence: float) -> tuple[Array, Array]:
    """The k-th smallest and the k-th largest along the last axis, with k = (resamples + 1) * (1 - confidence) / 2."""
    last = samples.shape[-1] - 1
    k = math.floor((last + 2) * (1 - confidence) / 2 + 1e-9) - 1
    ends = np.partition(samples, (k, last - k), axis=-1)
    return ends[..., k], ends[..., last - k]
