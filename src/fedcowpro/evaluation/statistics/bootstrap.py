"""Resamples of cases, and SciPy's intervals from resamples of seeds and cases: percentile and BCa."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from fedcowpro.evaluation.statistics.standard_error import Array


def draw(generator: np.random.Generator, n: int, resamples: int) -> Array:
    """How often each of `n` cases is in each resample, (resamples, n)."""
    return generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def crossed_interval(
    blocks: Sequence[Array], generator: np.random.Generator, resamples: int, confidence: float, method: str
) -> tuple[float, float]:
    """Limits (low, high) of a bootstrap interval of SciPy for the sum of the blocks' means (see `estimate`).

    Cases and each block's seeds are independent samples that are drawn with replacement; each drawn seed meets each
    drawn case (Owen, "The pigeonhole bootstrap", 2007).

    Args:
        blocks: at least two cases each.
        method: "percentile" or "BCa" (Efron 1987; section 7 for several samples).
    """
    cases = np.sum([block.mean(axis=-2) for block in blocks], axis=0)
    if max(map(np.ptp, [cases, *(block.mean(axis=-1) for block in blocks)])) < 1e-12:  # SciPy has no limits then
        return float(cases.mean()), float(cases.mean())

    def mean(of_cases: Array, *of_seeds: Array, axis: int = -1) -> Array:
        several, columns = iter(of_seeds), of_cases.astype(int)[..., None, :]
        rows = [next(several).astype(int)[..., None] if len(block) > 1 else 0 for block in blocks]
        return np.sum(
            [block[row, columns].mean(axis=(-2, -1)) for block, row in zip(blocks, rows, strict=True)], axis=0
        )

    samples = [np.arange(len(cases)), *(np.arange(len(block)) for block in blocks if len(block) > 1)]
    found = stats.bootstrap(
        samples, mean, method=method, n_resamples=resamples, confidence_level=confidence, vectorized=True,
        batch=1000, random_state=generator,
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def tails(samples: Array, confidence: float) -> tuple[Array, Array]:
    """The k-th smallest and the k-th largest along the last axis, with k = (resamples + 1) * (1 - confidence) / 2."""
    last = samples.shape[-1] - 1
    k = math.floor((last + 2) * (1 - confidence) / 2 + 1e-9) - 1
    ends = np.partition(samples, (k, last - k), axis=-1)
    return ends[..., k], ends[..., last - k]
