"""Shapes between painted slices, without the image: signed distances, linear from slice to slice.

Raya and Udupa, "Shape-based interpolation of multidimensional objects", IEEE TMI 1990.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.extent import outside
from fedcowpro.volume.checks import UNKNOWN


def interpolate_shapes(annotation: Annotation, spacing: Sequence[float]) -> UInt8[np.ndarray, "d h w"]:
    """Labels of the slices between painted ones, which stay as they are; 0 where nothing is known of an organ.

    Between two slices that show an organ its signed distance (mm, inside positive) is interpolated. Between one and a
    slice that is known to be without it, painted or just beyond its end, the shape shrinks to nothing: as half a ball
    does where it is the only one painted, which then is taken for the middle, else as a paraboloid.
    Where organs meet, the one that reaches deeper wins.

    Args:
        annotation: painted slices, and ends of organs where they are known.
        spacing: mm (depth, height, width).

    Raises:
        FedCoWProError: no painted slice shows an organ.
    """
    painted, hidden = annotation.painted, UNKNOWN if annotation.unknown else 0
    known = annotation.labels * painted[:, None, None]
    organs = [int(organ) for organ in np.unique(known) if organ not in (0, hidden)]
    if not organs:
        raise FedCoWProError("no painted slice", "an organ on one slice at least", "paint an organ")
    labels = known.copy()
    deepest = np.zeros(labels.shape, np.float32)
    nowhere = outside(organs, annotation.extents, len(labels))
    for organ, bare in zip(organs, nowhere, strict=True):
        depths = _between(known == organ, painted | bare, spacing[1:])
        depths[painted | bare] = 0
        labels[depths > deepest] = organ
        np.maximum(deepest, depths, out=deepest)
    return labels


def _between(
    masks: Bool[np.ndarray, "d h w"], known: Bool[np.ndarray, " d"], pixel: Sequence[float]
) -> Float[np.ndarray, "d h w"]:
    """Signed distance (mm) of one organ on every slice between two known ones; negative elsewhere."""
    out = np.full(masks.shape, -1, np.float32)
    roundness = 2 if masks[known].any(axis=(1, 2)).sum() == 1 else 1
    for below, above in pairwise(np.flatnonzero(known)):
        shown = [bool(masks[z].any()) for z in (below, above)]
        if above == below + 1 or not any(shown):
            continue
        share = np.arange(1, above - below, dtype=np.float32)[:, None, None] / np.float32(above - below)
        if all(shown):
            one, other = (_signed(masks[z], pixel) for z in (below, above))
            out[below + 1 : above] = (1 - share) * one + share * other
        else:
            shape = _signed(masks[below if shown[0] else above], pixel)
            away = share if shown[0] else 1 - share
            out[below + 1 : above] = shape - shape.max() * (1 - np.sqrt(1 - away**roundness))
    return out


def _signed(mask: Bool[np.ndarray, "h w"], pixel: Sequence[float]) -> Float[np.ndarray, "h w"]:
    inside = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=pixel)[1:-1, 1:-1]
    outer = ndimage.distance_transform_edt(~mask, sampling=pixel)
    return np.asarray(inside - outer, np.float32)
