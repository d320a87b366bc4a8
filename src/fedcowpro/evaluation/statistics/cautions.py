"""Sentences that say how far a comparison carries."""

from __future__ import annotations

from fedcowpro.evaluation.statistics.cells import Cells
from fedcowpro.evaluation.statistics.hypotheses import fewest_cases

CHECKED_CASES = 12  # the intervals' coverage was measured from here on (tests/evaluation/test_coverage.py)
CHECKED_SEEDS = 3


def cautions(cells: Cells, pairs: int, alpha: float) -> tuple[str, ...]:
    """What a reader must know beside the numbers.

    Args:
        cells: what was compared.
        pairs: how many pairs were tested.
        alpha: level of the tests.
    """
    n, said = len(cells.cases), []
    if pairs and n < (needed := fewest_cases(pairs, alpha)):
        said.append(
            f"{_count(n, 'case')}: even if one method won every case, no pair could become significant at {alpha:g} "
            f"after correction for {_count(pairs, 'pair')}; that takes {needed} cases."
        )
    if n < 2:
        said.append("A single case gives no interval.")
    elif n < CHECKED_CASES:
        said.append(
            f"{n} cases: intervals are rough below {CHECKED_CASES} cases, the fewest with which their coverage was "
            "checked."
        )
    seeds = {name: len(values) for name, values in cells.values.items()}
    if single := [name for name, count in seeds.items() if count == 1]:
        said.append(
            f"One seed of {', '.join(single)}: the results hold for these trained networks; how much another training "
            "would differ is not known."
        )
    if few := [name for name, count in seeds.items() if 1 < count < CHECKED_SEEDS]:
        said.append(f"Two seeds of {', '.join(few)}: their spread is hardly known, and intervals may be too narrow.")
    if len(set(cells.seeds.values())) > 1:
        said.append("Methods have different seeds, which are taken to vary independently.")
    if cells.missing.cells:
        lacking = ", ".join(f"{name} {count}" for name, count in cells.missing.by_method.items() if count)
        said.append(
            f"{cells.missing.cells} of {_count(cells.missing.of_cells, 'score')} per case and organ left out for all "
            f"methods because one lacks them ({lacking}); {cells.missing.cases} of "
            f"{_count(cells.missing.of_cases, 'case')} left out altogether."
        )
    if not cells.same_organs:
        said.append("Cases have different organs; a case counts with the mean of those that it has.")
    if cells.supports > 1:
        said.append(f"Up to {cells.supports} support cases are averaged; intervals take them as given.")
    if not cells.same_supports:
        said.append("Methods or seeds were given different support cases, which is part of any difference.")
    return tuple(said)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
