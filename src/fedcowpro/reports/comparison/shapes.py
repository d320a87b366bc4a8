"""Sections on how scores spread: every case, the stability of the ranking, and sites that support each other."""

from __future__ import annotations

import math
from functools import partial

import pandas as pd

from fedcowpro.evaluation.statistics.compare import Comparison
from fedcowpro.evaluation.statistics.standard_error import Array
from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.charts import rank_shares, spread
from fedcowpro.reports.comparison.comparable import SUPPORT
from fedcowpro.reports.comparison.evidence import Evidence
from fedcowpro.reports.comparison.figures import percent
from fedcowpro.reports.comparison.judge import MAIN, Judge, strata, stratum_name
from fedcowpro.reports.toolkit.blocks import Cell, Chart, Grid, Section, Text, Value, columns
from fedcowpro.reports.toolkit.html import MISSING, number

_PAIR = ["support_site", "site"]


def distributions(evidence: Evidence, judge: Judge) -> Section | None:
    """A chart per site: every case of every organ and method."""
    rows = evidence.rows[evidence.rows["protocol"] == evidence.protocol]
    groups, blocks = strata(rows), list[Chart]()
    table: list[tuple[Cell, ...]] = []
    for site, modality, part in groups:
        scores: dict[str, dict[str, Array]] = {}
        for organ, of_organ in part.groupby("organ", sort=True):
            if (cells := judge.cells(of_organ, MAIN)) is not None:
                scores[str(organ)] = dict(cells.values)
        if not scores:
            continue
        name = stratum_name(site, modality, groups)
        alt = f"Site {name}: Dice of every case for each organ and method, with the median; numbers in the table below"
        title = f"Site {name}" + (f", {modality}" if modality and name == site else "")
        blocks.append(Chart(partial(spread, scores, evidence.methods, title), alt))
        table += [(name, organ, *_quartiles(of, evidence.methods)) for organ, of in scores.items()]
    if not blocks:
        return None
    note = Text(wording.SPREAD.format(protocol=evidence.protocol))
    grids = columns(("Site", "Organ", *evidence.methods), table, 2, words=2)
    return Section("Every case", (note, *blocks, Text("Median, with the quartiles below:", "note"), *grids))


def _quartiles(of: dict[str, Array], methods: tuple[str, ...]) -> list[Cell]:
    cells: list[Cell] = []
    for method in methods:
        if method not in of:
            cells.append(MISSING)
            continue
        low, middle, high = pd.Series(of[method].mean(axis=0)).quantile([0.25, 0.5, 0.75])
        cells.append(Value(number(middle), f"{number(low)} to {number(high)}"))
    return cells


def ranks(comparison: Comparison | None) -> Section | None:
    """How stable the order of the methods is."""
    if comparison is None or comparison.ranks is None or comparison.cases < 2:
        return None
    found, names = comparison.ranks, [one.method for one in comparison.methods]
    head = ("Method", *(f"Rank {rank}" for rank in range(1, len(names) + 1)))
    table = tuple(
        (name, *(percent(share) for share in shares)) for name, shares in zip(names, found.shares, strict=True)
    )
    note = wording.RANKS.format(
        resamples=comparison.resamples,
        same=percent(found.same_order),
        tau=number(found.kendall, 2) if math.isfinite(found.kendall) else "not defined",
    )
    alt = "Share of draws in which each method has each rank, as the area of a square"
    return Section(
        "Stability of the ranking",
        (Text(note), Chart(partial(rank_shares, found.shares, names), alt), Grid(head, table)),
    )


def crossing(evidence: Evidence) -> Section | None:
    """Mean Dice per site of the support and site of the query, for each method."""
    rows = evidence.crossed[evidence.crossed["protocol"] == evidence.protocol]
    if rows[_PAIR].drop_duplicates().groupby("site").size().max() < 2:
        return None
    queries = sorted(rows["site"].unique())
    supports = [*queries, *sorted(set(rows["support_site"]) - set(queries))]
    table: list[tuple[Cell, ...]] = []
    for method in evidence.methods:
        mine = rows[rows["method"] == method]
        found = {query: _column(mine[mine["site"] == query]) for query in queries}
        for support in supports:
            if any(support in column for column in found.values()):
                table.append((method, support, *(found[query].get(support, MISSING) for query in queries)))
    head = ("Method", "Support from", *(f"cases of {query}" for query in queries))
    note = Text(wording.CROSS.format(protocol=evidence.protocol))
    return Section("Sites that support each other", (note, *columns(head, table, 2, words=2)))


def _column(rows: pd.DataFrame) -> dict[str, Cell]:
    """Support site -> mean over the cases and organs that all support sites of the column have with every seed."""
    keys = ["case", "organ"]
    by_cell = rows.groupby([*keys, "support_site", *SUPPORT[1:], "seed"])[MAIN].mean()
    wide = by_cell.groupby(level=[*keys, "support_site", "seed"]).mean().unstack(["support_site", "seed"])
    common = wide.dropna()
    if common.empty:
        return {}
    by_case = common.groupby(level="case").mean().T.groupby(level="support_site").mean().T
    return {str(site): Value(number(float(by_case[site].mean())), f"n = {len(by_case)}") for site in by_case.columns}
