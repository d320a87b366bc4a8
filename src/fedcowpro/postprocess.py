"""What follows the comparison of features: boundaries from the image, and plausible connected parts."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor


def guided_filter(
    probability: Float[Tensor, "n k h w"], guide: Float[Tensor, "n h w"], radius: int, epsilon: float = 1e-3
) -> Float[Tensor, "n k h w"]:
    """Move the soft borders of coarse probabilities to the edges of the image (He, Sun & Tang 2010).

    Within each window the result is a linear function of the guide: flat areas are smoothed, edges kept.

    Args:
        probability: 0..1.
        guide: the slice in 0..1.
        radius: half side of the windows in pixels, at least 1; windows are cut at the border.
        epsilon: variance of the guide below which an area counts as flat.
    """
    image = guide[:, None]
    mean_image, mean = _box(image, radius), _box(probability, radius)
    variance = _box(image * image, radius) - mean_image * mean_image
    slope = (_box(image * probability, radius) - mean_image * mean) / (variance + epsilon)
    offset = mean - slope * mean_image
    return _box(slope, radius) * image + _box(offset, radius)


def _box(maps: Tensor, radius: int) -> Tensor:
    """Mean over a square window, cut at the border: a product with a band matrix on either side.

    Several times faster than pooling, whose cost grows with the window.
    """
    return _band(maps.shape[-2], radius, maps) @ (maps @ _band(maps.shape[-1], radius, maps).T)


def _band(length: int, radius: int, like: Tensor) -> Float[Tensor, "n n"]:
    """Row i takes the mean of the pixels around i."""
    pixels = torch.arange(length, device=like.device)
    near = ((pixels[:, None] - pixels).abs() <= radius).to(like.dtype)
    return near / near.sum(1, keepdim=True)


def keep_components(
    mask: Bool[np.ndarray, "d h w"],
    location: Float[np.ndarray, "h w"],
    parts: int,
    sure: Bool[np.ndarray, "d h w"] | None = None,
) -> Bool[np.ndarray, "d h w"]:
    """The connected parts of a mask that lie best where the support has the organ.

    Args:
        mask: prediction.
        location: weight of each pixel of a slice (see `location_map`); a part's rank is its sum over the part.
        parts: how many to keep (see `count_parts`).
        sure: voxels of the mask that are known; parts with one come first, and all of them are kept.
    """
    labelled, count = ndimage.label(mask)
    if count <= parts:
        return mask
    weights = np.broadcast_to(location, mask.shape)[mask]
    rank = np.bincount(labelled[mask], weights, count + 1)
    if sure is not None:
        known = np.unique(labelled[sure & mask])
        rank[known] += rank.sum()
        parts = max(parts, len(known))
    best = np.argsort(rank, kind="stable")[::-1][:parts]
    return np.isin(labelled, best)


def location_map(support: Bool[np.ndarray, "n h w"]) -> Float[np.ndarray, "h w"]:
    """Where the support shows the organ: its slices' union, blurred by a twentieth of the slice, plus a trace.

    The trace makes parts comparable by size where the support has nothing at all.
    """
    union = support.any(axis=0).astype(np.float32)
    return ndimage.gaussian_filter(union, support.shape[-1] / 20) + np.float32(1e-4)


def count_parts(support: Bool[np.ndarray, "n h w"], least: float = 0.2) -> int:
    """Connected parts of an organ in a typical slice that shows it (median over slices), at least 1.

    Args:
        support: the organ in its support slices.
        least: parts smaller than this share of a slice's largest do not count.
    """
    counts = []
    for mask in support:
        sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
        if len(sizes):
            counts.append(int((sizes >= least * sizes.max()).sum()))
    return int(np.median(counts)) if counts else 1
