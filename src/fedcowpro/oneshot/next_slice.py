"""Which slice is worth painting next, by what is in doubt there."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from fedcowpro.oneshot.extent import Extents, outside
from fedcowpro.oneshot.segmentation import Segmentation

REACH = 20.0  # mm to both sides over which a painted slice helps


def doubt_of_slices(
    found: Segmentation, painted: Bool[np.ndarray, " d"], extents: Extents, spacing: tuple[float, float, float]
) -> Float[np.ndarray, "k d"]:
    """Millilitres of each organ on each slice that are in doubt; 0 on painted slices.

    That is (1 - confidence) times what was found of the organ on the slice. Where an organ's ends are both known, a
    slice between them on which nothing was found lacks it for sure, and counts as much as the organ has on a slice on
    average.

    Args:
        found: a segmented volume with its confidence.
        painted: slices that are known.
        extents: first and last slice of organs, as far as they are known.
        spacing: mm (depth, height, width).
    """
    voxel = float(np.prod(spacing)) / 1000
    amounts = np.stack([(found.labels == organ).sum(axis=(1, 2)) * voxel for organ in found.organs]).astype(float)
    doubt = amounts * (1 - np.nan_to_num(found.slice_confidence))
    for row, amount, organ in zip(doubt, amounts, found.organs, strict=True):
        if organ in extents and amount.any():
            missing = ~outside([organ], extents, len(painted))[0] & (amount == 0)
            row[missing] = amount[amount > 0].mean()
    doubt[:, painted] = 0
    return doubt


def gain_of_slices(doubt: Float[np.ndarray, "k d"], spacing: float) -> Float[np.ndarray, " d"]:
    """What painting each slice would settle, ml: the doubt of all organs on it and, less and less, `REACH` mm around.

    Args:
        doubt: of `doubt_of_slices`.
        spacing: mm between slices.
    """
    slices = np.arange(doubt.shape[1])
    weights = np.clip(1 - np.abs(slices[:, None] - slices) * spacing / REACH, 0, None)
    return np.asarray(weights @ doubt.sum(axis=0))
