"""Section on the choice of the annotated case: what another example of the same site would have given."""

from __future__ import annotations

from functools import partial

import pandas as pd

from fedcowpro.reports.comparison import wording
from fedcowpro.reports.comparison.charts import spread
from fedcowpro.reports.comparison.evidence import Evidence
from fedcowpro.reports.comparison.judge import MAIN, strata, stratum_name
from fedcowpro.reports.toolkit.blocks import Block, Cell, Chart, Section, Text, Value, columns
from fedcowpro.reports.toolkit.html import MISSING, number


def supports(evidence: Evidence) -> Section | None:
    """Mean Dice per annotated case and its spread, where a site was scored with several; None where none was."""
    rows = evidence.rows[evidence.rows["protocol"] == evidence.protocol]
    groups = strata(rows)
    found: dict[str, pd.DataFrame] = {}
    for site, modality, part in groups:
        by_support = per_support(part)
        if len(by_support) > 1:
            found[stratum_name(site, modality, groups)] = by_support
    if not found:
        return None
    table: list[tuple[Cell, ...]] = []
    for name, by_support in found.items():
        # Seeds are averaged first, so that what is left is the example's part.
        means = by_support.T.groupby(level="method").mean().T
        cells = [_cell(means[method]) if method in means else MISSING for method in evidence.methods]
        table.append((name, str(len(means)), *cells))
    scores = {
        name: {
            method: by_support[method].to_numpy().T
            for method in evidence.methods
            if method in by_support.columns.get_level_values("method")
        }
        for name, by_support in found.items()
    }
    alt = "Mean Dice with each annotated case in turn, per site and method; numbers in the table below"
    chart = Chart(partial(spread, scores, evidence.methods, "Every annotated case"), alt)
    head = ("Site", "Annotated cases", *evidence.methods)
    blocks: list[Block] = [Text(wording.SUPPORTS.format(protocol=evidence.protocol)), chart]
    return Section("Choice of the annotated case", (*blocks, *columns(head, table, 2, 3)))


def per_support(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice of each annotated case over the cases and organs that all methods and seeds were scored on with it.

    Args:
        rows: of one protocol and site.

    Returns:
        Index: the annotated cases. Columns: (method, seed).
    """
    keys = ["support_case", "case", "organ"]
    wide = rows.groupby([*keys, "method", "seed"])[MAIN].mean().unstack(["method", "seed"]).dropna()
    return wide.groupby(level=keys[:2]).mean().groupby(level=keys[0]).mean().sort_index(axis=1)


def _cell(means: pd.Series) -> Value:
    low, high = means.idxmin(), means.idxmax()
    below = f"SD {number(float(means.std()))}; {number(means[low])} ({low}) to {number(means[high])} ({high})"
    return Value(number(float(means.mean())), below)
