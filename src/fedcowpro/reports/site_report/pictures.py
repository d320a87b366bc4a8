"""Pictures of a site's slices: borders of superpixels, and what their best union makes of the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from fedcowpro.data.preparation.site import Site
from fedcowpro.reports.site_report.case_facts import CaseFacts
from fedcowpro.reports.site_report.findings import outlyingness
from fedcowpro.reports.site_report.pseudo_labels import best_union
from fedcowpro.reports.toolkit.numbers import number
from fedcowpro.reports.toolkit.overlays import panel
from fedcowpro.reports.toolkit.render import parts
from fedcowpro.volume.organ_colours import COLOURS, organ_colours

SLICES = (0.2, 0.5, 0.8)  # of the slices that show something


def pictures(site: Site, cases: Sequence[CaseFacts], most: int) -> Markup:
    """Three slices each of at most `most` cases, chosen for what is best and worst about them."""
    chosen = _chosen(cases)
    if not chosen or not most:
        return parts.paragraphs(["There are no pictures."])
    organs, colours = site.organs, _colours(cases, site.organs)
    return Markup().join(
        [_case(site, case, reasons, organs, colours) for case, reasons in list(chosen.values())[:most]]
    )


def mean_fit(case: CaseFacts) -> float:
    """Mean over its organs of the best Dice of a union of superpixels."""
    return float(np.mean([case.whole.best_union(label) for label in case.labels]))


def _chosen(cases: Sequence[CaseFacts]) -> dict[str, tuple[CaseFacts, list[str]]]:
    """Case id -> the case and why it is shown, most telling first."""
    picks: list[tuple[CaseFacts, str]] = []
    labelled = [case for case in cases if case.labels]
    if labelled:
        picks.append((min(labelled, key=mean_fit), "superpixels fit its organs worst"))
    if cases:
        distances = outlyingness(cases)
        if len(cases) > 1:
            picks.append((cases[int(np.argmax(distances))], "grey values furthest from the other cases'"))
        picks.append((min(cases, key=lambda case: float(case.per_slice.mean())), "fewest superpixels"))
        if labelled:
            picks.append((max(labelled, key=mean_fit), "superpixels fit its organs best"))
        elif len(cases) > 1:
            picks.append((cases[int(np.argmin(distances))], "most like the other cases"))
    chosen: dict[str, tuple[CaseFacts, list[str]]] = {}
    for case, reason in picks:
        chosen.setdefault(case.id, (case, []))[1].append(reason)
    return chosen


def _case(
    site: Site, case: CaseFacts, reasons: Sequence[str], organs: Mapping[int, str], colours: Mapping[int, str]
) -> Markup:
    showing = [z for z, counts in enumerate(case.slices) if counts.pairs[:, 1:].any()]
    usable = [z for z, n in enumerate(case.per_slice) if n]
    slices = showing or usable or list(range(case.record.depth))
    wanted = sorted({slices[round(at * (len(slices) - 1))] for at in SLICES})
    figures = [_slice(site, case, z, organs, colours) for z in wanted]
    legend = [(colour, organs[label], "") for label, colour in colours.items() if label in case.labels]
    return parts.overlay(f"Case {case.id}", f"Shown because of: {'; '.join(reasons)}.", "trio", figures, legend)


def _slice(site: Site, case: CaseFacts, z: int, organs: Mapping[int, str], colours: Mapping[int, str]) -> Markup:
    image, segments, counts = site.image_slice(case.id, z), site.superpixel_slice(case.id, z), case.slices[z]
    uris = [(panel(image, None, {}, segments=segments), "superpixels")]
    caption = f"Slice {z}: {len(counts.areas)} superpixels"
    here = [label for label in case.labels if counts.pixels(label)]
    if here:
        union = np.zeros(segments.shape, np.uint8)
        for label in sorted(here, key=counts.best_union):  # where unions share a superpixel, the better fit shows
            _, chosen = best_union(counts.pairs[1:, label], counts.areas, counts.pixels(label))
            union[np.isin(segments, chosen + 1)] = label
        drawn = {label: colour for label, colour in colours.items() if label in here}
        labels = site.labels(case.id)[z]
        uris.append((panel(image, labels, drawn, fills=union), "labels as lines, best unions of superpixels filled"))
        fits = ", ".join(f"{organs[label]} {number(counts.best_union(label), 2)}" for label in here)
        caption += f". Best Dice of a union: {fits}"
    return parts.pair([(uri, f"Case {case.id}, slice {z}: {what}") for uri, what in uris], caption)


def _colours(cases: Sequence[CaseFacts], organs: Mapping[int, str]) -> dict[int, str]:
    """Colours of the largest organs, as many as can be told apart, in the order of their labels."""
    pixels: Counter[int] = Counter()
    for case in cases:
        pixels.update({label: case.whole.pixels(label) for label in case.labels})
    return organ_colours({label: organs.get(label, "") for label, _ in pixels.most_common(len(COLOURS))})
