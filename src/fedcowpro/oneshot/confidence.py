"""How far to trust a mask whose truth nobody knows.

- Reverse Dice: the roles are swapped. The predicted organ on the query becomes the annotation, the annotated slices
  are segmented with it, and the result is compared with what the user drew (reverse classification accuracy: Valindria
  et al., arXiv 1702.03407). A wrong organ on the query does not lead back to the right one.
- Margin of a slice: how far above the threshold the probabilities of the found pixels lie.
- Reach: where a volume is segmented from a few painted slices of its own, both cues are taken in by organs that look
  alike; how many slices were found per painted one, and how far a slice lies from a painted one, are not.

`mask_confidence` and `slice_confidence` estimate the Dice from these by a logistic function, fitted to phantoms
(`benchmarks/confidence.py`). Where an example is annotated as a whole, a mask is compared with it instead:
`compared_confidence`, fitted to real MR and CT (`benchmarks/confidence_real.py`). docs/results-studies.md has figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from fedcowpro.core.overlap import dice
from fedcowpro.oneshot.doubts import OrganFacts
from fedcowpro.oneshot.predictor import Features, OneShotPredictor
from fedcowpro.oneshot.slices import pick_slices, slices_of
from fedcowpro.volume.checks import UNKNOWN
from fedcowpro.volume.preprocess import Placement

# Of the cues of `compared_cues`, from real MR and CT (`benchmarks/confidence_real.py`).
_COMPARED = (1.20, -2.65, 5.49, -0.28, -1.73, -4.31, -1.71)
# Of 1, margin, reverse Dice, and log of (found + painted) / painted for a volume's own paint: from the benchmark.
_MASK, _MASK_OWN = (-2.42, 4.99, 2.12), (-1.01, 2.61, 2.17, -0.60)
# Of 1, margin, the mask's reverse Dice, and log of 1 + distance / 10 mm.
_SLICE, _SLICE_OWN = (-2.30, 5.84, 1.38), (0.75, 4.05, 1.78, -2.58)

_MOST = 1.5  # of a ratio's logarithm


class Annotated(Protocol):
    """The part of a support that is needed here."""

    @property
    def features(self) -> Features: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def shows(self) -> Mapping[int, Sequence[int]]: ...


def reverse_dice(
    predictor: OneShotPredictor,
    support: Annotated,
    query: Features,
    placement: Placement,
    labels: UInt8[np.ndarray, "d h w"],
) -> dict[int, float]:
    """Dice with which the predicted organs segment the annotated slices back; nan for an organ that was not found.

    Args:
        support: annotated slices.
        query: features of all slices of the segmented volume.
        placement: where those slices lie in it.
        labels: predicted, on the volume's own grid.
    """
    result = dict.fromkeys(support.shows, float("nan"))
    picked = {
        organ: pick_slices(slices_of(labels, organ), predictor.config.support_slices)
        for organ in support.shows
        if (labels == organ).any()
    }
    used = sorted({z for zs in picked.values() for z in zs})
    prepared = placement.to_prepared_labels(labels[used])
    groups = []
    for organ, zs in picked.items():
        shown = tuple(used.index(z) for z in zs if (prepared[used.index(z)] == organ).any())
        if shown:  # an organ of a few voxels can vanish where pixels are coarser
            groups.append((organ, shown))
    if not groups:
        return result
    prototypes = predictor.prototypes(query.select(used), prepared, groups)
    choice = np.repeat(np.arange(len(groups))[:, None], len(support.labels), axis=1)
    back = predictor.probabilities(support.features, prototypes, choice) > predictor.config.threshold
    for organ, mask in zip(prototypes.organs, back, strict=True):
        slices = list(support.shows[organ])
        drawn = support.labels[slices]
        seen = (drawn != UNKNOWN) | (organ == UNKNOWN)
        result[organ] = dice(mask[slices] & seen, drawn == organ)
    return result


def slice_margins(soft: Float[np.ndarray, "k n s s"], threshold: float) -> Float[np.ndarray, "k n"]:
    """Mean of (probability - threshold) / (1 - threshold) over the pixels above it, 0..1; nan without any."""
    above: Bool[np.ndarray, "k n s s"] = soft > threshold
    count = above.sum(axis=(2, 3))
    total = np.where(above, soft - threshold, 0).sum(axis=(2, 3), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count / (1 - threshold), np.float32)


def mask_confidence(reverse: float, margins: Float[np.ndarray, " n"], painted: int = 0) -> float:
    """Estimated Dice of a mask, 0..1; nan where the organ is not found.

    Args:
        reverse: of `reverse_dice`, 0..1 or nan.
        margins: of each slice that was not painted, nan where the organ is not found.
        painted: slices of this volume on which the organ was painted; 0 = it was annotated in other volumes alone.
    """
    found = margins[~np.isnan(margins)]
    if not len(found) or np.isnan(reverse):
        return float("nan")
    cues = [float(found.mean()), reverse]
    if not painted:
        return float(_logistic(_MASK, *cues))
    return float(_logistic(_MASK_OWN, *cues, np.log((len(found) + painted) / painted)))


def compared_cues(
    margins: Float[np.ndarray, " d"], areas: Int[np.ndarray, " d"], mask: OrganFacts, like: Sequence[OrganFacts]
) -> list[float] | None:
    """What tells a good mask from a bad one where the example is annotated as a whole.

    How sure the network is, by slices and by pixels; how much taller or shorter than the example's the organ is, as a
    logarithm; how much less its slices resemble their neighbours than the example's do; on which share of the
    volume's slices it is.

    Args:
        margins: of each slice, nan where the organ is not found.
        areas: pixels of the mask in each slice.
        mask: its facts.
        like: those of the same organ in the examples; the one of the nearest height counts.

    Returns:
        1 and the six cues; None where the organ is not found, or no example is annotated as a whole.
    """
    seen = ~np.isnan(margins) & (areas > 0)
    known = [one for one in like if one.height > 0 and not np.isnan(one.steadiness)]
    if not seen.any() or not known or not mask.height > 0:
        return None
    taller, example = min(((np.log(mask.height / one.height), one) for one in known), key=lambda pair: abs(pair[0]))
    steadiness = 0.0 if np.isnan(mask.steadiness) else mask.steadiness
    of = margins[seen]
    return [
        1.0,
        float(of.mean()),
        float(np.average(of, weights=areas[seen])),
        float(np.clip(taller, 0, _MOST)),
        float(np.clip(-taller, 0, _MOST)),
        example.steadiness - steadiness,
        mask.slices / len(margins),
    ]


def compared_confidence(cues: Sequence[float]) -> float:
    """Estimated Dice of a mask, 0..1, from `compared_cues`."""
    return float(1 / (1 + np.exp(-np.dot(_COMPARED, cues))))


def slice_confidence(
    reverse: float, margins: Float[np.ndarray, " n"], distance: Float[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, " n"]:
    """Estimated Dice of each slice of a mask, 0..1; nan where the margin is.

    Args:
        reverse, margins: as for `mask_confidence`; a `reverse` that is nan counts as 0.
        distance: mm to the nearest slice of this volume on which the organ was painted; None as there.
    """
    cues = margins, np.nan_to_num(reverse)
    if distance is None:
        return np.asarray(_logistic(_SLICE, *cues), np.float32)
    return np.asarray(_logistic(_SLICE_OWN, *cues, np.log1p(distance / 10)), np.float32)


def _logistic(weights: tuple[float, ...], *cues: Any) -> Any:
    total = weights[0] + sum(weight * cue for weight, cue in zip(weights[1:], cues, strict=True))
    return 1 / (1 + np.exp(-total))
