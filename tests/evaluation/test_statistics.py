"""Intervals hold what they promise, tests err as often as they say, and comparisons are fair and open."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.statistics.bootstrap import crossed_interval, draw
from fedcowpro.evaluation.statistics.cells import Cells, Missing, collect
from fedcowpro.evaluation.statistics.compare import Comparison, compare
from fedcowpro.evaluation.statistics.hypotheses import (
    cohen_dz,
    differences,
    fewest_cases,
    friedman,
    holm,
    rank_biserial,
    sign_test,
    wilcoxon,
)
from fedcowpro.evaluation.statistics.intervals import (
    RESAMPLES,
    Draws,
    Interval,
    Method,
    check,
    paired,
    studentised,
)
from fedcowpro.evaluation.statistics.pairs import compare_pairs
from fedcowpro.evaluation.statistics.ranks import rank_stability
from fedcowpro.evaluation.statistics.standard_error import Array, estimate, p_value
from fedcowpro.reports.comparison.figures import interval as written

DIFFERENCES = np.array([0.02, -0.01, 0.04, 0.02, -0.02, 0.01, 0.03, -0.02, 0.03, 0.01])
CROSSED = np.array([[0.71, 0.82, 0.64, 0.90, 0.77], [0.76, 0.85, 0.70, 0.91, 0.80], [0.69, 0.79, 0.66, 0.86, 0.75]])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cells_of(values: dict[str, Array]) -> Cells:
    n = next(iter(values.values())).shape[1]
    seeds = {name: tuple(range(len(array))) for name, array in values.items()}
    nothing = Missing(0, n, 0, n, dict.fromkeys(values, 0))
    return Cells("whole-volume", tuple(("a", str(i)) for i in range(n)), seeds, values, nothing, True, 1, True)


def interval(
    generator: np.random.Generator,
    *blocks: Array,
    method: Method = "studentised",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """As a comparison makes one; a block of one axis has one seed."""
    whole = [np.atleast_2d(block) for block in blocks]
    return Draws(draw(generator, whole[0].shape[-1], resamples), generator, method).interval(whole, confidence)


# Standard error, intervals.


def test_standard_error_from_the_mean_squares_of_statsmodels() -> None:
    """anova_lm of statsmodels 0.15.0 for y ~ C(seed) + C(case) on CROSSED."""
    seed, case, rest = 0.00378, 0.02250666666666665, 0.00017166666666666673
    found = estimate([CROSSED])
    assert found.mean == pytest.approx(CROSSED.mean())
    assert found.error**2 == pytest.approx((seed + case - rest) / 15)
    spread = seed**2 / 2 + case**2 / 4 + rest**2 / 8
    assert found.freedom == pytest.approx((seed + case - rest) ** 2 / spread)
    assert found.case_share == pytest.approx(case / (seed + case - rest))


def test_seeds_that_differ_by_less_than_the_rest_add_nothing() -> None:
    level = CROSSED - CROSSED.mean(axis=1, keepdims=True)
    found, cases = estimate([level]), estimate([level.mean(axis=0, keepdims=True)])
    assert found.error == pytest.approx(cases.error)
    assert found.freedom == 4
    assert found.case_share == 1


def test_one_seed_is_the_t_test() -> None:
    found = estimate([DIFFERENCES[None]])
    expected = stats.ttest_1samp(DIFFERENCES, 0)
    assert p_value(found) == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    student = interval(rng(), DIFFERENCES, method="t")
    assert (student.low, student.high) == pytest.approx((low, high))


def test_p_over_seeds_and_cases_by_solving_for_it() -> None:
    """Student's quantiles of cases and of seeds, weighted by their variances, meet the ratio at p."""
    difference = CROSSED - 0.72
    by_case, by_seed = difference.mean(axis=0), difference.mean(axis=1)
    of_cases, of_seeds = by_case.var(ddof=1) / 5, by_seed.var(ddof=1) / 3
    share = of_cases / (of_cases + of_seeds)
    p = float(p_value(estimate([difference])))
    quantile = share * stats.t.isf(p / 2, 4) + (1 - share) * stats.t.isf(p / 2, 2)
    assert quantile == pytest.approx(difference.mean() / math.sqrt(of_cases + of_seeds), rel=1e-6)
    assert 0.05 < p < 0.5
    assert p_value(estimate([np.zeros((3, 5))])) == 1
    assert p_value(estimate([difference, np.zeros((1, 5))])) == pytest.approx(p)


def test_studentised_interval_by_a_plain_loop() -> None:
    weights = draw(rng(1), 10, 99).astype(int)
    mean, error = DIFFERENCES.mean(), DIFFERENCES.std(ddof=1) / math.sqrt(10)
    ratios = []
    for counts in weights:
        resample = np.repeat(DIFFERENCES, counts)
        ratios.append((resample.mean() - mean) / (resample.std(ddof=1) / math.sqrt(10)))
    ratios.sort()  # of 99, the 5th from either end leave 5 % beyond
    low, high, served = studentised(estimate([DIFFERENCES[None]]), weights.astype(float), 0.9)
    assert served
    assert (low, high) == pytest.approx((mean - ratios[-5] * error, mean - ratios[4] * error))


@pytest.mark.parametrize(("method", "name"), [("percentile", "percentile"), ("bca", "BCa")])
def test_bootstrap_intervals_of_scipy(method: Method, name: str) -> None:
    values = rng(2).gamma(2, 1, 15)
    theirs = stats.bootstrap((values,), np.mean, method=name, n_resamples=40_000, random_state=rng(3), vectorized=True)
    ours = interval(rng(4), values, method=method, resamples=40_000)
    width = ours.high - ours.low
    ends = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((ends.low, ends.high), abs=0.02 * width)


def crossed_means(values: Array, resamples: int) -> Array:
    """Means of resamples in which each drawn seed meets each drawn case."""
    seeds, cases = draw(rng(6), values.shape[0], resamples), draw(rng(5), values.shape[1], resamples)
    return np.array([s @ values @ c / values.size for s, c in zip(seeds, cases, strict=True)])


def test_crossed_resampling_by_a_plain_loop() -> None:
    expected = np.quantile(crossed_means(CROSSED, 20_000), [0.025, 0.975])
    found = crossed_interval([CROSSED], rng(7), 20_000, 0.95, "percentile")
    assert found == pytest.approx(tuple(expected), abs=0.02 * np.ptp(expected))


def test_bca_over_seeds_and_cases_by_a_plain_loop() -> None:
    """Bias: resamples below the mean and half of those on it. Acceleration: one seed or case left out at a time."""
    values, mean = CROSSED**3, (CROSSED**3).mean()
    means = crossed_means(values, 20_000)
    left_out = [
        (mean - np.delete(values, i, axis=axis).mean()) * (n - 1) / n for axis, n in ((0, 3), (1, 5)) for i in range(n)
    ]
    acceleration = np.sum(np.power(left_out, 3)) / (6 * np.sum(np.square(left_out)) ** 1.5)
    assert abs(acceleration) > 0.01
    low, same = (means < mean - 1e-9).mean(), (np.abs(means - mean) < 1e-9).mean()
    bias = stats.norm.ppf(low + same / 2)
    reach = bias + stats.norm.ppf([0.05, 0.95])
    expected = np.quantile(means, stats.norm.cdf(bias + reach / (1 - acceleration * reach)))
    near = 0.02 * np.ptp(expected)
    assert crossed_interval([values], rng(7), 20_000, 0.9, "BCa") == pytest.approx(tuple(expected), abs=near)
    # Negated, the ends change places; a block with one seed and other seeds of a second one fit as well.
    assert crossed_interval([-values], rng(7), 20_000, 0.9, "BCa") == pytest.approx(tuple(-expected[::-1]), abs=near)
    apart = crossed_interval([values, np.ones((1, 5)), np.zeros((2, 5))], rng(7), 20_000, 0.9, "BCa")
    assert apart == pytest.approx(tuple(expected + 1), abs=near)


def test_the_same_generator_gives_the_same_interval() -> None:
    one, again, other = (interval(rng(seed), CROSSED) for seed in (7, 7, 8))
    assert one == again
    values = rng(1).normal(size=(3, 20))
    one, again, other = (interval(rng(seed), values) for seed in (7, 7, 8))
    assert one == again != other
    assert 0 in one


def test_paired_difference_is_the_mean_of_differences() -> None:
    first, second = CROSSED, CROSSED[:, ::-1].copy()
    assert interval(rng(), *paired(first, second, True)) == interval(rng(), first - second)
    apart = interval(rng(), *paired(first, second[:1], False), method="t")
    found = estimate([first, -second[:1]])
    assert (apart.low + apart.high) / 2 == pytest.approx(float(found.mean)) == first.mean() - second[0].mean()


@pytest.mark.parametrize("method", ["studentised", "t", "percentile", "bca"])
def test_equal_values_give_an_interval_of_one_point(method: Method) -> None:
    found = interval(rng(), np.full(12, 0.25), method=method)
    assert (found.low, found.high) == (0.25, 0.25)


def test_few_or_mostly_equal_cases_get_students_t() -> None:
    few, mostly = DIFFERENCES[:7], np.array([0.0] * 11 + [0.1])
    for values in (few, mostly):
        found = interval(rng(), values)
        assert found.method == "t"
        assert found == interval(rng(), values, method="t")
    assert interval(rng(), DIFFERENCES).method == "studentised"


def test_one_case_has_no_interval() -> None:
    found = interval(rng(), np.array([0.8]))
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval(rng(), np.array([0.1, math.nan])), "1 of them not finite"),
        (lambda: estimate([np.zeros((1, 0))]), "at least one of each"),
        (lambda: estimate([np.array(0.5)]), "seeds, cases"),
        (lambda: check(0.95, RESAMPLES, "hdi"), "'hdi'"),  # type: ignore[arg-type]
        (lambda: check(95, RESAMPLES), "inside 0..1"),
        (lambda: check(0.95, 30), "beyond each end"),
        (lambda: paired(CROSSED, CROSSED[:2], True), "same seeds"),
        (lambda: paired(CROSSED, CROSSED[:, :2], False), "same cases"),
    ],
)
def test_mistakes_with_intervals_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(FedCoWProError, match=message):
        call()


# Tests and effect sizes.


def test_wilcoxon_of_scipy_and_its_fallback() -> None:
    values = np.array([0.031, -0.012, 0.054, 0.027, 0.088, -0.005, 0.041, 0.066])
    expected = 2 * 5 / 2**8  # of 256 sign patterns, 5 have a rank sum of at most 1 + 2 on a given side
    assert wilcoxon(values).p == pytest.approx(expected) == stats.wilcoxon(values, method="exact").pvalue
    assert wilcoxon(np.append(values, [0, 0])).p == wilcoxon(values).p
    assert wilcoxon(np.append(values, [0, 0])).used == 8
    nothing = wilcoxon(np.zeros(9))
    assert (nothing.name, nothing.p, nothing.used) == ("sign test", 1.0, 0)


def test_sign_test_of_scipy() -> None:
    assert sign_test([1, 2, 0, 3, -1, 4]).p == stats.binomtest(4, 5).pvalue
    assert sign_test([1, 2, 0, 3, -1, 4]).used == 5


def test_holm_of_statsmodels() -> None:
    """multipletests(method="holm") of statsmodels 0.15.0."""
    assert holm([0.01, 0.04, 0.03, 0.005, 0.5, 0.012]) == pytest.approx([0.05, 0.09, 0.09, 0.03, 0.5, 0.05])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@pytest.mark.parametrize("digits", [1, 6])
def test_iman_davenport_is_the_analysis_of_variance_of_ranks(digits: int) -> None:
    """An identity (Conover 1999, section 5.8) that holds with ties too; one digit gives many."""
    scores = np.round(rng(9).random((11, 4)), digits)
    ranks = stats.rankdata(scores, axis=1)
    between = 11 * ((ranks.mean(axis=0) - 2.5) ** 2).sum() / 3
    rest = ((ranks - ranks.mean(axis=0)) ** 2).sum() / 30
    found = friedman(scores)
    assert found.statistic == pytest.approx(between / rest)
    assert found.p == pytest.approx(stats.f.sf(between / rest, 3, 30))
    assert found.friedman == pytest.approx(stats.friedmanchisquare(*scores.T).statistic)
    assert found.freedom == (3, 30)


def test_friedman_at_its_ends() -> None:
    assert friedman(np.ones((5, 3))).p == 1.0
    alike = friedman(np.arange(15).reshape(5, 3))
    assert math.isinf(alike.statistic)
    assert alike.p == pytest.approx(1 / 6**4)
    for scores in (np.ones((5, 2)), np.ones((1, 3)), np.ones(4)):
        with pytest.raises(FedCoWProError, match="at least 2 and 3"):
            friedman(scores)


def test_effect_sizes_by_hand() -> None:
    assert rank_biserial([0.3, -0.1, 0.2, 0.0]) == pytest.approx((3 + 2 - 1) / 6)
    assert (rank_biserial([1, 2]), rank_biserial([-1]), rank_biserial([0, 0])) == (1.0, -1.0, 0.0)
    assert cohen_dz([1.0, 2.0, 3.0]) == 2.0
    assert math.isnan(cohen_dz([1.0, 1.0]))
    assert math.isnan(cohen_dz([1.0]))


def test_rounding_is_no_difference() -> None:
    assert 0.1 + 0.2 != 0.3
    assert differences([0.1 + 0.2], [0.3]).tolist() == [0.0]


def test_fewest_cases_is_where_a_clean_sweep_becomes_significant() -> None:
    for pairs in (1, 3, 6, 10):
        n = fewest_cases(pairs, 0.05)
        assert pairs * wilcoxon(np.arange(1, n + 1)).p <= 0.05 < pairs * wilcoxon(np.arange(1, n)).p


def test_ranks_by_a_plain_loop() -> None:
    generator = rng(11)
    scores, weights = generator.integers(0, 4, (6, 3)) / 4, draw(generator, 6, 200)
    found = rank_stability(scores, weights)
    full, places, taus, same = scores.mean(axis=0), np.zeros((3, 3)), [], []
    for counts in weights:
        means = (counts @ scores) / 6
        ranks = stats.rankdata(-means)
        for method, rank in enumerate(ranks):
            tied = np.flatnonzero(ranks == rank)
            better = int((ranks < rank).sum())
            places[method, better : better + len(tied)] += 1 / len(tied)
        taus.append(stats.kendalltau(means, full).statistic)
        same.append(np.array_equal(stats.rankdata(means), stats.rankdata(full)))
    assert np.array(found.shares) == pytest.approx(places / 200)
    assert found.kendall == pytest.approx(np.nanmean(taus))
    assert found.same_order == np.mean(same)


def test_ranks_of_clear_and_of_equal_methods() -> None:
    weights = draw(rng(), 5, 99)
    clear = rank_stability(np.tile([0.9, 0.5, 0.7], (5, 1)), weights)
    assert clear.shares == ((1, 0, 0), (0, 0, 1), (0, 1, 0))
    assert (clear.kendall, clear.same_order) == (1.0, 1.0)
    assert rank_stability(np.tile([0.9, 0.5], (5, 1)), weights, higher_is_better=False).shares == ((0, 1), (1, 0))
    equal = rank_stability(np.ones((5, 2)), weights)
    assert equal.shares == ((0.5, 0.5), (0.5, 0.5))
    assert math.isnan(equal.kendall)


# The comparison of a table.

METHODS = {"untrained": 0.5, "fedavg": 0.70, "fedprox": 0.71}


def table(cases: int = 14, seeds: Sequence[int] = (0, 1), methods: dict[str, float] = METHODS) -> pd.DataFrame:
    generator = rng(1)
    ease = generator.normal(0, 0.08, cases)
    rows = [
        {
            "method": method,
            "seed": seed,
            "site": "ct" if case % 2 else "mr",
            "case": str(case),
            "organ": organ,
            "protocol": "whole-volume",
            "dice": float(np.clip(level + ease[case] + generator.normal(0, 0.03), 0, 1)),
            "support_case": "s",
        }
        for method, level in methods.items()
        for seed, case, organ in product(seeds, range(cases), ("liver", "spleen"))
    ]
    return pd.DataFrame(rows)


def run(rows: pd.DataFrame, **options: object) -> Comparison:
    return compare(rows, rng(), **{"resamples": 499, **options})  # type: ignore[arg-type]


def said(found: Comparison) -> str:
    return " ".join(found.cautions)


def test_comparison_of_a_whole_table() -> None:
    rows = table()
    found = run(rows, margin=0.05)
    by_case = rows.groupby(["method", "site", "case"])["dice"].mean().unstack("method")
    assert [result.method for result in found.methods] == list(METHODS)
    for result in found.methods:
        assert result.mean == pytest.approx(by_case[result.method].mean())
        assert result.mean in result.interval
        assert (result.cases, result.seeds) == (14, 2)
    assert [(pair.first, pair.second) for pair in found.pairs] == list(combinations(METHODS, 2))
    clear, close = found.pairs[0], found.pairs[2]
    difference = by_case["untrained"] - by_case["fedavg"]
    assert clear.difference == pytest.approx(difference.mean())
    assert clear.p_cases == stats.wilcoxon(difference).pvalue
    assert clear.p == max(clear.p_cases, clear.p_seeds)
    assert clear.significant
    assert 0 not in clear.interval
    assert (clear.wins, clear.losses, clear.ties, clear.rank_biserial) == (0, 14, 0, -1.0)
    assert clear.dz == pytest.approx(difference.mean() / difference.std())
    assert clear.equivalence is not None
    assert not clear.equivalence.equivalent
    assert close.equivalence is not None
    assert close.equivalence.equivalent
    assert close.equivalence.interval.confidence == pytest.approx(0.9)
    assert [pair.p_adjusted for pair in found.pairs] == holm([pair.p for pair in found.pairs])
    assert found.omnibus == friedman(by_case[list(METHODS)].to_numpy())
    assert found.ranks is not None
    assert found.ranks.shares[0] == (0.0, 0.0, 1.0)
    assert (found.cases, found.protocol, found.better) == (14, "whole-volume", "higher")
    assert found.missing == Missing(0, 28, 0, 14, dict.fromkeys(METHODS, 0))
    assert found.cautions == (
        "Two seeds of untrained, fedavg, fedprox: their spread is hardly known, and intervals may be too narrow.",
    )


def test_order_of_rows_does_not_matter_and_the_seed_does_all() -> None:
    rows = table()
    found = run(rows, methods=list(METHODS))
    assert run(rows.sample(frac=1, random_state=3), methods=list(METHODS)) == found
    again = compare(rows, rng(1), resamples=499)
    assert again.methods[0].mean == found.methods[0].mean
    assert again.methods[0].interval != found.methods[0].interval


def test_equivalence_of_statsmodels() -> None:
    """ttost_paired of statsmodels 0.15.0 has p 0.01005 at a margin of 0.03 and p 0.10732 at 0.02, on DIFFERENCES."""
    found = interval(rng(), DIFFERENCES, method="t", confidence=0.9)
    assert found.low > -0.03
    assert found.high < 0.03
    assert found.high > 0.02
    for margin, p in ((0.03, 0.010048598011146902), (0.02, 0.10731973131460376)):
        touching = interval(rng(), DIFFERENCES, method="t", confidence=1 - 2 * p)
        assert touching.high == pytest.approx(margin)


def test_omnibus_test_comes_first() -> None:
    cells = cells_of({"a": np.linspace(0.5, 0.8, 10)[None], "b": np.linspace(0.4, 0.7, 10)[None]})
    draws = Draws(draw(rng(), 10, 99), rng())
    doubtful = replace(friedman(rng().random((10, 3))), p=0.2)
    for omnibus, expected in ((None, True), (replace(doubtful, p=0.05), True), (doubtful, False)):
        (pair,) = compare_pairs(cells, [("a", "b")], draws, higher_is_better=True, alpha=0.05, omnibus=omnibus)
        assert pair.significant is expected


def test_p_is_the_larger_of_both() -> None:
    """One lucky network of three wins every case on average, yet says little about the method."""
    generator = rng(2)
    luck = np.array([[0.09], [0.0], [0.0]])
    cells = cells_of({"a": 0.7 + luck + generator.normal(0, 0.005, (3, 12)), "b": np.full((3, 12), 0.7)})
    (pair,) = compare_pairs(
        cells, [("a", "b")], Draws(draw(generator, 12, 99), generator), higher_is_better=True, alpha=0.05
    )
    assert pair.wins == 12
    assert pair.p_cases < 0.001
    assert pair.p == pair.p_seeds > 0.1
    assert not pair.significant
    assert 0 in pair.interval


def test_missing_cells_are_left_out_for_all_and_said() -> None:
    rows = table()
    liver_of_3 = (rows["case"] == "3") & (rows["organ"] == "liver")
    lost = rows[~((rows["method"] == "fedavg") & liver_of_3 & (rows["seed"] == 1))].copy()
    lost.loc[(lost["method"] == "fedprox") & (lost["case"] == "5"), "dice"] = np.nan
    lost.loc[(lost["case"] == "7") & (lost["organ"] == "spleen"), "dice"] = np.nan  # nobody's: no loss
    found = run(lost)
    kept = rows[~liver_of_3 & (rows["case"] != "5") & ~((rows["case"] == "7") & (rows["organ"] == "spleen"))]
    assert found.methods == run(kept).methods
    assert found.missing == Missing(3, 27, 1, 14, {"untrained": 0, "fedavg": 1, "fedprox": 2})
    assert found.cases == 13
    assert "3 of 27 scores" in said(found)
    assert "(fedavg 1, fedprox 2); 1 of 14 cases left out altogether" in said(found)
    assert "different organs" in said(found)


def test_organs_are_averaged_within_a_case() -> None:
    """A case with many organs weighs no more than one with a single organ."""
    base = {"seed": 0, "site": "a", "protocol": "whole-volume"}
    rows = [base | {"method": "m", "case": "1", "organ": str(i), "dice": 0.9} for i in range(9)]
    rows.append(base | {"method": "m", "case": "2", "organ": "0", "dice": 0.5})
    assert run(pd.DataFrame(rows)).methods[0].mean == pytest.approx(0.7)


def test_equal_case_names_of_two_sites_are_two_cases() -> None:
    rows = table(cases=8)
    rows["case"] = "x" + (rows["case"].astype(int) // 2).astype(str)
    assert run(rows).cases == 8


def test_support_cases_are_averaged_and_said() -> None:
    rows = table()
    other = rows.assign(support_case="t", dice=rows["dice"] - 0.1)
    found = run(pd.concat([rows, other]))
    assert found.methods[1].mean == pytest.approx(run(rows).methods[1].mean - 0.05)
    assert "Up to 2 support cases" in said(found)
    assert "given different support cases" not in said(found)
    partly = run(pd.concat([rows, other[other["method"] == "fedavg"]]))
    assert "given different support cases" in said(partly)


def test_methods_with_different_seeds() -> None:
    rows = table(seeds=(0, 1, 2))
    found = run(rows[(rows["method"] != "untrained") | (rows["seed"] == 0)])
    assert [result.seeds for result in found.methods] == [1, 3, 3]
    assert "One seed of untrained" in said(found)
    assert "taken to vary independently" in said(found)
    assert found.pairs[0].p_seeds >= 0
    single = run(rows[rows["seed"] == 0])
    assert all(math.isnan(pair.p_seeds) and pair.p == pair.p_cases for pair in single.pairs)


def test_lower_is_better_for_distances() -> None:
    rows = table().rename(columns={"dice": "hd95"})
    found = run(rows, metric="hd95")
    assert (found.better, found.pairs[0].wins, found.pairs[0].losses) == ("lower", 14, 0)
    assert found.ranks is not None
    assert found.ranks.shares[0][0] == 1.0


def test_signed_errors_are_judged_by_their_size() -> None:
    rows = table(methods={"a": 0.1, "b": 0.5}).rename(columns={"dice": "relative_volume_error"})
    rows.loc[rows["method"] == "b", "relative_volume_error"] *= -1
    found = run(rows, metric="relative_volume_error")
    assert found.methods[1].mean > 0.4
    assert found.pairs[0].wins == 14


def test_infinite_distances_need_a_stand_in() -> None:
    rows = table().rename(columns={"dice": "hd95"})
    rows.loc[0, "hd95"] = math.inf
    with pytest.raises(FedCoWProError, match="1 infinite values of hd95"):
        run(rows, metric="hd95")
    filled = rows.replace(math.inf, 500.0)
    assert run(rows, metric="hd95", infinite=500.0) == run(filled, metric="hd95")


def test_intervals_of_methods_keep_to_the_metrics_range() -> None:
    rows = table(methods={"m": 0.995})
    assert run(rows).methods[0].interval.high <= 1.0
    other = run(rows.rename(columns={"dice": "score"}), metric="score", better="higher")
    assert other.methods[0].interval.low == run(rows).methods[0].interval.low


def test_reference_against_the_others() -> None:
    found = run(table(), reference="fedavg")
    assert [(pair.first, pair.second) for pair in found.pairs] == [("fedavg", "untrained"), ("fedavg", "fedprox")]
    assert [pair.p_adjusted for pair in found.pairs] == holm([pair.p for pair in found.pairs])


def test_cautions_about_few_cases() -> None:
    found = run(table(cases=5))
    assert "5 cases: even if one method won every case, no pair could become significant at 0.05" in said(found)
    assert "3 pairs; that takes 7 cases" in said(found)
    assert "rough below 12 cases" in said(found)
    assert not any(pair.significant for pair in found.pairs)
    one = run(table(cases=1))
    assert "A single case gives no interval." in found.cautions + one.cautions
    assert math.isnan(one.methods[0].interval.low)
    assert one.omnibus is None
    assert one.pairs[0].p == 1.0


def test_equal_methods() -> None:
    rows = table(methods={"a": 0.7})
    found = run(pd.concat([rows, rows.assign(method="b")]))
    (pair,) = found.pairs
    assert (pair.difference, pair.p, pair.rank_biserial, pair.ties, pair.test) == (0.0, 1.0, 0.0, 14, "sign test")
    assert (pair.interval.low, pair.interval.high) == (0.0, 0.0)
    assert not pair.significant
    assert found.omnibus is None


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda rows: rows.drop(columns="organ"), {}, "without column organ"),
        (lambda rows: rows, {"metric": "nsd"}, "without column nsd"),
        (lambda rows: rows.assign(score=1.0), {"metric": "score"}, "say which values are `better`"),
        (lambda rows: pd.concat([rows, rows.assign(protocol="gt-range")]), {}, "one protocol of the table"),
        (lambda rows: rows, {"protocol": "gt-range"}, "protocol gt-range of a table with whole-volume"),
        (lambda rows: rows.iloc[:0], {}, "no rows"),
        (lambda rows: rows, {"methods": ["fedavg", "fedsgd"]}, "'fedsgd'"),
        (lambda rows: rows, {"reference": "fedsgd"}, "reference 'fedsgd'"),
        (lambda rows: pd.concat([rows, rows.iloc[:1]]), {}, "two rows of method untrained, seed 0"),
        (lambda rows: rows.assign(dice="good"), {}, "dice 'good'"),
        (lambda rows: rows.assign(case=rows["method"] + rows["case"]), {}, "no case and organ that all methods have"),
        (lambda rows: rows, {"margin": 0.0}, "a margin of 0.0"),
        (lambda rows: rows, {"alpha": 0.05, "resamples": 20}, "beyond each end"),
    ],
)
def test_mistakes_with_tables_are_named(
    change: Callable[[pd.DataFrame], pd.DataFrame], options: dict[str, object], message: str
) -> None:
    with pytest.raises(FedCoWProError, match=message):
        run(change(table(cases=3)), **options)


def test_collected_values_lie_where_they_belong() -> None:
    rows = table(cases=4, seeds=(5, 3))
    cells = collect(rows, "dice", methods=["fedprox", "untrained"])
    assert cells.cases == (("ct", "1"), ("ct", "3"), ("mr", "0"), ("mr", "2"))
    assert list(cells.values) == ["fedprox", "untrained"]
    assert cells.seeds["fedprox"] == (3, 5)
    one = rows[(rows["method"] == "fedprox") & (rows["seed"] == 5) & (rows["case"] == "3")]
    assert cells.values["fedprox"][1, 1] == pytest.approx(one["dice"].mean())


def test_limits_of_agreement_are_bland_and_altmans() -> None:
    from fedcowpro.evaluation.statistics.agreement import agreement, volume_differences

    found, true = np.array([90.0, 110.0, 0.0, 130.0]), np.array([100.0, 100.0, 100.0, 100.0])
    differences = volume_differences((found - true) / true)
    np.testing.assert_allclose(differences, 100 * (found - true) / ((found + true) / 2))
    assert differences[2] == -200
    one = agreement(differences)
    assert one.bias == pytest.approx(differences.mean())
    half = 1.96 * np.std(differences, ddof=1)
    assert (one.low, one.high) == pytest.approx((one.bias - half, one.bias + half))
    assert np.isnan(agreement(differences[:2]).low)


def test_two_cases_have_no_interval_but_are_shown() -> None:
    rows = [
        {"method": method, "seed": 0, "site": "a", "case": case, "organ": "liver", "protocol": "gt-range", "dice": dice,
         "support_case": "s", "support_site": "a", "support_slices": "3"}
        for method, scores in (("one", (0.4, 0.6)), ("two", (0.5, 0.9)))
        for case, dice in zip("pq", scores, strict=True)
    ]  # fmt: skip
    found = compare(pd.DataFrame(rows), np.random.default_rng(0), reference="one")
    assert all(np.isnan(one.interval.low) and np.isnan(one.interval.high) for one in found.methods)
    assert [one.points for one in found.methods] == [pytest.approx((0.4, 0.6)), pytest.approx((0.5, 0.9))]
    (pair,) = found.pairs
    assert pair.points == pytest.approx((-0.1, -0.3))
    assert written(found.methods[1].interval, points=found.methods[1].points) == "0.500 and 0.900"
