"""Which method is better, by how much, and on how many cases that rests: everything a page needs to say it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.metrics import METRICS, Better
from fedcowpro.evaluation.statistics.bootstrap import draw
from fedcowpro.evaluation.statistics.cautions import cautions
from fedcowpro.evaluation.statistics.cells import Cells, Missing, collect
from fedcowpro.evaluation.statistics.hypotheses import Omnibus, friedman
from fedcowpro.evaluation.statistics.intervals import RESAMPLES, Draws, Interval, Method, check, points_of
from fedcowpro.evaluation.statistics.pairs import PairResult, compare_pairs
from fedcowpro.evaluation.statistics.ranks import RankStability, rank_stability


@dataclass(frozen=True)
class MethodResult:
    """A method's mean over the common cases, with the interval that seeds and cases leave open.

    Where the metric has bounds, the interval ends there. `points` are the cases where there are too few for one.
    """

    method: str
    mean: float
    interval: Interval
    cases: int
    seeds: int
    points: tuple[float, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """All that `compare` found.

    Attributes:
        metric: the compared column.
        better: which of its values are good.
        protocol: of the compared rows.
        alpha: level of the tests; intervals have confidence 1 - alpha.
        resamples: number of bootstrap samples.
        cases: number of cases that everything rests on.
        methods: in the order asked for.
        pairs: each with the reference first, or in the order of `methods`.
        omnibus: None with fewer than three methods or two cases.
        ranks: in the order of `methods`; None with one method.
        missing: what was left out, so that all methods are judged on the same cases.
        cautions: sentences to print with the numbers.
    """

    metric: str
    better: Better
    protocol: str
    alpha: float
    resamples: int
    cases: int
    methods: tuple[MethodResult, ...]
    pairs: tuple[PairResult, ...]
    omnibus: Omnibus | None
    ranks: RankStability | None
    missing: Missing
    cautions: tuple[str, ...]


def compare(
    table: pd.DataFrame,
    generator: np.random.Generator,
    *,
    metric: str = "dice",
    better: Better | None = None,
    protocol: str | None = None,
    methods: Sequence[str] | None = None,
    reference: str | None = None,
    alpha: float = 0.05,
    margin: float | None = None,
    infinite: float | None = None,
    resamples: int = RESAMPLES,
    interval: Method = "studentised",
) -> Comparison:
    """Compare methods on the cases that all of them were scored on.

    The case is the unit: its organs are averaged first, then its seeds where a test is over cases. Seeds and cases are
    crossed. Two methods with the same seeds are paired by seed as well; others' seeds vary independently. Studentised
    intervals and the ranking use the same resamples of cases, so that they fit each other.

    Args:
        table: one row per score; columns method, seed, site, case, organ, protocol and `metric` (see `cells.collect`).
        generator: source of the resamples.
        metric: column to compare.
        better: which values are good; for a key of `METRICS` known without it. With "zero" values lose their sign.
        protocol: needed when the table has several.
        methods: which, in this order; all in order of appearance when None.
        reference: compare this method with each other one, instead of all pairs.
        alpha: level of the tests; intervals have confidence 1 - alpha.
        margin: largest difference that counts as comparable, in the metric's unit; adds the equivalence test.
        infinite: what stands for an infinite value, such as a diagonal in mm for the HD95 of a missed organ.
        resamples: number of bootstrap samples.
        interval: how intervals are made (see `intervals.Draws`).

    Raises:
        FedCoWProError: what `cells.collect` refuses; an unknown metric without `better`; a reference that is no method;
            a margin that is not positive; an unknown interval; an alpha or a number of resamples that leaves no tail.
    """
    better = better or (METRICS[metric].better if metric in METRICS else None)
    if better is None:
        raise FedCoWProError(f"metric '{metric}'", f"one of {', '.join(METRICS)}", "or say which values are `better`")
    if margin is not None and not 0 < margin < math.inf:
        raise FedCoWProError(
            f"a margin of {margin}", "a positive number", "name the largest difference without meaning"
        )
    check(1 - alpha, resamples, interval)
    cells = collect(table, metric, protocol=protocol, methods=methods, magnitude=better == "zero", infinite=infinite)
    names, n = list(cells.values), len(cells.cases)
    if reference is not None and reference not in names:
        raise FedCoWProError(f"reference '{reference}'", f"one of {', '.join(names)}", "correct the name")
    higher = better == "higher"
    low, high = METRICS[metric].bounds if metric in METRICS else (-math.inf, math.inf)
    bounds = (0.0, math.inf) if better == "zero" else (low, high)
    weights = draw(generator, n, resamples)
    draws = Draws(weights, generator, interval)
    scores = np.stack([cells.values[name].mean(axis=0) for name in names], axis=1)
    omnibus = friedman(scores) if len(names) > 2 and n > 1 else None
    wanted = [(reference, name) for name in names if name != reference] if reference else [*combinations(names, 2)]
    return Comparison(
        metric=metric,
        better=better,
        protocol=cells.protocol,
        alpha=alpha,
        resamples=resamples,
        cases=n,
        methods=tuple(_method(name, cells, draws, alpha, bounds) for name in names),
        pairs=compare_pairs(cells, wanted, draws, higher_is_better=higher, alpha=alpha, omnibus=omnibus, margin=margin),
        omnibus=omnibus,
        ranks=rank_stability(scores, weights, higher) if len(names) > 1 else None,
        missing=cells.missing,
        cautions=cautions(cells, len(wanted), alpha),
    )


def _method(name: str, cells: Cells, draws: Draws, alpha: float, bounds: tuple[float, float]) -> MethodResult:
    values = cells.values[name]
    whole = draws.interval([values], 1 - alpha)
    low, high = np.clip((whole.low, whole.high), *bounds)
    interval = Interval(float(low), float(high), whole.confidence, whole.method)
    by_case, (seeds, cases) = values.mean(axis=0), values.shape
    return MethodResult(name, float(by_case.mean()), interval, cases, seeds, points_of(by_case))
