"""The report: one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from fedcowpro.evaluation.summary import by_group, rounds_table, with_groups
from fedcowpro.reports.demo_report import sections, wording
from fedcowpro.reports.toolkit.numbers import number
from fedcowpro.reports.toolkit.overlays import Overlay
from fedcowpro.reports.toolkit.render import parts, write_page

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
    content = (
        ("Before and after", sections.headline(grouped)),
        ("What it looks like", sections.overlays(overlays)),
        ("Every organ", sections.organs(grouped)),
        ("How training went", sections.training(training)),
        ("Reproduce it", sections.facts(facts)),
        ("Limits", parts.items(limits)),
    )
    write_page(out_html, title, _lead(grouped, training), content, story)


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
