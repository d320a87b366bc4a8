"""Pseudo-labels from the superpixels of one slice or of two: unions of neighbours, counterparts in another slice."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_SIMILAR = 0.5  # largest difference of mean grey values, in standard deviations of the slice's body


def joined(segments: np.ndarray, image: np.ndarray, seed: int, count: int) -> np.ndarray:
    """A superpixel with up to `count` others, one after the other: pseudo-labels of several scales from one map.

    Each time, of the superpixels that touch what is there, the one whose mean grey value is nearest to that of `seed`
    is added; it ends early where none lies within half a standard deviation of the body's grey values.

    Args:
        segments: ids (h, w), 0 = outside the body.
        image: grey values (h, w).

    Returns:
        bool (h, w), connected where superpixels are.
    """
    areas = np.bincount(segments.ravel())
    means = np.bincount(segments.ravel(), weights=image.ravel()) / np.maximum(areas, 1)
    limit = _SIMILAR * image[segments > 0].std()
    mask = segments == seed
    for _ in range(count):
        touching = np.unique(segments[ndimage.binary_dilation(mask) & ~mask])
        touching = touching[touching > 0]
        gaps = np.abs(means[touching] - means[seed])
        if not (gaps <= limit).any():
            break
        mask |= segments == touching[gaps.argmin()]
    return mask


def counterpart(mask: np.ndarray, segments: np.ndarray) -> tuple[np.ndarray, float]:
    """What a pseudo-label is in another slice: all superpixels there of which more than half lies in it.

    A superpixel whose IoU with the mask is above 1/2 is always among them, and each one raises the IoU of the union.

    Args:
        mask: bool (h, w), not empty.
        segments: ids (h, w) of the other slice, 0 = outside the body.

    Returns:
        bool (h, w), and its IoU with `mask`.
    """
    areas = np.bincount(segments.ravel())
    covered = np.bincount(segments[mask], minlength=len(areas))
    chosen = 2 * covered > areas
    chosen[0] = False
    shared, found = covered[chosen].sum(), areas[chosen].sum()
    return chosen[segments], float(shared / (mask.sum() + found - shared))
