"""Standard error of a mean over seeds and cases that are crossed: every seed's network is scored on the same cases.

The model is a two-way layout with random effects and one value per cell: value = mean + seed + case + rest. A mean's
variance is that of its cases, which is seen in the spread of the cases' means, plus that of its seeds, taken from the
analysis of variance where seeds differ by more than the rest explains. The degrees of freedom are Satterthwaite's
(Searle, Casella & McCulloch, "Variance Components", 1992). With two or three seeds that variance is often found to be
0 by chance, which makes the far tail too thin: `p_value` therefore goes a safer way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from fedcowpro.core.errors import FedCoWProError

Array = npt.NDArray[np.float64]
_SMALLEST, _HALVINGS = -80.0, 40  # of the logarithm of p, which is found to 1e-10


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; every array has the leading axes (...) of the blocks it comes from.

    Attributes:
        mean: (...)
        error: standard error from cases and seeds, (...); NaN with fewer than two cases.
        freedom: degrees of freedom of `error`, (...).
        cases: what each case contributes, seeds averaged, (..., cases); their mean is `mean`.
        case_share: share of the variance that is due to cases, (...) in 0..1.
        parts: (variance, its degrees of freedom) of the means of cases and of each block's seeds, where a block has
            several; together never less than the squared `error` on average. Without any with fewer than two cases.
    """

    mean: Array
    error: Array
    freedom: Array
    cases: Array
    case_share: Array
    parts: tuple[tuple[Array, int], ...] = ()


def estimate(blocks: Sequence[Array]) -> Estimate:
    """Mean and standard error of the sum of the blocks' means.

    One block gives the mean of a method, or of a difference when both methods have the same seeds. Two blocks, the
    second negated, give the difference of two methods whose seeds have nothing to do with each other.

    Args:
        blocks: arrays (..., seeds, cases) over the same cases; the number of seeds may differ.

    Raises:
        FedCoWProError: no seed or case, other cases in each block, or values that are not finite.
    """
    for block in blocks:
        if block.ndim < 2 or 0 in block.shape or block.shape[-1] != blocks[0].shape[-1] or not np.isfinite(block).all():
            raise FedCoWProError(
                f"values of shape {block.shape}, {np.count_nonzero(~np.isfinite(block))} of them not finite",
                "finite values (seeds, cases), at least one of each, over the same cases",
                "leave out cases without a value, or give infinite distances a finite stand-in",
            )
    cases = np.sum([block.mean(axis=-2) for block in blocks], axis=0)
    mean, n = cases.mean(axis=-1), cases.shape[-1]
    if n < 2:
        unknown = np.full_like(mean, np.nan)
        return Estimate(mean, unknown, unknown, cases, unknown)
    of_cases = cases.var(axis=-1, ddof=1) / n
    variance, uncertainty = of_cases, of_cases**2 / (n - 1)
    parts = [(of_cases, n - 1)]
    for block in blocks:
        if (seeds := block.shape[-2]) < 2:
            continue
        between, rest = _mean_squares(block)
        size, used = seeds * n, between > rest
        parts.append((between / size, seeds - 1))
        variance = variance + np.where(used, between - rest, 0) / size
        spread = (between / size) ** 2 / (seeds - 1) + (rest / size) ** 2 / ((seeds - 1) * (n - 1))
        uncertainty = uncertainty + np.where(used, spread, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.where(variance > 0, variance**2 / uncertainty, n - 1.0)
        share = np.where(variance > 0, of_cases / variance, 1.0)
    return Estimate(mean, np.sqrt(variance), np.maximum(freedom, 1.0), cases, share, tuple(parts))


def _mean_squares(block: Array) -> tuple[Array, Array]:
    """Mean squares between seeds and of the rest, from values (..., seeds, cases)."""
    seeds, n = block.shape[-2:]
    by_seed, by_case = block.mean(axis=-1, keepdims=True), block.mean(axis=-2, keepdims=True)
    centre = block.mean(axis=(-1, -2), keepdims=True)
    between = n * ((by_seed - centre) ** 2).sum(axis=(-1, -2)) / (seeds - 1)
    rest = ((block - by_seed - by_case + centre) ** 2).sum(axis=(-1, -2)) / ((seeds - 1) * (n - 1))
    return between, rest


def p_value(found: Estimate) -> Array:
    """Two-sided p of "the mean is 0", (...): over cases alone it is that of Student's t test.

    With several seeds the variance is the sum of `found.parts`, none of which is taken for 0 by chance (Owen, "The
    pigeonhole bootstrap", 2007), and its quantiles are those of the parts' t distributions, weighted by the parts
    (Cochran & Cox, "Experimental Designs", 1957). From three seeds on it errs no more often than it says, also far out
    in the tail where corrections for several pairs look (tests/evaluation/test_coverage.py); the price is power.
    """
    if not found.parts:
        return np.full_like(found.mean, np.nan)
    variance = np.sum([part for part, _ in found.parts], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(found.mean == 0, 0.0, np.abs(found.mean) / np.sqrt(variance))
        shares = [(np.where(variance > 0, part / variance, 1.0 / len(found.parts)), n) for part, n in found.parts]
    if len(shares) == 1:
        return np.asarray(2 * stats.t.sf(ratio, shares[0][1]))
    low, high = np.full_like(ratio, _SMALLEST), np.zeros_like(ratio)  # logarithms of p
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        quantile = -np.sum([share * special.stdtrit(n, np.exp(middle) / 2) for share, n in shares], axis=0)
        low, high = np.where(quantile > ratio, middle, low), np.where(quantile > ratio, high, middle)
    return np.asarray(np.exp(high))
