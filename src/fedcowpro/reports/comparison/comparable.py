"""Which scores answer the same question: the same case, segmented after the same annotated example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.protocol import COLUMNS
from fedcowpro.reports.comparison.naming import SOURCE
from fedcowpro.reports.comparison.sources import Source
from fedcowpro.reports.toolkit.numbers import count, listed

CELL = ["site", "case", "organ", "protocol"]
SUPPORT = ["support_site", "support_case", "support_slices"]
TOLERANCE, MODALITY = "tolerance_mm", "modality"


def options_of(table: pd.DataFrame) -> list[str]:
    """Columns of inference settings."""
    known = (*COLUMNS, SOURCE, TOLERANCE, MODALITY)
    return [str(column) for column in table.columns if column not in known]


def own_support(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Scores with a support of the query's own site, and what is said of the others.

    All rows where no row has such a support, as with one example for several hospitals.

    Raises:
        FedCoWProError: methods that have only scores of the other kind.
    """
    own = table["support_site"] == table["site"]
    if own.all() or not own.any():
        return table, []
    if lost := sorted(set(table["method"]) - set(table["method"][own])):
        raise FedCoWProError(
            f"{listed(lost)}: only scores with a support of another site, unlike the other methods",
            "scores of all methods with the same supports",
            "evaluate all methods with the same --episodes file",
        )
    return table[own], [f"{count(int((~own).sum()), 'score')} with a support of another site are left out."]


def same_supports(table: pd.DataFrame, designed: bool) -> tuple[pd.DataFrame, list[str]]:
    """Scores of cells for which all methods were given the same annotated examples, and what was left out.

    Args:
        table: scores.
        designed: they are the arms of one study, whose supports differ only where the study means them to.

    Raises:
        FedCoWProError: no common support at all.
    """
    if designed or table.empty:
        return table, _designed(table)
    given = table[[*CELL, *SUPPORT, "method"]].drop_duplicates()
    methods = given.groupby(CELL)["method"].nunique().rename("methods")
    common = given.groupby([*CELL, *SUPPORT])["method"].nunique().rename("having").reset_index()
    common = common.merge(methods.reset_index(), on=CELL)
    kept_keys = common.loc[common["having"] == common["methods"], [*CELL, *SUPPORT]]
    kept = table.merge(kept_keys, on=[*CELL, *SUPPORT], how="left", indicator="_kept")["_kept"].eq("both").to_numpy()
    if kept.all():
        return table, []
    if not kept.any():
        example = table.iloc[0]
        cell = (table[CELL] == example[CELL]).all(axis=1)
        supports = {str(row.method): _support(row) for row in table[cell].itertuples()}
        raise FedCoWProError(
            f"methods with different supports, as for case {example['case']} of site {example['site']}: "
            + "; ".join(f"{name}: {text}" for name, text in supports.items()),
            "the same annotated cases and slices for all methods",
            "evaluate all methods with the same --episodes file; or, where the support is the question, as arms of one "
            "study",
        )
    note = (
        f"{count(int((~kept).sum()), 'score')} of {len(table)} left out: methods were given other supports for that "
        "case and organ."
    )
    return table[kept], [note]


def same_seeds(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Scores of an unfinished study with the seeds that all of its scored arms have, and what was left out.

    All scores where no seed is common to the arms.
    """
    pairs = table[["method", "seed"]].drop_duplicates()
    common = pairs["seed"].value_counts().eq(pairs["method"].nunique())
    kept = table["seed"].isin(common.index[common])
    if kept.all() or not kept.any():
        return table, []
    lost = pairs[~pairs["seed"].isin(common.index[common])]
    return table[kept], [
        f"Arms are compared on the seeds that all of them have: {listed(sorted(map(str, common.index[common])))}. Left "
        f"out: {count(len(lost), 'trial')} with other seeds."
    ]


def _designed(table: pd.DataFrame) -> list[str]:
    different = []
    for column in SUPPORT:
        per_method = table.groupby("method", sort=False)[column].agg(lambda values: tuple(sorted(set(values))))
        if per_method.nunique() > 1:
            different.append(column.replace("_", " "))
    if not different:
        return []
    return [f"The study gave its arms different supports ({listed(different)}); that is part of what is compared."]


def _support(row: object) -> str:
    site, case, slices = (getattr(row, column) for column in SUPPORT)
    return f"case {case} of {site}, slices {slices}"


def settings_cautions(table: pd.DataFrame, designed: bool) -> list[str]:
    """What is said of inference settings that differ between methods.

    Raises:
        FedCoWProError: one method was scored with several settings at the same site.
    """
    said = []
    for option in options_of(table):
        groups = table[table[option] != ""].groupby(["method", "protocol", "site"], sort=False)[option]
        for (method, protocol, site), values in groups:
            if values.nunique() > 1:
                raise FedCoWProError(
                    f"'{method}' was scored with {option} {listed(sorted(values.unique()))} at site {site}, {protocol}",
                    "one setting per method",
                    "give each its own name with 'fedcowpro evaluate --method', or its own file",
                )
        if texts := list(_differences(table, option)):
            said.append(f"{option.replace('_', ' ')} ({'; '.join(texts)})")
    if not said:
        return []
    if designed:
        return [f"Arms differ in settings of inference: {', '.join(said)}."]
    return [f"Methods were scored with different settings, which is part of any difference: {', '.join(said)}."]


def _differences(table: pd.DataFrame, option: str) -> Iterator[str]:
    """'methods: values' where methods differ at some site and protocol; nothing where they agree."""
    known = table[table[option] != ""]
    if (known.groupby(["protocol", "site"])[option].nunique() <= 1).all():
        return
    per_value: dict[str, list[str]] = {}
    for method, values in known.groupby("method", sort=False)[option]:
        per_value.setdefault(" and ".join(sorted(values.unique())), []).append(str(method))
    for value, methods in per_value.items():
        yield f"{listed(methods)}: {value}"


def tolerance_of(table: pd.DataFrame) -> tuple[float | None, list[str]]:
    """The tolerance of NSD in mm, None where it is not known or not one; and what is said of it."""
    if TOLERANCE not in table.columns:
        return None, []
    values = sorted(pd.to_numeric(table[TOLERANCE], errors="coerce").dropna().unique())
    if len(values) > 1:
        texts = [f"{value:g}" for value in values]
        return None, [f"NSD is left out: it was scored with tolerances of {listed(texts)} mm."]
    return (float(values[0]) if values else None), []


def require_same_data(sources: Sequence[Source], labels: Sequence[str]) -> list[str]:
    """Refuse tables whose episode files name one site with different digests; says what could not be checked.

    Raises:
        FedCoWProError: a site that is not the same in two tables.
    """
    tables = [scores for source in sources for scores in source.tables]
    kinds = [source.kind for source in sources for _ in source.tables]
    seen: dict[str, tuple[str, str]] = {}
    for scores, label in zip(tables, labels, strict=True):
        digests: Mapping[str, str] = scores.episodes.digests if scores.episodes else {}
        used = set(scores.rows["site"]) | set(scores.rows["support_site"])
        for site in sorted(used & digests.keys()):
            first, digest = seen.setdefault(site, (label, digests[site]))
            if digest != digests[site]:
                raise FedCoWProError(
                    f"site '{site}' has the digest {digest} in {first} and {digests[site]} in {label}",
                    "scores on the same prepared data",
                    "evaluate all methods on the same site folders, with the same --episodes file",
                )
    unchecked = [
        label
        for scores, kind, label in zip(tables, kinds, labels, strict=True)
        if kind != "study" and scores.episodes is None
    ]
    if len(tables) < 2:
        return []
    if "study" in kinds:
        return ["Whether a study and other tables were scored on the same prepared data was not checked."]
    if unchecked:
        return [f"Whether the prepared data were the same was not checked: no episode file beside {listed(unchecked)}."]
    return []
