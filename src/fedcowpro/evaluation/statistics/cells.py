"""From a table of scores to what can be compared: the same cases for every method, one value per seed and case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedcowpro.core.errors import FedCoWProError

KEYS = ("method", "seed", "site", "case", "organ", "protocol")
CELL = ["site", "case", "organ"]


@dataclass(frozen=True)
class Missing:
    """What was left out so that every method is judged on the same cells; a cell is an organ of a case.

    Attributes:
        cells: cells that at least one method has and at least one lacks, for some seed; they are left out for all.
        of_cells: cells that at least one method has.
        cases: cases that lost all their cells and so are not compared at all.
        of_cases: cases that at least one method has.
        by_method: per method, how many of `of_cells` it lacks.
    """

    cells: int
    of_cells: int
    cases: int
    of_cases: int
    by_method: Mapping[str, int]


@dataclass(frozen=True)
class Cells:
    """Scores of methods on their common cases; the organs of a case are averaged, as the case is the unit.

    Attributes:
        protocol: the protocol of all of them.
        cases: (site, case) in order.
        seeds: per method, its seeds in order.
        values: per method, (seeds, cases).
        missing: what was left out.
        same_organs: whether each case has the same organs.
        supports: most support cases that were averaged into one value.
        same_supports: whether all methods and seeds had the same support cases, as far as the table says.
    """

    protocol: str
    cases: tuple[tuple[str, str], ...]
    seeds: Mapping[str, tuple[int, ...]]
    values: Mapping[str, npt.NDArray[np.float64]]
    missing: Missing
    same_organs: bool
    supports: int
    same_supports: bool


def collect(
    table: pd.DataFrame,
    metric: str,
    *,
    protocol: str | None = None,
    methods: Sequence[str] | None = None,
    magnitude: bool = False,
    infinite: float | None = None,
) -> Cells:
    """The common cells of a table of scores.

    Rows that differ in `support_case` only are averaged. A value of NaN is as good as no row.

    Args:
        table: one row per score, with the columns `KEYS` and `metric`; a column `support_case` is optional.
        metric: column of values.
        protocol: rows to use; needed when the table has several.
        methods: which, in this order; all in order of appearance when None.
        magnitude: take the values without their sign.
        infinite: what stands for an infinite value.

    Raises:
        FedCoWProError: a column, protocol or method is missing; a score occurs twice; values that are infinite without
            a stand-in, or no numbers; no cell that all methods have.
    """
    rows = _rows(table, metric, protocol, methods)
    values = pd.to_numeric(rows[metric], errors="coerce").astype(float)
    if (unreadable := values.isna() & rows[metric].notna()).any():
        found = rows[metric][unreadable].iloc[0]
        raise FedCoWProError(f"{metric} '{found}'", "numbers", "correct the table")
    if np.isinf(values).any() and infinite is None:
        raise FedCoWProError(
            f"{int(np.isinf(values).sum())} infinite values of {metric}",
            "finite values: a mean with an infinite one says nothing",
            "give `infinite`, such as the diagonal of the volumes in mm for a missed organ",
        )
    values = values.mask(np.isinf(values), infinite)
    rows = rows.assign(value=values.abs() if magnitude else values)
    grouped = rows.groupby(["method", "seed", *CELL], sort=True)["value"]
    # One undefined support makes the mean over supports undefined: methods are compared on the same supports.
    wide = grouped.mean().where(grouped.count() == grouped.size()).unstack(["method", "seed"])
    names = list(dict.fromkeys(rows["method"])) if methods is None else list(methods)
    present = pd.DataFrame({name: wide[name].notna().all(axis=1) for name in names})
    some = pd.DataFrame({name: wide[name].notna().any(axis=1) for name in names}).any(axis=1)
    common = present.all(axis=1)
    if not common.any():
        lacking = {name: int((some & ~present[name]).sum()) for name in names}
        raise FedCoWProError(
            f"no case and organ that all methods have, of {int(some.sum())}; lacking: {lacking}",
            "scores of the same cases",
            "score all methods on the same cases, or leave out the method that has none of them",
        )
    by_case = wide[common].groupby(level=["site", "case"]).mean()
    organs = wide[common].reset_index().groupby(["site", "case"])["organ"].agg(frozenset)
    of_cases = len(some[some].groupby(level=["site", "case"]).size())
    return Cells(
        protocol=str(rows["protocol"].iloc[0]),
        cases=tuple((str(site), str(case)) for site, case in by_case.index),
        seeds={name: tuple(int(seed) for seed in sorted(wide[name].columns)) for name in names},
        values={name: by_case[name].sort_index(axis=1).to_numpy(dtype=np.float64).T for name in names},
        missing=Missing(
            cells=int((some & ~common).sum()),
            of_cells=int(some.sum()),
            cases=of_cases - len(by_case),
            of_cases=of_cases,
            by_method={name: int((some & ~present[name]).sum()) for name in names},
        ),
        same_organs=organs.nunique() == 1,
        supports=int(grouped.size().max()),
        same_supports=_same_supports(rows, common),
    )


def _same_supports(rows: pd.DataFrame, common: pd.Series) -> bool:
    if "support_case" not in rows.columns:
        return True
    runs = rows.groupby([*CELL, "support_case"]).size().reset_index(name="runs").set_index(CELL)
    used = runs.loc[runs.index.isin(common[common].index), "runs"]
    return bool((used == len(rows.groupby(["method", "seed"]).size())).all())


def _rows(table: pd.DataFrame, metric: str, protocol: str | None, methods: Sequence[str] | None) -> pd.DataFrame:
    """The rows of one protocol and of the wanted methods, each score once."""
    if missing := [column for column in (*KEYS, metric) if column not in table.columns]:
        raise FedCoWProError(
            f"a table without column {', '.join(missing)}",
            f"columns {', '.join((*KEYS, metric))}",
            "run the evaluation again",
        )
    protocols = sorted(map(str, table["protocol"].unique()))
    if protocol is None and len(protocols) == 1:
        protocol = protocols[0]
    if protocol not in protocols:
        raise FedCoWProError(
            f"protocol {protocol} of a table with {', '.join(protocols) or 'no rows'}",
            "one protocol of the table",
            "name one: scores of different protocols are not comparable",
        )
    rows = table[table["protocol"] == protocol]
    if methods is not None:
        known = set(rows["method"])
        if absent := [name for name in methods if name not in known]:
            raise FedCoWProError(
                f"method '{absent[0]}'", f"one of {', '.join(sorted(known))}", "correct the name, or evaluate it"
            )
        rows = rows[rows["method"].isin(methods)]
    keys = [*KEYS, *(["support_case"] if "support_case" in rows.columns else [])]
    if (twice := rows.duplicated(keys)).any():
        example = rows[twice].iloc[0]
        raise FedCoWProError(
            f"two rows of {', '.join(f'{key} {example[key]}' for key in keys)}",
            "one score each",
            "compare settings one at a time, or give each its own method name",
        )
    return rows
