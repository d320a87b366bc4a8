"""How far to trust a mask whose truth nobody knows.

- Reverse Dice: the roles are swapped. The predicted organ on the query becomes the annotation, the annotated slices
  are segmented with it, and the result is compared with what the user drew (reverse classification accuracy: Valindria
  et al., arXiv 1702.03407). A wrong organ on the query does not lead back to the right one.
- Margin of a slice: how far above the threshold the probabilities of the found pixels lie.
- A mask's confidence is the geometric mean of its reverse Dice and the mean margin of its slices. The two see different
  failures; together they rank masks better than reverse Dice alone, the figures are in docs/results.md.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fedcowpro.evaluate.overlap import dice
from fedcowpro.infer import Encoded, Group, OneShotPredictor, pick_slices, slices_of
from fedcowpro.volume.preprocess import Placement


class Annotated(Protocol):
    """The part of a support that is needed here."""

    @property
    def features(self) -> Encoded: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def groups(self) -> tuple[Group, ...]: ...


def reverse_dice(
    predictor: OneShotPredictor,
    support: Annotated,
    query: Encoded,
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
    slices = {group.organ: sorted(set(group.slices)) for group in support.groups}
    result = dict.fromkeys(slices, float("nan"))
    picked = {
        organ: pick_slices(slices_of(labels, organ), predictor.config.support_slices)
        for organ in slices
        if (labels == organ).any()
    }
    used = sorted({z for zs in picked.values() for z in zs})
    prepared = placement.to_prepared_labels(labels[used])
    groups = []
    for organ, zs in picked.items():
        shown = tuple(used.index(z) for z in zs if (prepared[used.index(z)] == organ).any())
        if shown:  # an organ of a few voxels can vanish where pixels are coarser
            groups.append(Group(organ, shown))
    if not groups:
        return result
    bank = predictor.bank(query.select(used), prepared, groups)
    choice = np.repeat(np.arange(len(groups))[:, None], len(support.labels), axis=1)
    back = predictor.masks(support.features, bank, choice)
    for group, mask in zip(groups, back, strict=True):
        of_organ = slices[group.organ]
        result[group.organ] = dice(mask[of_organ], support.labels[of_organ] == group.organ)
    return result


def slice_margins(soft: Float[np.ndarray, "k n s s"], threshold: float) -> Float[np.ndarray, "k n"]:
    """Mean of (probability - threshold) / (1 - threshold) over the pixels above it, 0..1; nan without any."""
    above: Bool[np.ndarray, "k n s s"] = soft > threshold
    count = above.sum(axis=(2, 3))
    total = np.where(above, soft - threshold, 0).sum(axis=(2, 3), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count / (1 - threshold), np.float32)


def mask_confidence(reverse: float, margins: Float[np.ndarray, " n"]) -> float:
    """Geometric mean of a mask's reverse Dice and the mean margin of the slices that show it; nan where none does.

    Args:
        reverse: of `reverse_dice`, 0..1 or nan.
        margins: of each slice, nan where the organ is not found.
    """
    found = margins[~np.isnan(margins)]
    return float(np.sqrt(reverse * found.mean())) if len(found) else float("nan")
