"""What can be measured in one prepared case: grey values, body, superpixels and, where there are labels, their fit."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedcowpro.data.preparation.manifest import CASE, CASES, CaseFile, CaseRecord, read_json
from fedcowpro.data.preparation.site import Site
from fedcowpro.reports.site_report.pseudo_labels import SliceCounts, count_slice, join

BINS = 64  # of the histogram over grey values 0..255
CORNER = 1 / 16  # side of the patches in the corners of a slice, as a share of its height or width
_SATURATED = 254.5


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """One case in numbers.

    Grey values are those of the prepared slices, stretched so that the case's darkest voxel is 0 and its brightest
    255 (the stored slices are normalised and no longer say where they began).

    Attributes:
        record: the manifest's entry.
        least: pixels that a superpixel needs to be drawn.
        histogram: (BINS,), shares of the body's voxels; zeros where there is no body.
        saturated: share of the body's voxels at 255.
        corners: median grey of the four corners of the image, padding excluded.
        centre: median grey of the middle ninth of the image.
        body: share of the image's voxels that lie in the body.
        shown: share of the prepared slice's height or width, the larger one, that is image and not padding.
        width: mm, median over slices of the body's extent from left to right; NaN without a body.
        digest: of the prepared voxels.
        cropped: share of labelled voxels that the crop cut off; None without labels.
        slices: counts of every slice; without labels all pixels are background.
        labels: label values that occur.
    """

    record: CaseRecord
    least: int
    histogram: npt.NDArray[np.float64]
    saturated: float
    corners: float
    centre: float
    body: float
    shown: float
    width: float
    digest: str
    cropped: float | None
    slices: list[SliceCounts] = field(repr=False)
    labels: tuple[int, ...]

    @property
    def id(self) -> str:
        """The case's id."""
        return self.record.id

    @cached_property
    def whole(self) -> SliceCounts:
        """All slices together."""
        return join(self.slices)

    @property
    def areas(self) -> npt.NDArray[np.int64]:
        """Pixels of every superpixel of the case."""
        return np.array([area for plane in self.record.areas for area in plane], np.int64)

    @property
    def per_slice(self) -> npt.NDArray[np.int64]:
        """Number of superpixels that can be drawn, per slice."""
        return np.array([sum(area >= self.least for area in plane) for plane in self.record.areas], np.int64)

    @property
    def usable(self) -> int:
        """Slices with a superpixel that can be drawn."""
        return int(np.count_nonzero(self.per_slice))

    def single(self, label: int) -> float:
        """Mean over slices with the label of the best Dice of one superpixel; NaN where no slice has it."""
        scores = [counts.best_single(label) for counts in self.slices if counts.pixels(label)]
        return float(np.mean(scores)) if scores else math.nan


def measure(site: Site, case: str) -> CaseFacts:
    """Measure one case. Labels are read where there are some.

    Raises:
        FedCoWProError: a damaged file.
    """
    record, image = site.record(case), site.image(case)
    segments = np.stack([site.superpixel_slice(case, z) for z in range(record.depth)])
    labelled = case in site.labelled_cases
    labels = site.labels(case) if labelled else np.zeros(image.shape, np.uint8)
    largest = int(labels.max())
    low, high = float(image.min()), float(image.max())
    grey = ((image - low) * (255 / max(high - low, 1e-6))).astype(np.float32)
    body = segments > 0
    inside = grey[body]
    histogram = np.histogram(inside, BINS, (0, 255))[0] / max(len(inside), 1)
    rows, columns = covered(site, case)
    part = grey[:, rows, columns]
    return CaseFacts(
        record=record,
        least=site.manifest.settings.superpixels.min_area,
        histogram=histogram,
        saturated=float((inside > _SATURATED).mean()) if len(inside) else 0.0,
        corners=_corners(part),
        centre=_centre(part),
        body=len(inside) / part.size,
        shown=max(part.shape[1:]) / site.size,
        width=_width(body) * record.spacing[2],
        digest=hashlib.sha256(image.tobytes()).hexdigest(),
        cropped=read_json(CaseFile, site.path / CASES / case / CASE).cropped_labels,
        slices=[count_slice(plane, truth, largest) for plane, truth in zip(segments, labels, strict=True)],
        labels=tuple(int(value) for value in np.unique(labels) if value),
    )


def covered(site: Site, case: str) -> tuple[slice, slice]:
    """Rows and columns of the prepared slices that show the image rather than padding."""
    place = site.place(case)
    found = []
    for n, spacing in zip(place.shape[1:], place.spacing[1:], strict=True):
        inside = max(1, min(site.size, round(n * spacing / place.pixel)))
        start = (site.size - inside) // 2
        found.append(slice(start, start + inside))
    return found[0], found[1]


def _corners(grey: npt.NDArray[np.float32]) -> float:
    height, width = (math.ceil(n * CORNER) for n in grey.shape[1:])
    rows, columns = np.r_[:height, -height:0], np.r_[:width, -width:0]
    return float(np.median(grey[:, rows][:, :, columns]))


def _centre(grey: npt.NDArray[np.float32]) -> float:
    height, width = grey.shape[1:]
    return float(np.median(grey[:, height // 3 : -(height // 3) or None, width // 3 : -(width // 3) or None]))


def _width(body: npt.NDArray[np.bool_]) -> float:
    """Median over slices of the number of columns from the body's first to its last; NaN without a body."""
    columns = np.logical_or.reduce(body, axis=1)
    some = columns[np.logical_or.reduce(columns, axis=1)]
    if not len(some):
        return math.nan
    return float(np.median(some.shape[1] - some[:, ::-1].argmax(axis=1) - some.argmax(axis=1)))
