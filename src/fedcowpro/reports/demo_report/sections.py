"""Sections of the report page: tables and pictures made from results, training records and overlays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from markupsafe import Markup

from fedcowpro.core.overlap import dice
from fedcowpro.evaluation.statistics.agreement import volume_differences
from fedcowpro.evaluation.statistics.standard_error import Array
from fedcowpro.evaluation.summary import AFTER, LOSS_TERMS, by_group, by_organ, per_case, share_of_model
from fedcowpro.reports.demo_report import wording
from fedcowpro.reports.toolkit.charts import curves, dumbbells, volume_agreement
from fedcowpro.reports.toolkit.numbers import MISSING, number
from fedcowpro.reports.toolkit.overlays import PANELS, Overlay, panels
from fedcowpro.reports.toolkit.render import parts
from fedcowpro.volume.organ_colours import organ_colours

PICTURE_BYTES = 4_000_000
MAIN, SECOND = "whole-volume", "gt-range"


def headline(results: pd.DataFrame) -> Markup:
    """The table that the page is about: mean whole-volume Dice per site, untrained and trained."""
    groups = by_group(results, MAIN)
    if groups.empty:
        return parts.paragraphs(["There are no whole-volume results."])
    rows = [
        (
            row.group,
            number(row.before),
            number(row.after),
            _change(row.before, row.after),
            f"{row.cases}",
            f"{row.better}/{row.pairs}" if row.pairs else MISSING,
        )
        for row in groups.itertuples()
    ]
    head = ("Site", "Before (untrained)", "After (FedCoWPro)", "Change", "Cases", "Rose")
    seeds = _listed(results["seed"])
    supports = results.groupby("site")["support_case"].nunique().max()
    note = wording.HEADLINE.format(
        seeds=f"Seeds {seeds}" if "," in seeds else f"Seed {seeds}",
        slices=_listed(results["support_slices"]),
        supports="one support case" if supports == 1 else f"up to {supports} support cases",
    )
    return parts.table(head, rows, "headline") + parts.note(note)


def organs(results: pd.DataFrame) -> Markup:
    """Chart and table per site: every organ with both protocols."""
    main, second = by_organ(results, MAIN), by_organ(results, SECOND)
    both = main.merge(second, on=["group", "organ"], how="outer", suffixes=("", "_second"))
    cases = per_case(results, MAIN)
    charts, tables = [], []
    head = ("Organ", *("Before", "After", "Change") * 2, "Cases")
    for group, rows in both.groupby("group"):
        cells = [
            _organ_cells(
                row.organ,
                row.before,
                row.after,
                row.before_second,
                row.after_second,
                max(_count(row.cases), _count(row.cases_second)),
            )
            for row in rows.itertuples()
        ]
        if len(cells) > 1:
            means = rows[["before", "after", "before_second", "after_second"]].mean()
            mean = _organ_cells("Mean", means.before, means.after, means.before_second, means.after_second, None)
            cells.append(tuple(parts.strong(cell) for cell in mean))
        spans = (("", 1), ("Whole volume", 3), ("GT range", 3), ("", 1))
        tables.append(parts.heading(f"Site {group}"))
        tables.append(parts.table(head, cells, "organs", spans, "Mean Dice over cases"))
        mine = cases[cases["group"] == group]
        if not mine.empty:
            charts.append(
                parts.picture(
                    dumbbells(mine, f"Site {group}"),
                    f"Site {group}: Dice of each organ before and after training, "
                    "the means of the table and a dot per case",
                )
            )
        if volumes := _volumes(results[results["group"] == group]):
            alt = f"Site {group}: volume found after training against the true one, a dot per case"
            charts.append(parts.picture(volume_agreement(volumes, f"Site {group}: volumes after training"), alt))
    if not tables:
        return parts.paragraphs(["There are no results."])
    return Markup().join([parts.paragraphs([wording.ORGANS]), parts.charts(charts), *tables])


def training(rounds: pd.DataFrame) -> Markup:
    """Curves of loss, pseudo-label Dice and divergence, then tables of loss terms, time and traffic."""
    if rounds.empty:
        return parts.paragraphs(["There are no training records."])
    wanted = (
        ("total", "Training loss", 0.0, None),
        ("pseudo_dice", "Dice on pseudo-labels", 0.0, 1.0),
        ("update_cosine", "Agreement of updates (cosine)", 0.0, 1.0),
        ("update_norm", "Size of updates (norm)", 0.0, None),
    )
    drawn = [(curves(rounds, value, label, low=low, high=high), label) for value, label, low, high in wanted]
    charts = [parts.picture(uri, f"{label} of each site over the rounds") for uri, label in drawn if uri]
    return Markup().join([parts.charts(charts), parts.note(wording.TRAINING), _loss_table(rounds), _cost_table(rounds)])


def overlays(items: Sequence[Overlay]) -> Markup:
    """Four pictures per overlay with a legend; beyond `PICTURE_BYTES` the page says how many are left out."""
    if not items:
        return parts.paragraphs(["There are no pictures."])
    names = sorted({overlay.organs[label] for overlay in items for label in overlay.present()})
    palette = dict(zip(names, organ_colours(dict(enumerate(names, 1))).values(), strict=True))
    blocks: list[Markup] = []
    size = 0
    site: str | None = None
    for overlay in items:
        colours = {label: palette[overlay.organs[label]] for label in overlay.present()}
        uris = panels(overlay, colours)
        size += sum(map(len, uris))
        if size > PICTURE_BYTES:
            blocks.append(parts.paragraphs([f"Left out to keep this page small: {len(items) - len(blocks)} more."]))
            break
        heading = "" if overlay.site == site else _pictured(overlay.site, items)
        site = overlay.site
        listed = ", ".join(overlay.organs[label] for label in colours) or "no organ"
        strip = [
            parts.picture(uri, f"{name}, site {overlay.site}: slice with {listed}", name)
            for uri, name in zip(uris, PANELS, strict=True)
        ]
        blocks.append(parts.overlay(heading, overlay.caption, "strip", strip, _legend(overlay, colours)))
    return Markup().join(blocks)


def _pictured(site: str, items: Sequence[Overlay]) -> str:
    """The heading above a site's pictures: whether this very slice got better, which a mean does not say."""
    scores = [_slice_dice(overlay) for overlay in items if overlay.site == site]
    if len(scores) != 2 or not all(map(math.isfinite, scores)):
        return f"Site {site}"
    before, after = scores
    word = "as before" if abs(after - before) < 0.005 else "better" if after > before else "worse"
    return f"Site {site}: mean Dice in this slice {number(before, 2)} before, {number(after, 2)} after training, {word}"


def _slice_dice(overlay: Overlay) -> float:
    """Mean over the organs that are in the slice or were found in it; NaN without one."""
    scores = [dice(overlay.prediction == label, overlay.truth == label) for label in overlay.organs]
    known = [score for score in scores if math.isfinite(score)]
    return sum(known) / len(known) if known else math.nan


def facts(items: Mapping[str, str]) -> Markup:
    """Facts as a table; those whose name begins with "command" as blocks to copy."""
    commands = {name: value for name, value in items.items() if name.lower().startswith("command")}
    rows = [(name, value) for name, value in items.items() if name not in commands]
    blocks = [parts.command(name, value) for name, value in commands.items()]
    return Markup().join([*blocks, parts.table(("Fact", "Value"), rows, "facts") if rows else ""])


def _volumes(rows: pd.DataFrame) -> dict[str, dict[str, Array]]:
    """Per organ how far the volumes found after training are off (see `volume_differences`)."""
    chosen = rows[(rows["protocol"] == MAIN) & (rows["method"] == AFTER)]
    errors = chosen.groupby(["organ", "case"])["relative_volume_error"].mean().dropna()
    return {
        str(organ): {AFTER: volume_differences(of.to_numpy())} for organ, of in errors.groupby(level="organ", sort=True)
    }


def _listed(values: pd.Series) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def _count(value: float) -> int:
    return 0 if pd.isna(value) else int(value)


def _organ_cells(
    name: str, before: float, after: float, before_second: float, after_second: float, cases: int | None
) -> tuple[str, ...]:
    return (
        name,
        number(before),
        number(after),
        _change(before, after),
        number(before_second),
        number(after_second),
        _change(before_second, after_second),
        "" if cases is None else str(cases),
    )


def _loss_table(rounds: pd.DataFrame) -> str:
    terms = [term for term in LOSS_TERMS if rounds[term].notna().any()]
    if not terms:
        return ""
    ends = {str(site): (records.iloc[0], records.iloc[-1]) for site, records in rounds.groupby("site")}
    rows = [
        (
            term.replace("_", " "),
            *(f"{number(first[term])} → {number(last[term])}" for first, last in ends.values()),
        )
        for term in terms
    ]
    return parts.table(("Loss", *ends), rows, caption="Loss terms, first → last round")


def _cost_table(rounds: pd.DataFrame) -> str:
    rows = []
    for site, records in rounds.groupby("site"):
        total = records[["seconds", "bytes_down", "bytes_up"]].sum(min_count=1)
        rows.append(
            (
                str(site),
                f"{records['round'].nunique()}",
                number(total["seconds"], 1),
                number(records["seconds"].mean(), 1),
                number(total["bytes_down"] / 1e6, 2),
                number(total["bytes_up"] / 1e6, 2),
                number(share_of_model(records), 2),
            )
        )
    head = ("Site", "Rounds", "Seconds", "Per round", "MB received", "MB sent", "Share of the model")
    caption = "Time and traffic over all rounds, as each site sees them; 1 = the model in full precision, each way"
    return parts.table(head, rows, caption=caption)


def _legend(overlay: Overlay, colours: Mapping[int, str]) -> list[tuple[str, str, str]]:
    """Colour, name and note of each organ."""
    entries = []
    for label, colour in colours.items():
        score = number(dice(overlay.prediction == label, overlay.truth == label), 2)
        entries.append((colour, overlay.organs[label], f"Dice in this slice {score}"))
    return entries


def _change(before: float, after: float) -> str:
    """after - before with its sign, coloured; a dash where one of them is not defined."""
    change = after - before
    if not math.isfinite(change):
        return MISSING
    rounded = round(change, 3)
    # Less than a hundredth stays grey: colour would make much of nothing.
    kind = "same" if abs(rounded) < 0.01 else "gain" if rounded > 0 else "loss"
    sign = "+" if rounded > 0 else "\N{MINUS SIGN}" if rounded < 0 else "±"
    return parts.change(kind, f"{sign}{abs(rounded):.3f}")
