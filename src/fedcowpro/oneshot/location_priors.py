"""Where an organ may lie in a query, told by the annotated example and both volumes' images, not by the query's truth.

Each prior is a number of log-odds that is added to the network's before the threshold:

- along the body's axis: the query is shifted along the support until their slices' features agree best; far from the
  organ's annotated extent it is unlikely (`axial_prior`);
- quadrants: those that the annotated organ does not touch are excluded (`quadrant_mask`), the "prior domain
  information" of CoWPro (arXiv 2408.06235), whose code is not public; this is our reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fedcowpro.config import InferConfig
from fedcowpro.core.errors import FedCoWProError

Numbers = Sequence[int] | np.ndarray
_BODY = 0.06  # share of the range of values above which a pixel is body
_COMMON = 0.2  # share of the slices in which a pixel of the body's box is body
_GRID = 8  # cells a side of a slice's descriptor
_STEP = 3.0  # mm between the shifts that are tried
_OVERLAP = 0.5  # least part of the shorter volume that a shift leaves in the other
_NEAR, _FAR = 15.0, 60.0  # mm outside the organ's extent at which doubt begins and is complete
_EXCLUDED = -100.0  # log-odds
_DILATION = 1 / 32  # of the slice's side, by which quadrants reach over the body's centre


@dataclass(frozen=True)
class LocationPrior:
    """Where a volume lies in the body and, of an annotated one, where it has each organ.

    Attributes:
        descriptors: (n, d) features of each slice, of which the volume's mean is taken off; unit length.
        spacing: mm between slices.
        size: pixels along a slice.
        box: first and last row, first and last column of the body.
        extents: per annotated organ its ends along the axis, mm from the volume's first slice.
        quadrants: per annotated organ (2, 2) which quadrants about the body's centre it touches: upper and lower, left
            and right.
    """

    descriptors: Float[Tensor, "n d"]
    spacing: float
    size: int
    box: tuple[int, int, int, int]
    extents: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    quadrants: Mapping[int, Bool[np.ndarray, "2 2"]] = field(default_factory=dict)

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of the middle of the body."""
        top, bottom, left, right = self.box
        return (top + bottom) / 2, (left + right) / 2

    def with_organ(self, organ: int, masks: Bool[np.ndarray, "n s s"], numbers: Sequence[int]) -> LocationPrior:
        """With one more organ, from its annotated slices.

        The slices stand at the middles of equal parts of the organ, so it reaches half a step beyond the first and
        last.

        Args:
            masks: the organ in n annotated slices.
            numbers: which slices of the volume they are, ascending.

        Raises:
            FedCoWProError: the masks are empty.
        """
        union: np.ndarray = np.any(masks, axis=0)
        if not union.any():
            raise FedCoWProError("an organ without a voxel", "an annotated one", "choose other slices")
        first, last = numbers[0] * self.spacing, numbers[-1] * self.spacing
        half = (last - first) / (2 * (len(numbers) - 1)) if len(numbers) > 1 else self.spacing / 2
        rows, columns = (np.arange(self.size) > middle for middle in self.centre)
        touched = np.array([[union[np.ix_(rows == low, columns == right)].any() for right in (0, 1)] for low in (0, 1)])
        return replace(
            self,
            extents={**self.extents, organ: (first - half, last + half)},
            quadrants={**self.quadrants, organ: touched},
        )

    def log_odds(
        self, organ: int, query: LocationPrior, shift: float, numbers: Numbers, config: InferConfig
    ) -> Float[np.ndarray, "n s s"]:
        """What is added to the log-odds of an organ on slices `numbers` of the query; at most 0.

        Args:
            shift: of `shift_between`.
        """
        start, end = self.extents[organ]
        position = np.asarray(numbers) * query.spacing + shift
        beyond = np.maximum(np.maximum(start - position, position - end), 0)
        along = -config.axial_prior * np.clip((beyond - _NEAR) / (_FAR - _NEAR), 0, 1)
        within = np.zeros((self.size, self.size))
        if config.quadrant_mask:
            within[~_quadrants(self.quadrants[organ], query.centre, self.size)] = _EXCLUDED
        return np.asarray(along[:, None, None] + within, np.float32)


def log_odds_of(
    priors: Sequence[LocationPrior], query: LocationPrior, organs: Sequence[int], config: InferConfig
) -> Callable[[Numbers], Float[np.ndarray, "k n s s"]]:
    """Per organ what is added to the log-odds on given slices of a query; of several annotated volumes the maximum.

    Args:
        priors: annotated volumes, each organ in one of them at least.
        query: aligned with each of them once, here.
        organs: k label values.
        config: which priors, and how strong.
    """
    shifts = [shift_between(query, prior) if config.axial_prior else 0.0 for prior in priors]

    def on(numbers: Numbers) -> Float[np.ndarray, "k n s s"]:
        return np.stack(
            [
                np.max(
                    [
                        prior.log_odds(organ, query, shift, numbers, config)
                        for prior, shift in zip(priors, shifts, strict=True)
                        if organ in prior.extents
                    ],
                    axis=0,
                )
                for organ in organs
            ]
        )

    return on


def is_wanted(config: InferConfig) -> bool:
    """Whether any location prior is switched on."""
    return bool(config.axial_prior or config.quadrant_mask)


def locate(features: Float[Tensor, "n c h w"], slices: Float[np.ndarray, "n s s"], spacing: float) -> LocationPrior:
    """Where a whole volume lies in the body.

    Args:
        features: of all its slices.
        slices: the prepared slices.
        spacing: mm between them.
    """
    cells = F.adaptive_avg_pool2d(features, _GRID).flatten(1)
    cells = F.normalize(cells - cells.mean(0), dim=1).cpu()
    low, high = float(slices.min()), float(slices.max())
    common = (slices > low + _BODY * (high - low)).mean(axis=0) > _COMMON
    rows, columns = np.flatnonzero(common.any(axis=1)), np.flatnonzero(common.any(axis=0))
    size = slices.shape[-1]
    if len(rows) == 0:
        return LocationPrior(cells, spacing, size, (0, size - 1, 0, size - 1))
    return LocationPrior(cells, spacing, size, (int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])))


def shift_between(query: LocationPrior, support: LocationPrior) -> float:
    """mm to add to a position in the query for the same place in the support.

    Of the shifts that leave half of the shorter volume within the other, the one with the largest mean agreement
    (cosine of the slices' descriptors) times the root of the share of the query's slices that it covers.
    """
    agreement = (query.descriptors @ support.descriptors.T).double().numpy()
    count, depth = agreement.shape
    positions = np.arange(count) * query.spacing
    lengths = count * query.spacing, depth * support.spacing
    best, found = -np.inf, 0.0
    for shift in np.arange(-lengths[0], lengths[1], _STEP):
        place = (positions + shift) / support.spacing
        inside = np.flatnonzero((place >= 0) & (place <= depth - 1))
        if len(inside) * query.spacing < _OVERLAP * min(lengths):
            continue
        low = np.minimum(np.floor(place[inside]).astype(int), max(depth - 2, 0))
        part = place[inside] - low
        values = agreement[inside, low] * (1 - part) + agreement[inside, np.minimum(low + 1, depth - 1)] * part
        quality = float(values.mean() * np.sqrt(len(inside) / count))
        if quality > best:
            best, found = quality, float(shift)
    return found


def _quadrants(touched: Bool[np.ndarray, "2 2"], centre: tuple[float, float], size: int) -> Bool[np.ndarray, "s s"]:
    """The touched quadrants about a centre, a little larger than they are."""
    reach = size * _DILATION
    pixels = np.arange(size)
    sides = [(pixels < middle + reach, pixels > middle - reach) for middle in centre]
    allowed = np.zeros((size, size), bool)
    for lower, right in np.argwhere(touched):
        allowed |= np.outer(sides[0][lower], sides[1][right])
    return allowed
