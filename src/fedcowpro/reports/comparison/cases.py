"""The best, the median and the worst case of each method, chosen by the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fedcowpro.evaluation.statistics.cells import Cells
from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.evidence import Evidence
from fedcowpro.reports.comparison.judge import MAIN, Judge
from fedcowpro.reports.toolkit.blocks import Block, Cell, Grid, Section, Text
from fedcowpro.reports.toolkit.html import number

WHICH = ("best", "median", "worst")


@dataclass(frozen=True)
class Pick:
    """A case of a method: which of `WHICH`, and its Dice, mean over organs and seeds."""

    method: str
    which: str
    site: str
    case: str
    dice: float


def picks(cells: Cells, method: str) -> list[Pick]:
    """Best, median (the lower of two) and worst case of a method; fewer where they are the same case."""
    scores = cells.values[method].mean(axis=0)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], cells.cases[i]))
    chosen = dict.fromkeys((order[0], order[len(order) // 2], order[-1]))
    names = WHICH if len(chosen) == 3 else (("best", "worst") if len(chosen) == 2 else ("only",))
    return [Pick(method, which, *cells.cases[i], float(scores[i])) for which, i in zip(names, chosen, strict=True)]


def cases(evidence: Evidence, judge: Judge, pictures: Sequence[Block]) -> Section | None:
    """The cases of every method in a table, and pictures where there are any.

    Args:
        evidence, judge: what is compared and how.
        pictures: what stands below the table; empty = the page says why there are none.
    """
    rows = evidence.rows[evidence.rows["protocol"] == evidence.protocol]
    cells = judge.cells(rows, MAIN)
    if cells is None:
        return None
    table: list[tuple[Cell, ...]] = []
    for method in evidence.methods:
        for pick in picks(cells, method) if method in cells.values else []:
            mine = rows[(rows["method"] == method) & (rows["site"] == pick.site) & (rows["case"] == pick.case)]
            support = " and ".join(sorted(set(mine["support_site"] + "/" + mine["support_case"])))
            table.append((method, pick.which, pick.site, pick.case, number(pick.dice), _organs(mine), support))
    head = ("Method", "Which", "Site", "Case", "Dice", "Organs", "Annotated case")
    blocks: list[Block] = [
        Text(wording.CASES.format(protocol=evidence.protocol)),
        Grid(head, tuple(table), words=len(head)),
    ]
    blocks.append(Text(wording.IDS, "note"))
    blocks += pictures or [Text(wording.NO_PICTURES, "note")]
    return Section("Best, median and worst cases", tuple(blocks))


def _organs(rows: pd.DataFrame) -> str:
    means = rows.groupby("organ")[MAIN].mean()
    return ", ".join(f"{organ} {number(float(mean))}" for organ, mean in means.items())
