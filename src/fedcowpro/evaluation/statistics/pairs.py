"""Two methods on the same cases: by how much they differ, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedcowpro.evaluation.statistics.cells import Cells
from fedcowpro.evaluation.statistics.hypotheses import (
    Omnibus,
    PairTest,
    cohen_dz,
    differences,
    holm,
    rank_biserial,
    wilcoxon,
)
from fedcowpro.evaluation.statistics.intervals import Draws, Interval, paired, points_of
from fedcowpro.evaluation.statistics.standard_error import Array, Estimate, estimate, p_value


@dataclass(frozen=True)
class Equivalence:
    """Whether two methods are comparable: the interval of the difference lies inside -margin..margin.

    With an interval of confidence 1 - 2 alpha this is the two one-sided tests procedure (Schuirmann 1987) at alpha.
    That no difference was found is not equivalence.
    """

    margin: float
    interval: Interval
    equivalent: bool


@dataclass(frozen=True)
class PairResult:
    """A comparison of two methods.

    Attributes:
        first, second: names of the methods.
        difference: mean of first - second, in the metric's unit.
        interval: of the difference.
        test: name of the test over cases.
        p_cases: its p: over cases, these trained networks taken as given.
        p_seeds: p of the difference over seeds and cases (`standard_error.p_value`); NaN when both have one seed.
        p: the larger of both, so that neither luck with cases nor with seeds passes for a difference.
        p_adjusted: `p` after Holm's correction for all pairs.
        significant: `p_adjusted` and, with three or more methods, the omnibus test's p are at most alpha.
        rank_biserial: matched-pairs rank-biserial correlation; positive when first is higher.
        dz: Cohen's dz; positive when first is higher, NaN when differences do not vary.
        wins, losses, ties: cases in which first is better, worse, equal.
        equivalence: None without a margin.
        points: differences of the cases where they are too few for an interval.
    """

    first: str
    second: str
    difference: float
    interval: Interval
    test: str
    p_cases: float
    p_seeds: float
    p: float
    p_adjusted: float
    significant: bool
    rank_biserial: float
    dz: float
    wins: int
    losses: int
    ties: int
    equivalence: Equivalence | None
    points: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Test:
    """What is known of a pair before its p is corrected for the others."""

    found: Estimate
    blocks: list[Array]
    by_case: Array
    over_cases: PairTest
    p_seeds: float

    @property
    def p(self) -> float:
        return self.over_cases.p if math.isnan(self.p_seeds) else max(self.over_cases.p, self.p_seeds)


def compare_pairs(
    cells: Cells,
    pairs: Sequence[tuple[str, str]],
    draws: Draws,
    *,
    higher_is_better: bool,
    alpha: float,
    omnibus: Omnibus | None = None,
    margin: float | None = None,
) -> tuple[PairResult, ...]:
    """Results of pairs of methods, corrected for their number.

    Args:
        cells: the scores.
        pairs: names of methods.
        draws: resamples, and how intervals are made of them.
        higher_is_better: whether first wins a case with the higher value.
        alpha: level of the tests; intervals have confidence 1 - alpha.
        omnibus: without its p at most alpha no pair is significant.
        margin: largest difference that counts as comparable.
    """
    tests = [_test(cells, *pair) for pair in pairs]
    results = []
    for (first, second), test, p_adjusted in zip(pairs, tests, holm([test.p for test in tests]), strict=True):
        gained = test.by_case if higher_is_better else -test.by_case
        results.append(
            PairResult(
                first=first,
                second=second,
                difference=float(test.found.mean),
                interval=draws.interval(test.blocks, 1 - alpha),
                test=test.over_cases.name,
                p_cases=test.over_cases.p,
                p_seeds=test.p_seeds,
                p=test.p,
                p_adjusted=p_adjusted,
                significant=p_adjusted <= alpha and (omnibus is None or omnibus.p <= alpha),
                rank_biserial=rank_biserial(test.by_case),
                dz=cohen_dz(test.by_case),
                wins=int((gained > 0).sum()),
                losses=int((gained < 0).sum()),
                ties=int((gained == 0).sum()),
                equivalence=None if margin is None else _equivalence(test, draws, margin, alpha),
                points=points_of(test.by_case),
            )
        )
    return tuple(results)


def _test(cells: Cells, first: str, second: str) -> _Test:
    one, other = cells.values[first], cells.values[second]
    blocks = paired(one, other, cells.seeds[first] == cells.seeds[second])
    found, by_case = estimate(blocks), differences(one.mean(axis=0), other.mean(axis=0))
    several = max(len(one), len(other)) > 1
    return _Test(found, blocks, by_case, wilcoxon(by_case), float(p_value(found)) if several else math.nan)


def _equivalence(test: _Test, draws: Draws, margin: float, alpha: float) -> Equivalence:
    interval = draws.interval(test.blocks, 1 - 2 * alpha)
    return Equivalence(margin, interval, -margin < interval.low and interval.high < margin)
