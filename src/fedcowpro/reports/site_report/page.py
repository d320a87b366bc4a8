"""Sections of the page about a site: findings, cases, grey values, superpixels and their fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from fedcowpro.reports.site_report.case_facts import CaseFacts
from fedcowpro.reports.site_report.charts import histograms, organ_dots, spans
from fedcowpro.reports.site_report.findings import OUTLIER, Finding, outlyingness
from fedcowpro.reports.site_report.pseudo_labels import TOLERANCE
from fedcowpro.reports.toolkit.numbers import MISSING, count, number
from fedcowpro.reports.toolkit.render import parts

LABELS_READ = (
    "Where cases have labels, this page reads them, those of training cases too, to show what superpixels could make "
    "of the organs. Training never reads them. Settings that were chosen by this page have seen these cases' labels: "
    "test them on others."
)
NOTHING = (
    "Nothing stands out. Checked were contrast and modality by the grey values, size and spacing, empty volumes, "
    "labels that the crop cuts off, duplicates, and the number of slices and superpixels."
)
GREY = (
    "Each line is a case: shares of the body's voxels, outside the body left out. Cases of one protocol lie close "
    "together. CT: 0 is the lower and 255 the upper end of the window."
)
SUPERPIXELS = (
    "The dot is the median of a case, the line reaches from the tenth to the ninetieth percentile. Per slice only "
    "superpixels count that training draws (at least {least} pixels). {share} of all slices have none and are not used."
)
FIT = (
    "Best union: the Dice of the set of superpixels that fits the organ best, over the whole volume; more than that, "
    "borders of superpixels cannot give. One superpixel: the same for the best single one, per slice, as an episode "
    "draws it. Boundary recall: the share of the organ's border pixels with a border of superpixels within {tolerance} "
    "pixels along rows and columns; by chance: the share of all pixels of the body that have one."
)
ACCURACY = (
    "If every superpixel took the label of most of its pixels, {accuracy} of the body's pixels would be right "
    "(achievable segmentation accuracy, background included). Undersegmentation error: {under}."
)
_APART = 5  # cases that a histogram names


def lead(cases: Sequence[CaseFacts], train_slices: int, found: Sequence[Finding]) -> str:
    """The site in two sentences."""
    kinds = sorted({case.record.modality for case in cases})
    counts = ", ".join(
        f"{sum(case.record.modality == kind for case in cases)} {kind.upper()} case"
        f"{'s' if sum(case.record.modality == kind for case in cases) != 1 else ''}"
        for kind in kinds
    )
    training = sum(case.record.role == "train" for case in cases)
    warnings = sum(finding.serious for finding in found)
    return (
        f"{counts or 'No cases'}, {training} for training with {train_slices} slices to draw from. "
        f"{count(warnings, 'warning')} and {count(len(found) - warnings, 'note')}."
    )


def findings(found: Sequence[Finding]) -> Markup:
    """The findings as a list, or what was checked without one."""
    if not found:
        return parts.paragraphs([NOTHING])
    kinds = {True: ("serious", "Warning"), False: ("mild", "Note")}
    entries = ((*kinds[finding.serious], finding) for finding in found)
    return parts.findings([(kind, f"{word}: {one.heading}", one.text) for kind, word, one in entries])


def cases_table(cases: Sequence[CaseFacts]) -> Markup:
    """One row per case."""
    head = ("Case", "Role", "Modality", "Slices", "Usable", "Spacing (mm)", "Body width (mm)", "Superpixels", "Organs")
    rows = [
        (
            case.id,
            case.record.role,
            case.record.modality.upper(),
            str(case.record.depth),
            f"{case.usable / case.record.depth:.0%}",
            "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}".join(f"{mm:.2f}" for mm in case.record.spacing),
            number(case.width, 0),
            number(float(np.median(case.per_slice)), 0),
            str(len(case.labels)) if case.labels else MISSING,
        )
        for case in cases
    ]
    note = (
        "Usable: slices with a superpixel that training can draw. Spacing: between slices, rows and columns. "
        "Superpixels: median per slice. Organs: labels that occur."
    )
    return parts.table(head, rows) + parts.note(note)


def grey(cases: Sequence[CaseFacts]) -> Markup:
    """A chart of histograms per modality."""
    charts = []
    distances = dict(zip((case.id for case in cases), outlyingness(cases), strict=True))
    for kind in sorted({case.record.modality for case in cases}):
        mine = [case for case in cases if case.record.modality == kind]
        order = sorted(mine, key=lambda case: -distances[case.id])
        apart = [case.id for case in order if distances[case.id] > OUTLIER][:_APART]
        uri = histograms(
            {case.id: case.histogram for case in mine}, apart, f"{kind.upper()}: {count(len(mine), 'case')}"
        )
        charts.append(parts.picture(uri, f"Histograms of the grey values of {len(mine)} {kind.upper()} cases"))
    furthest = max(distances.values(), default=0.0)
    note = f"The odd one out is {furthest:.0f} grey values away from the others; from {OUTLIER:g} on it is named."
    return parts.paragraphs([GREY, note] if len(cases) > 1 else [GREY]) + parts.charts(charts)


def superpixels(cases: Sequence[CaseFacts]) -> Markup:
    """Number and area of superpixels, per case."""
    slices = sum(case.record.depth for case in cases)
    unused = slices - sum(case.usable for case in cases)
    note = SUPERPIXELS.format(
        least=min((case.least for case in cases), default=0), share=f"{unused / slices:.1%}" if slices else MISSING
    )
    charts = [
        parts.picture(
            spans({case.id: case.per_slice for case in cases}, "Superpixels per slice", "superpixels"),
            "Number of superpixels per slice, one row per case",
        ),
        parts.picture(
            spans({case.id: case.areas for case in cases}, "Area of superpixels", "pixels", log=True),
            "Area of superpixels in pixels, one row per case",
        ),
    ]
    return parts.paragraphs([note]) + parts.charts(charts)


def fit(cases: Sequence[CaseFacts], organs: Mapping[int, str]) -> Markup:
    """What superpixels could make of the labels."""
    labelled = [case for case in cases if case.labels]
    if not labelled:
        return parts.paragraphs(["No case has labels, so this cannot be told here."])
    unions: dict[str, list[float]] = {}
    recalls: dict[str, list[float]] = {}
    chance: dict[str, float] = {}
    rows = []
    for label, name in organs.items():
        mine = [case for case in labelled if label in case.labels]
        if not mine:
            continue
        unions[name] = [case.whole.best_union(label) for case in mine]
        recalls[name] = [case.whole.boundary_recall(label) for case in mine]
        chance[name] = _mean([case.whole.chance for case in mine])
        rows.append(
            (
                name,
                str(len(mine)),
                number(_mean(unions[name])),
                number(min(unions[name])),
                number(_mean([case.single(label) for case in mine])),
                number(_mean(recalls[name])),
                number(chance[name]),
            )
        )
    head = ("Organ", "Cases", "Best union", "Lowest case", "One superpixel", "Boundary recall", "By chance")
    sentence = ACCURACY.format(
        accuracy=f"{_mean([case.whole.achievable_accuracy for case in labelled]):.1%}",
        under=number(_mean([case.whole.undersegmentation for case in labelled]), 2),
    )
    charts = [
        parts.picture(
            organ_dots(unions, "Best union of superpixels", "Dice over the volume"),
            "Best Dice of a union of superpixels for each organ, a dot per case",
        ),
        parts.picture(
            organ_dots(recalls, "Boundary recall", f"share within {TOLERANCE} pixels", chance),
            "Boundary recall for each organ, a dot per case, with the level of chance",
        ),
    ]
    explained = parts.paragraphs([FIT.format(tolerance=TOLERANCE)])
    return explained + parts.charts(charts) + parts.table(head, rows) + parts.note(sentence)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan
