"""What a pseudo-label of one slice is in another."""

from __future__ import annotations

import numpy as np


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
