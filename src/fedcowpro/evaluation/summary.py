"""Means of a results table: per case, per organ, per site.

A case's Dice is the mean over seeds and support cases; an organ's is the mean over its cases; a site's is the
mean over its organs, so that a frequent organ weighs no more than a rare one. Undefined values (NaN) are left
out of every mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.protocol import COLUMNS

BEFORE, AFTER = "untrained", "fedcowpro"
LOSS_TERMS = ("total", "cross_entropy", "alignment", "spatial_dice", "edge_dice", "tversky", "proximal")
TRAFFIC = ("bytes_down", "bytes_up")
ROUND_VALUES = ("pseudo_dice", "update_norm", "update_cosine", "seconds", *TRAFFIC, "bytes_model")


def with_groups(results: pd.DataFrame) -> pd.DataFrame:
    """A copy with column `group`: what may be averaged together.

    A group is a site, or a site with the settings that differ within it ("ct, support_slices all"), so that
    scores of different settings are never mixed. Seeds and support cases are averaged, not told apart.

    Raises:
        FedCoWProError: a column is missing.
    """
    if missing := [column for column in COLUMNS if column not in results.columns]:
        raise FedCoWProError(
            f"results without column {', '.join(missing)}",
            f"columns {', '.join(COLUMNS)}",
            "run the evaluation again",
        )
    settings = ["support_slices", *(column for column in results.columns if column not in COLUMNS)]
    table = results.reset_index(drop=True).assign(group=results["site"].astype(str).to_numpy())
    for _, rows in table.groupby("site"):
        for setting in settings:
            if rows[setting].nunique(dropna=False) > 1:
                table.loc[rows.index, "group"] += f", {setting} " + rows[setting].astype(str)
    return table


def per_case(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Rows (group, organ, case), sorted, with columns `before` and `after`, NaN where there is no score."""
    chosen = table[table["protocol"] == protocol]
    means = chosen.groupby(["group", "organ", "case", "method"])["dice"].mean().unstack("method")
    pairs = means.reindex(columns=[BEFORE, AFTER]).set_axis(["before", "after"], axis=1).astype(float)
    return pairs.dropna(how="all").reset_index()


def by_organ(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Rows (group, organ) with mean `before` and `after` and the number of `cases` behind them."""
    grouped = per_case(table, protocol).groupby(["group", "organ"])
    return grouped[["before", "after"]].mean().assign(cases=grouped["case"].nunique()).reset_index()


def by_group(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Rows `group` with mean `before` and `after`, number of `cases` and `organs`, and of case-organ pairs.

    `pairs` counts those scored by both methods, `better` those of them whose Dice rose.
    """
    scores = per_case(table, protocol)
    both = scores.dropna()
    organs = by_organ(table, protocol).groupby("group")
    means = organs[["before", "after"]].mean()
    return means.assign(
        organs=organs["organ"].nunique(),
        cases=scores.groupby("group")["case"].nunique(),
        pairs=both.groupby("group").size().reindex(means.index, fill_value=0),
        better=(both["after"] > both["before"]).groupby(both["group"]).sum().reindex(means.index, fill_value=0),
    ).reset_index()


def share_of_model(rounds: pd.DataFrame) -> float:
    """Bytes of `rounds_table` sent and received, in units of what the model's tensors in full precision take each way.

    Only of rows that tell the latter; NaN where none does.
    """
    known = rounds[rounds["bytes_model"] > 0]
    return float(known[list(TRAFFIC)].sum().sum() / (2 * known["bytes_model"].sum())) if len(known) else math.nan


def rounds_table(records: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Training records as a table sorted by site and round; absent or non-numeric values become NaN.

    Columns: site, round, `LOSS_TERMS`, `ROUND_VALUES`. Records without a site or a round are left out:
    they have no place on a curve.
    """
    rows = []
    for record in records:
        losses = record.get("losses")
        terms = losses if isinstance(losses, Mapping) else {}
        rows.append(
            {"site": record.get("site"), "round": record.get("round")}
            | {name: terms.get(name) for name in LOSS_TERMS}
            | {name: record.get(name) for name in ROUND_VALUES}
        )
    table = pd.DataFrame(rows, columns=["site", "round", *LOSS_TERMS, *ROUND_VALUES])
    numbers = table.columns.drop("site")
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce").astype(float)
    return table.dropna(subset=["site", "round"]).sort_values(["site", "round"], ignore_index=True)
