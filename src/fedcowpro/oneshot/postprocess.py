"""What follows the comparison of features: boundaries from the image, and plausible connected parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
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
    if guide.device.type != "cpu":
        return _filter_at_once(probability, guide, radius, epsilon)
    # On a CPU one map after the other, so that all of it stays in the cache.
    box = _Boxes(2, guide.shape[-2:], radius, guide)
    result, lines = torch.empty_like(probability), torch.empty_like(guide[:1]).expand(2, -1, -1).clone()
    for image, maps, out in zip(guide, probability, result, strict=True):
        torch.mul(image, image, out=lines[1])
        lines[0] = image
        mean_image, variance = box(lines).clone()
        variance -= mean_image * mean_image
        flatness = (variance + epsilon).reciprocal_()
        for one, filtered in zip(maps, out, strict=True):
            torch.mul(image, one, out=lines[1])
            lines[0] = one
            mean, slope = box(lines)
            lines[1] = slope.sub_(mean_image * mean).mul_(flatness)
            torch.sub(mean, mean_image.mul(lines[1]), out=lines[0])
            offset, slope = box(lines)
            torch.addcmul(offset, slope, image, out=filtered)
    return result


def _filter_at_once(
    probability: Float[Tensor, "n k h w"], guide: Float[Tensor, "n h w"], radius: int, epsilon: float
) -> Float[Tensor, "n k h w"]:
    """`guided_filter` for a GPU, where many small operations cost more than large ones."""

    def box(maps: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h w"]:
        side = 2 * radius + 1
        rows = F.avg_pool2d(maps, (side, 1), 1, (radius, 0), count_include_pad=False)
        return F.avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)

    image = guide[:, None]
    mean_image, mean = box(image), box(probability)
    slope = (box(image * probability) - mean_image * mean) / (box(image * image) - mean_image**2 + epsilon)
    return box(slope) * image + box(mean - slope * mean_image)


class _Boxes:
    """Means over square windows, cut at the border, of a few maps at a time.

    A window's sum is made of sums of 1, 2, 4, ... neighbours, along the columns and then along the rows. Rows lie one
    after the other with zeros between them, so that each step is one addition of long vectors; memory is used again.
    This costs a fraction of a product with a band matrix, and much less than pooling.
    """

    def __init__(self, maps: int, shape: Sequence[int], radius: int, like: Tensor) -> None:
        (height, width), self._reach = shape, 2 * radius
        self._padded = like.new_zeros(maps, height + 2 * radius, width + 2 * radius)
        self._inside = self._padded[:, radius : radius + height, radius : radius + width]
        self._space = like.new_empty(4, self._padded.numel())
        rows, columns = (_window_sizes(length, radius, like) for length in (height, width))
        self._share = 1 / (rows[:, None] * columns)

    def __call__(self, maps: Float[Tensor, "m h w"]) -> Float[Tensor, "m h w"]:
        """The means; the next call overwrites them."""
        self._inside.copy_(maps)
        height, width = maps.shape[1:]
        line = self._padded.shape[2]
        sums = _window_sums(self._padded.flatten(), self._reach, line, self._space[0], self._space[2:])
        _window_sums(sums, self._reach, 1, self._space[1], self._space[2:])
        return self._space[1].view_as(self._padded)[:, :height, :width].mul_(self._share)


def _window_sizes(length: int, radius: int, like: Tensor) -> Float[Tensor, " n"]:
    """Pixels of a line that lie within `radius` of each one."""
    pixels = torch.arange(length, device=like.device)
    ends = (pixels + radius).clamp_max(length - 1) - (pixels - radius).clamp_min(0)
    return (ends + 1).to(like.dtype)


def _window_sums(values: Tensor, reach: int, step: int, out: Tensor, space: Tensor) -> Tensor:
    """out[i] = sum of values[i + j step] over j = 0..reach, as far as the values go.

    Args:
        values: (n,).
        reach: even.
        out: at least as long; its first part is written and returned.
        space: two vectors at least as long, overwritten.
    """
    count = len(values) - reach * step
    out = out[:count]
    doubled, size, done = values, 1, 0
    while True:
        if (reach + 1) & size:
            part = doubled[done * step : done * step + count]
            out.copy_(part) if done == 0 else out.add_(part)
            done += size
        if done > reach:
            return out
        shift = size * step
        target = space[size.bit_length() % 2][: len(doubled) - shift]
        doubled = torch.add(doubled[:-shift], doubled[shift:], out=target)
        size *= 2


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
