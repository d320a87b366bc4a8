"""Measured by simulation: 95 % intervals hold the true value about that often, and equal methods stay equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from fedcowpro.evaluation.statistics.bootstrap import crossed_interval, draw
from fedcowpro.evaluation.statistics.cells import Cells, Missing
from fedcowpro.evaluation.statistics.hypotheses import friedman
from fedcowpro.evaluation.statistics.intervals import Draws, student, studentised
from fedcowpro.evaluation.statistics.pairs import compare_pairs
from fedcowpro.evaluation.statistics.standard_error import Array, estimate, p_value

# Data sets of a chunk share their resamples of cases: fast, and each keeps the same chance of being held.
REPEATS, CHUNK, RESAMPLES = 2000, 250, 999
Limits = Callable[[Array, np.random.Generator], tuple[Array, Array]]


def normal(generator: np.random.Generator, n: int) -> tuple[Array, float]:
    return generator.normal(0.03, 0.05, (CHUNK, 1, n)), 0.03


def dice_difference(generator: np.random.Generator, n: int) -> tuple[Array, float]:
    """Dice of two methods on cases of one difficulty: Beta around 0.15 + 0.8 d and 0.1 + 0.8 d."""
    easy = 0.8 * generator.beta(6, 2, (CHUNK, 1, n))
    first, second = (generator.beta(20 * (low + easy), 20 * (1 - low - easy)) for low in (0.15, 0.1))
    return first - second, 0.05


def dice(generator: np.random.Generator, n: int) -> tuple[Array, float]:
    """Dice of one method: near its upper end, with a tail of poor cases."""
    return generator.beta(8, 1.5, (CHUNK, 1, n)), 8 / 9.5


def coverage(sample: Callable[[np.random.Generator, int], tuple[Array, float]], n: int, limits: Limits) -> float:
    generator, held = np.random.default_rng(n), []
    for _ in range(REPEATS // CHUNK):
        values, true = sample(generator, n)
        low, high = limits(values, generator)
        held.append((low <= true) & (true <= high))
    return float(np.mean(held))


def by_studentised(values: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    low, high, served = studentised(estimate([values]), draw(generator, values.shape[-1], RESAMPLES), 0.95)
    assert served.all()
    return low, high


def by_scipy(values: Array, generator: np.random.Generator, method: str) -> tuple[Array, Array]:
    """Of 100 data sets of a chunk, because each draws resamples of its own."""
    low, high = np.transpose([crossed_interval([one], generator, RESAMPLES, 0.95, method) for one in values[:100]])
    return low, high


by_percentile, by_bca = partial(by_scipy, method="percentile"), partial(by_scipy, method="BCa")


@pytest.mark.parametrize(("sample", "n"), [*product((normal, dice_difference, dice), (12, 20, 50))])
def test_studentised_intervals_cover(sample: Callable[..., tuple[Array, float]], n: int) -> None:
    assert 0.93 <= coverage(sample, n, by_studentised) <= 0.97


@pytest.mark.parametrize("limits", [by_percentile, by_bca], ids=["percentile", "bca"])
def test_percentile_and_bca_intervals_fall_short_with_few_cases(limits: Limits) -> None:
    """Which is why they are not the default."""
    assert coverage(normal, 12, limits) < 0.93


def crossed(generator: np.random.Generator, seeds: int, n: int, of_seeds: float) -> Array:
    """Cases vary by 1, each cell by 0.3; the mean is 0."""
    cases = generator.normal(0, 1, (CHUNK, 1, n)) + generator.normal(0, of_seeds, (CHUNK, seeds, 1))
    return cases + generator.normal(0, 0.3, (CHUNK, seeds, n))


@pytest.mark.parametrize(("seeds", "n", "of_seeds"), [(3, 12, 0.0), (3, 12, 0.3), (5, 20, 0.3), (5, 30, 1.0)])
def test_intervals_over_seeds_and_cases_cover(seeds: int, n: int, of_seeds: float) -> None:
    found = coverage(lambda generator, n: (crossed(generator, seeds, n, of_seeds), 0.0), n, by_studentised)
    assert 0.93 <= found <= 0.97


@pytest.mark.slow
def test_intervals_that_forget_the_seeds_fall_short() -> None:
    def over_cases(values: Array, generator: np.random.Generator) -> tuple[Array, Array]:
        return student(estimate([values.mean(axis=1, keepdims=True)]), 0.95)

    def sample(generator: np.random.Generator, n: int) -> tuple[Array, float]:
        return crossed(generator, 3, n, 0.3), 0.0

    assert coverage(sample, 30, over_cases) < 0.9
    assert coverage(sample, 30, by_percentile) < 0.93
    assert coverage(sample, 30, by_bca) < 0.93
    assert coverage(sample, 30, by_studentised) > 0.93


def test_intervals_for_methods_with_different_seeds_cover() -> None:
    generator, held = np.random.default_rng(5), []
    for _ in range(REPEATS // CHUNK):
        cases = generator.normal(0.7, 0.1, (CHUNK, 1, 15))
        several = cases + generator.normal(0.05, 0.03, (CHUNK, 4, 1)) + generator.normal(0, 0.05, (CHUNK, 4, 15))
        single = cases + generator.normal(0, 0.05, (CHUNK, 1, 15))
        low, high, _ = studentised(estimate([several, -single]), draw(generator, 15, RESAMPLES), 0.95)
        held.append((low <= 0.05) & (low < high) & (high >= 0.05))
    assert 0.93 <= np.mean(held) <= 0.97


def cells_of(values: dict[str, Array]) -> Cells:
    n = next(iter(values.values())).shape[1]
    seeds = {name: tuple(range(len(array))) for name, array in values.items()}
    nothing = Missing(0, n, 0, n, dict.fromkeys(values, 0))
    return Cells("whole-volume", tuple(("a", str(i)) for i in range(n)), seeds, values, nothing, True, 1, True)


def finds_something(scores: Array) -> bool:
    """Whether any pair of methods, scores (cases, methods), comes out as significant."""
    omnibus = friedman(scores)
    if omnibus.p > 0.05:  # no pair is significant then (test_statistics.py: test_omnibus_test_comes_first)
        return False
    cells = cells_of({str(i): column[None] for i, column in enumerate(scores.T)})
    pairs = list(combinations(cells.values, 2))
    draws = Draws(np.ones((39, len(scores))), np.random.default_rng(0))
    found = compare_pairs(cells, pairs, draws, higher_is_better=True, alpha=0.05, omnibus=omnibus)
    return any(pair.significant for pair in found)


@pytest.mark.parametrize(("n", "repeats"), [(12, 1000), (30, 500)])
def test_equal_methods_are_told_apart_in_at_most_one_of_twenty_comparisons(n: int, repeats: int) -> None:
    generator = np.random.default_rng(n)
    scores = generator.beta(8, 2, (repeats, n, 1)) + generator.normal(0, 0.03, (repeats, n, 4))
    rate = np.mean([finds_something(one) for one in scores])
    assert 0.015 < rate < 0.05 + 2 * math.sqrt(0.05 * 0.95 / repeats)


def test_a_better_method_is_found() -> None:
    generator = np.random.default_rng(3)
    scores = generator.beta(8, 2, (60, 20, 1)) + generator.normal(0, 0.03, (60, 20, 4)) + [0, 0, 0, 0.04]
    assert np.mean([finds_something(one) for one in scores]) > 0.9


@pytest.mark.parametrize(
    ("seeds", "n", "of_cases", "of_seeds"), [(3, 12, 0.3, 1.0), (3, 30, 0.3, 0.5), (3, 30, 1.0, 1.0), (5, 30, 1.0, 0.5)]
)
def test_p_over_seeds_and_cases_errs_no_more_often_than_it_says(
    seeds: int, n: int, of_cases: float, of_seeds: float
) -> None:
    """Also at a third and a tenth of 5 %, where corrections look; networks differ by as much as a cell's noise."""
    repeats, generator = 6000, np.random.default_rng([seeds, n])
    values = generator.normal(0, 1, (repeats, seeds, n)) + generator.normal(0, of_cases, (repeats, 1, n))
    found = estimate([values + generator.normal(0, of_seeds, (repeats, seeds, 1))])
    p, plain = p_value(found), 2 * stats.t.sf(np.abs(found.mean) / found.error, found.freedom)
    for level in (0.05, 0.05 / 3, 0.005):
        limit = level + 2.5 * math.sqrt(level * (1 - level) / repeats)
        assert 0.2 * level < (p <= level).mean() < limit
    if seeds == 3:  # what Satterthwaite's degrees of freedom alone would give
        assert (plain <= 0.005).mean() > 0.01


def test_a_difference_above_the_luck_of_networks_is_found() -> None:
    generator, repeats = np.random.default_rng(8), 1000
    values = 0.08 + generator.normal(0, 0.01, (repeats, 3, 1)) + generator.normal(0, 0.03, (repeats, 3, 12))
    assert (p_value(estimate([values])) <= 0.05 / 3).mean() > 0.8


def test_luck_with_seeds_does_not_pass_for_a_difference() -> None:
    """Two equal methods, three networks each; the test over cases alone takes the networks' luck for skill."""
    generator, repeats, n = np.random.default_rng(4), 2000, 20
    luck = generator.normal(0, 0.02, (repeats, 3, 1))
    difference = luck + generator.normal(0, 0.05, (repeats, 1, n)) + generator.normal(0, 0.03, (repeats, 3, n))
    over_cases = stats.wilcoxon(difference.mean(axis=1), axis=1).pvalue
    both = np.maximum(over_cases, p_value(estimate([difference])))
    assert (over_cases <= 0.05).mean() > 0.08
    assert 0.01 < (both <= 0.05).mean() < 0.05
