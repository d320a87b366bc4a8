"""Tests and effect sizes for methods that were scored on the same cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedcowpro.core.errors import FedCoWProError

DIGITS = 12  # differences below 1e-12 come from rounding and count as none


@dataclass(frozen=True)
class PairTest:
    """A two-sided test of a paired difference.

    Attributes:
        name: the test that was used.
        p: its p value.
        used: cases with a difference other than 0; the others say nothing about the sign.
    """

    name: str
    p: float
    used: int


@dataclass(frozen=True)
class Omnibus:
    """Test of "no method ranks better than another" for three or more methods.

    Attributes:
        name: the test.
        statistic: Iman and Davenport's F; infinite when all cases rank the methods alike.
        freedom: its degrees of freedom (methods - 1, (methods - 1) (cases - 1)).
        p: its p value.
        friedman: Friedman's chi-squared, corrected for ties.
    """

    name: str
    statistic: float
    freedom: tuple[int, int]
    p: float
    friedman: float


def differences(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """first - second per case, with what rounding leaves of equal values set to 0."""
    return np.round(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), DIGITS)


def wilcoxon(difference: npt.ArrayLike) -> PairTest:
    """Wilcoxon's signed-rank test of per-case differences (cases,); zeros are left out, as Wilcoxon did.

    SciPy chooses the exact distribution where it can. When every difference is zero, no rank is left and the sign test
    stands in, with p = 1.
    """
    values = np.asarray(difference, dtype=np.float64)
    values = values[values != 0]
    if not len(values):
        return sign_test(values)
    return PairTest("Wilcoxon signed-rank", float(stats.wilcoxon(values).pvalue), len(values))


def sign_test(difference: npt.ArrayLike) -> PairTest:
    """Two-sided sign test of per-case differences (cases,): exact binomial, zeros left out; p = 1 when all are zero."""
    values = np.asarray(difference, dtype=np.float64)
    wins, used = int((values > 0).sum()), int((values != 0).sum())
    p = float(stats.binomtest(wins, used).pvalue) if used else 1.0
    return PairTest("sign test", p, used)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979), in the given order."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    running = np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(running), 1)
    return [float(value) for value in adjusted]


def friedman(scores: npt.ArrayLike) -> Omnibus:
    """Friedman's test in Iman and Davenport's form (1980), which is less conservative with few cases.

    Args:
        scores: (cases, methods), at least 2 cases and 3 methods.

    Raises:
        FedCoWProError: fewer.
    """
    table = np.round(np.asarray(scores, dtype=np.float64), DIGITS)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 3:
        raise FedCoWProError(
            f"scores of shape {table.shape}", "(cases, methods): at least 2 and 3", "compare two methods as a pair"
        )
    n, k = table.shape
    name, freedom = "Friedman, Iman-Davenport", (k - 1, (k - 1) * (n - 1))
    if (table == table[:, :1]).all():
        return Omnibus(name, 0.0, freedom, 1.0, 0.0)
    chi2 = float(stats.friedmanchisquare(*table.T).statistic)
    rest = n * (k - 1) - chi2
    if rest <= 1e-9 * chi2:  # all cases rank alike: the F has no end, the chance of it by accident is known
        return Omnibus(name, math.inf, freedom, float(math.factorial(k)) ** (1 - n), chi2)
    statistic = (n - 1) * chi2 / rest
    return Omnibus(name, statistic, freedom, float(stats.f.sf(statistic, *freedom)), chi2)


def rank_biserial(difference: npt.ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation (Kerby 2014) of per-case differences (cases,).

    (sum of ranks of positive differences - of negative ones) / sum of all ranks, zeros left out: -1..1, 0 when all
    differences are zero.
    """
    values = np.asarray(difference, dtype=np.float64)
    values = values[values != 0]
    if not len(values):
        return 0.0
    ranks = stats.rankdata(np.abs(values))
    return float((np.sign(values) * ranks).sum() / ranks.sum())


def cohen_dz(difference: npt.ArrayLike) -> float:
    """Cohen's dz of per-case differences (cases,): their mean over their standard deviation (n - 1).

    NaN when they do not vary or when there is only one.
    """
    values = np.asarray(difference, dtype=np.float64)
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return float(values.mean() / spread) if spread > 0 else math.nan


def fewest_cases(pairs: int, alpha: float) -> int:
    """Fewest cases with which a pair can become significant: Wilcoxon's smallest p, 2 / 2^n, times the pairs."""
    return math.ceil(1 + math.log2(pairs / alpha) - 1e-9)
