"""Superpixels of one slice: the pseudo-labels of self-supervised episodes.

Felzenszwalb segments within the body, as Ouyang et al. 2020 (SSL-ALPNet), or region merging (`data.merging`). Unlike
the reference's, the ids are contiguous, no id is empty, and the segment that Felzenszwalb's method happens to number
0 is kept.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from fedcowpro.config import Modality, SuperpixelConfig
from fedcowpro.data.superpixels.region_merging import merged_regions

# The reference's 50 of about 1300 for MR, in 0..255; CT is body wherever it is above the window's lower end.
FOREGROUND = {"ct": 1e-4, "mr": 10.0}
_EIGHT_CONNECTED = np.ones((3, 3), bool)


def body_mask(grey: np.ndarray, threshold: float) -> np.ndarray:
    """Largest 8-connected component of one slice above `threshold`, holes filled.

    Returns:
        bool, shape of `grey`; all False where nothing is above the threshold.
    """
    components, n = ndimage.label(grey > threshold, structure=_EIGHT_CONNECTED)
    if n == 0:
        return np.zeros(grey.shape, bool)
    sizes = np.bincount(components.ravel())
    return ndimage.binary_fill_holes(components == 1 + sizes[1:].argmax())


def superpixels(grey: np.ndarray, config: SuperpixelConfig, modality: Modality) -> np.ndarray:
    """Segment one slice.

    Args:
        grey: (size, size), grey levels 0..255. The result depends on this scale.
        config: the method with its scale, sigma and smallest segment, and the foreground threshold.
        modality: chooses the foreground threshold where `config` leaves it open, and the grey scale of merging.

    Returns:
        uint16 (size, size): 0 outside the body, 1..n inside, every id used.
    """
    threshold = FOREGROUND[modality] if config.foreground is None else config.foreground
    body = body_mask(grey, threshold)
    if config.method == "merging":
        # Differences in MR grow with brightness, as coils see near tissue brighter; the square root evens them out.
        even = np.sqrt(255 * np.maximum(grey, 0)) if modality == "mr" else grey
        found = merged_regions(even, body, price=config.scale, sigma=config.sigma, min_size=config.min_size)
        return found.astype(np.uint16)
    out = np.zeros(grey.shape, np.uint16)
    if body.any():
        from skimage.segmentation import felzenszwalb  # slow to import, and not needed by who segments

        raw = felzenszwalb(grey, scale=config.scale, sigma=config.sigma, min_size=config.min_size)
        _, ids = np.unique(raw[body], return_inverse=True)
        out[body] = ids + 1
    return out


def segment_areas(segments: np.ndarray) -> np.ndarray:
    """Pixels of each segment of one slice: int64 (n,), entry i for id i + 1."""
    return np.bincount(segments.ravel())[1:]
