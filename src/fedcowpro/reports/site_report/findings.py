"""What in a prepared site may train badly: checks on measured cases, each with its reason and a way out.

"Measured" beside a threshold means: the extreme of 16 abdominal T2 MR (CHAOS) and 17 abdominal CT volumes (BTCV,
CHAOS), all sound, and what copies of some of them showed that were spoiled on purpose.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedcowpro.reports.site_report.case_facts import BINS, CaseFacts

# Measured at most 0.065; MR read as Hounsfield units 0.16 to 0.23, CT without its offset 0.51.
SATURATED = 0.12
# Measured at most 0.77; 1.00 where air is not at -1000 HU but at 0, because then nothing lies below the window.
NO_AIR, AIR = 0.99, 30.0
# Share of the body in a band of 7 bins (28 grey values) within `TISSUE`. Measured at most 0.09 in MR; a CT in
# Hounsfield units read as MR 0.51. (CT that was clipped to its window is told by its raw values, not by this.)
NARROW, BAND, TISSUE = 0.35, 7, (130.0, 230.0)
# Measured at most 7; inverted volumes 254 to 255.
BRIGHT_CORNERS = 200.0
# Measured at least 0.44; the margin is for limbs and for children in a large field of view.
EMPTY = 0.05
# Measured at most 31 (a CT of an obese patient among three others).
OUTLIER = 45.0
# mm; measured 297 to 437. The trunk of a small child is 150 mm wide; a trunk three times too small measured 107 mm.
WIDTH = (120.0, 700.0)
# Volumes resampled to 3 mm take 0.4 of 256 pixels; every other one measured takes 1.
SHOWN = 0.6
# Measured at least 0.96.
USABLE = 0.5
# About one MR volume of the abdomen; the real sites of docs/results-studies.md have 120 to 500.
TRAIN_SLICES = 30
# Median per slice; measured at least 16.
SEGMENTS = 5
# Measured 0; below, what is missing is less than what observers differ by.
CROPPED = 0.02
# A union of superpixels that fits worse hardly shows the organ's shape. Measured 0.75 or more in large organs,
# 0.15 to 0.6 in vessels and glands, which are smaller than a superpixel.
UNION = 0.6
SAME_SPACING = 4  # cases; fewer may well come from one protocol by chance


@dataclass(frozen=True)
class Finding:
    """One thing that may train badly; `serious` is a warning, else a note. No `cases`: the site as a whole."""

    serious: bool
    name: str
    cases: tuple[str, ...]
    text: str

    @property
    def heading(self) -> str:
        """Name and cases in one line."""
        shown = ", ".join(self.cases[:8]) + (f" and {len(self.cases) - 8} more" if len(self.cases) > 8 else "")
        return f"{self.name} (case{'s' if len(self.cases) > 1 else ''} {shown})" if self.cases else self.name


def findings(cases: Sequence[CaseFacts], train_slices: int, organs: Mapping[int, str]) -> list[Finding]:
    """Everything that the checks find, warnings first.

    Args:
        cases: all cases of a site.
        train_slices: slices that training draws from.
        organs: label value -> name.
    """
    found = [*_grey_values(cases), *_geometry(cases), *_amount(cases, train_slices), *_fit(cases, organs)]
    return sorted(found, key=lambda finding: not finding.serious)


def histogram_distance(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Mean distance in grey values that shares of voxels move from one histogram to the other (Wasserstein-1)."""
    return float(np.abs(np.cumsum(one - other)).sum() * 255 / BINS)


def outlyingness(cases: Sequence[CaseFacts]) -> list[float]:
    """Distance of each case's histogram from the other cases of its modality; 0 for a single one.

    Of the distances to the others the median counts, the lower one of two, so that one odd case among three does not
    make the other two odd.
    """
    distances = []
    for case in cases:
        others = [other for other in cases if other is not case and other.record.modality == case.record.modality]
        each = sorted(histogram_distance(case.histogram, other.histogram) for other in others)
        distances.append(each[(len(each) - 1) // 2] if each else 0.0)
    return distances


def _grey_values(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    inverted = {case.id for case in cases if case.corners > max(BRIGHT_CORNERS, case.centre)}
    yield from _some(
        inverted,
        "Inverted contrast",
        "The corners of the image are brighter than its middle, as where MONOCHROME1 was exported without turning the "
        "grey values round. Air counts as body then. Invert the volume and prepare it again.",
    )
    strange = {case.id for case in cases if case.id not in inverted and _unlike_its_modality(case)}
    for modality, text in (
        (
            "ct",
            "Prepared as CT, but the values do not look like Hounsfield units: much is at the upper end of the window, "
            "or air is not below it. It may be MR, or CT whose offset (rescale intercept) is missing.",
        ),
        (
            "mr",
            "Prepared as MR, but most of the body lies in a narrow band of bright grey, as soft tissue does in CT. "
            "With the modality CT the window would be fixed in Hounsfield units.",
        ),
    ):
        mine = {case.id for case in cases if case.record.modality == modality}
        yield from _some(strange & mine, "Wrong modality", f"{text} Check the files and --modality.")
    yield from _some(
        {case.id for case in cases if case.body < EMPTY},
        "Nearly empty volume",
        f"The body fills less than {EMPTY:.0%} of the image. Check the file; leave the case out with --cases.",
    )
    plain = [case for case in cases if case.id not in inverted | strange]
    yield from _some(
        {case.id for case, distance in zip(plain, outlyingness(plain), strict=True) if distance > OUTLIER},
        "Different grey values",
        f"The histogram of the body is more than {OUTLIER:g} of 255 grey values away from the other cases': another "
        "sequence or protocol, an implant, or a window that does not fit. If it is not wanted, leave the case out.",
    )


def _unlike_its_modality(case: CaseFacts) -> bool:
    if case.record.guessed != case.record.modality:
        return True
    if case.record.modality == "ct":
        return case.saturated > SATURATED or (case.body > NO_AIR and case.corners < AIR)
    band = np.convolve(case.histogram, np.ones(BAND), "same")
    middle = (np.arange(BINS) + 0.5) * 255 / BINS
    return bool(band[(middle > TISSUE[0]) & (middle < TISSUE[1])].max() > NARROW)


def _geometry(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    yield from _some(
        {case.id for case in cases if not np.isnan(case.width) and not WIDTH[0] <= case.width <= WIDTH[1]},
        "Implausible size",
        f"By its spacing the body is less than {WIDTH[0]:g} or more than {WIDTH[1]:g} mm wide. The spacing in the "
        "file is probably wrong, in other units, or of another resolution. Limbs may be this narrow.",
    )
    yield from _some(
        {case.id for case in cases if np.allclose(case.record.spacing, 1, atol=1e-6)},
        "Nominal spacing",
        "Exactly 1 mm in all three directions is what files say that do not know their spacing. If the volumes were "
        "not resampled to 1 mm, correct the files; --spacing cannot mend it.",
    )
    for alike in _modalities(cases).values():
        spacings = {tuple(round(mm, 4) for mm in case.record.spacing) for case in alike}
        if len(alike) >= SAME_SPACING and len(spacings) == 1:
            text = " x ".join(f"{mm:g}" for mm in spacings.pop())
            yield Finding(
                False,
                "The same spacing everywhere",
                (),
                f"All {len(alike)} {alike[0].record.modality.upper()} cases have a spacing of {text} mm (between "
                "slices, rows, columns). One protocol or resampling does this, but so does a header that someone "
                "filled in; distances in mm are only as good as it.",
            )
    small = [case for case in cases if case.shown < SHOWN]
    if small:
        finer = min(case.record.spacing[2] * case.shown for case in small)
        yield Finding(
            False,
            "Small in the slices",
            tuple(case.id for case in small),
            f"The image takes less than {SHOWN:.0%} of the prepared slice, the rest is padding, so organs are of few "
            f"pixels. --spacing {finer:.2g} fills the slices.",
        )
    yield from _some(
        {case.id for case in cases if (case.cropped or 0) > CROPPED},
        "Labels cut off",
        f"More than {CROPPED:.0%} of the labelled voxels lie outside the prepared slices. Prepare with a larger --size "
        "or a coarser --spacing.",
    )


def _amount(cases: Sequence[CaseFacts], train_slices: int) -> Iterator[Finding]:
    if train_slices < TRAIN_SLICES:
        yield Finding(
            True,
            "Few slices to train on",
            (),
            f"Training draws from {train_slices} slices, fewer than {TRAIN_SLICES}. Prepare more cases, or hold fewer "
            "of them out as support and query.",
        )
    yield from _some(
        {case.id for case in cases if case.usable < USABLE * case.record.depth},
        "Few usable slices",
        f"Less than {USABLE:.0%} of the slices have a superpixel that can be drawn. The volume may be mostly empty, or "
        "the threshold of the body does not fit.",
    )
    yield from _some(
        {case.id for case in cases if case.usable and np.median(case.per_slice[case.per_slice > 0]) < SEGMENTS},
        "Few superpixels",
        f"Slices have fewer than {SEGMENTS} superpixels in the median, so episodes repeat themselves: low contrast, or "
        "superpixels that are large for the slices.",
    )
    for what, key in (("file", lambda case: case.record.source), ("voxels", lambda case: case.digest)):
        same = defaultdict(list)
        for case in cases:
            same[key(case)].append(case)
        for group in same.values():
            if len(group) > 1 and not (what == "voxels" and len({case.record.source for case in group}) == 1):
                yield from _some(
                    {case.id for case in group},
                    "Duplicate cases",
                    f"These cases have the same {what}. They count several times in training, and a query that is also "
                    "a training case is no test. Keep one of them.",
                )


def _fit(cases: Sequence[CaseFacts], organs: Mapping[int, str]) -> Iterator[Finding]:
    poor = []
    for label, name in organs.items():
        fits = [case.whole.best_union(label) for case in cases if label in case.labels]
        if fits and np.mean(fits) < UNION:
            poor.append(f"{name} ({np.mean(fits):.2f})")
    if poor:
        yield Finding(
            False,
            "Organs that superpixels do not show",
            (),
            f"Even the best union of superpixels overlaps little (Dice below {UNION:g}): {', '.join(poor)}. Mostly "
            "these organs are smaller than a superpixel; a smaller min_size shows more of them.",
        )


def _some(ids: set[str], name: str, text: str) -> Iterator[Finding]:
    if ids:
        yield Finding(True, name, tuple(sorted(ids, key=_natural)), text)


def _natural(case: str) -> tuple[int, str]:
    return (int(case), "") if case.isdecimal() else (1 << 62, case)


def _modalities(cases: Sequence[CaseFacts]) -> dict[str, list[CaseFacts]]:
    found = Counter(case.record.modality for case in cases)
    return {modality: [case for case in cases if case.record.modality == modality] for modality in sorted(found)}
