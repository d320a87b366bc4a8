"""The report: one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from fedcowpro.evaluation.summary import by_group, rounds_table, with_groups
from fedcowpro.reports.demo_report import sections, wording
from fedcowpro.reports.toolkit.html import Html, join, number, paragraphs, text
from fedcowpro.reports.toolkit.overlays import Overlay
from fedcowpro.reports.toolkit.page import write_page

__all__ = ["Overlay", "write_report"]


def write_report(
    out_html: Path,
    *,
    title: str,
    results: pd.DataFrame,
    rounds: Sequence[Mapping[str, object]],
    overlays: Sequence[Overlay],
    facts: Mapping[str, str],
    story: Sequence[str],
    synthetic: bool = True,
) -> None:
    """Write the page; an existing file is replaced as a whole.

    Args:
        out_html: file to write; missing folders are made.
        title: heading of the page.
        results: as `protocol.read_results` returns it; methods `untrained` and `fedcowpro` are compared,
            either may be missing, others are ignored.
        rounds: records of metrics.jsonl; missing keys leave gaps.
        overlays: pictures, in the order in which they are shown.
        facts: versions, seeds, digests, seconds; entries whose name begins with "command" are
            shown as commands.
        story: paragraphs of plain text below the heading.
        synthetic: the cases are phantoms; adds that limit to the page.

    Raises:
        FedCoWProError: `results` lacks a column.
    """
    grouped, training = with_groups(results), rounds_table(rounds)
    limits = [wording.PHANTOM_LIMIT, *wording.LIMITS] if synthetic else wording.LIMITS
    write_page(
        out_html,
        "demo.html",
        title=text(title),
        lead=text(_lead(grouped, training)),
        story=paragraphs(story),
        headline=sections.headline(grouped),
        overlays=sections.overlays(overlays),
        organs=sections.organs(grouped),
        training=sections.training(training),
        facts=sections.facts(facts),
        limits=join([Html(f"<li>{text(limit)}</li>") for limit in limits]),
    )


def _lead(results: pd.DataFrame, training: pd.DataFrame) -> str:
    """What happened, in sentences made from the numbers."""
    sentences = []
    sites = sorted(training["site"].unique())
    if sites:
        count = training["round"].nunique()
        sentences.append(
            f"{len(sites)} site{'s' if len(sites) > 1 else ''} ({', '.join(sites)}) trained one network over "
            f"{count} round{'s' if count > 1 else ''} without any organ label."
        )
    sentences.append(wording.LABELS_USED)
    changes = [
        f"from {number(row.before)} to {number(row.after)} on {row.group}"
        for row in by_group(results, sections.MAIN).itertuples()
        if pd.notna(row.before) and pd.notna(row.after)
    ]
    if changes:
        sentences.append(f"Mean whole-volume Dice went {' and '.join(changes)}.")
    return " ".join(sentences)
