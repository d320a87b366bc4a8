"""Standard error of a mean over seeds and cases that are crossed: every seed's network is scored on the same cases.

The model is a two-way layout with random effects and one value per cell: value = mean + seed + case + rest. A mean's
variance is that of its cases, which is seen in the spread of the cases' means, plus that of its seeds, taken from the
analysis of variance where seeds differ by more than the rest explains. The degrees of freedom are Satterthwaite's
(Searle, Casella & McCulloch, "Variance Components", 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedcowpro.errors import FedCoWProError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; every array has the leading axes (...) of the blocks it comes from.

    Attributes:
        mean: (...)
        error: standard error from cases and seeds, (...); NaN with fewer than two cases.
        freedom: degrees of freedom of `error`, (...).
        cases: what each case contributes, seeds averaged, (..., cases); their mean is `mean`.
        case_share: share of the variance that is due to cases, (...) in 0..1.
    """

    mean: Array
    error: Array
    freedom: Array
    cases: Array
    case_share: Array


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
    for block in blocks:
        if (seeds := block.shape[-2]) < 2:
            continue
        between, rest = _mean_squares(block)
        size, used = seeds * n, between > rest
        variance = variance + np.where(used, between - rest, 0) / size
        spread = (between / size) ** 2 / (seeds - 1) + (rest / size) ** 2 / ((seeds - 1) * (n - 1))
        uncertainty = uncertainty + np.where(used, spread, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.where(variance > 0, variance**2 / uncertainty, n - 1.0)
        share = np.where(variance > 0, of_cases / variance, 1.0)
    return Estimate(mean, np.sqrt(variance), np.maximum(freedom, 1.0), cases, share)


def _mean_squares(block: Array) -> tuple[Array, Array]:
    """Mean squares between seeds and of the rest, from values (..., seeds, cases)."""
    seeds, n = block.shape[-2:]
    by_seed, by_case = block.mean(axis=-1, keepdims=True), block.mean(axis=-2, keepdims=True)
    centre = block.mean(axis=(-1, -2), keepdims=True)
    between = n * ((by_seed - centre) ** 2).sum(axis=(-1, -2)) / (seeds - 1)
    rest = ((block - by_seed - by_case + centre) ** 2).sum(axis=(-1, -2)) / ((seeds - 1) * (n - 1))
    return between, rest


def p_value(found: Estimate) -> Array:
    """Two-sided p of "the mean is 0", from Student's t with the estimate's error and degrees of freedom; (...)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(found.mean == 0, 0.0, np.abs(found.mean) / found.error)
    return np.asarray(2 * stats.t.sf(t, found.freedom))
