"""Distances between the surfaces of two binary masks: HD95 and normalised surface Dice (NSD), in mm.

Libraries differ in what a surface is; the same two masks have other numbers under each. Two definitions are here:

- ``area``, the default: the surface runs between voxels. Each corner at which voxels inside and outside meet carries
  one surface element, weighted by its area in mm², so that thick slices count as what they are (Nikolov et al. 2018,
  "Deep learning to achieve clinically applicable segmentation of head and neck anatomy"; surface-distance 0.1).
- ``voxels``: the surface is the mask's voxels that have a face neighbour outside, each of weight 1 (MONAI's default).

In both, all that lies outside of the volume is background: a mask cut off by the volume's border has a surface there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.measure import marching_cubes

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.overlap import require_masks

Definition = Literal["area", "voxels"]
Spacing = Sequence[float]
PERCENTILE = 0.95
CROWDED = 16  # voxels per surface element below which a distance transform is faster than a search tree
ROUNDING = 1e-9  # relative; a distance of three voxels of 0.1 mm is within 0.3 mm, though the floats say otherwise


@dataclass(frozen=True)
class SurfaceMetrics:
    """Distances between two surfaces.

    Attributes:
        hd95: the larger of the two directed 95th percentiles of the distance to the other surface, in mm. NaN when both
            masks are empty; infinite when exactly one is.
        nsd: share of both surfaces that lies within the tolerance of the other one, 0..1. NaN when both masks are
            empty; 0.0 when exactly one is.
        tolerance: in mm.
        definition: what a surface is; "area" or "voxels".
    """

    hd95: float
    nsd: float
    tolerance: float
    definition: Definition


def surface_metrics(
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    spacing: Spacing,
    tolerance: float,
    definition: Definition = "area",
) -> SurfaceMetrics:
    """HD95 and NSD of two masks, from the same distances.

    Args:
        prediction: boolean mask (depth, height, width).
        truth: boolean mask of the same shape.
        spacing: voxel size (depth, height, width) in mm.
        tolerance: largest distance in mm, itself included, at which surfaces count as agreeing.
        definition: what a surface is, see the module.

    Raises:
        FedCoWProError: masks that are not boolean, 3-D and of one shape; a spacing that is not three positive numbers;
            a tolerance below 0; an unknown definition.
    """
    predicted, true = require_masks(prediction, truth)
    size = _check(predicted, spacing, tolerance, definition)
    inside = predicted.any(), true.any()
    if not all(inside):
        nothing = not any(inside)
        return SurfaceMetrics(math.nan if nothing else math.inf, math.nan if nothing else 0.0, tolerance, definition)
    box = _bounding_box(predicted | true)
    surfaces = [_surface(mask[box], size, definition) for mask in (predicted, true)]
    (of_prediction, weights), (of_truth, true_weights) = surfaces
    to_truth = _distances(of_prediction, of_truth, size)
    to_prediction = _distances(of_truth, of_prediction, size)
    near = tolerance * (1 + ROUNDING)
    agreeing = weights[to_truth <= near].sum() + true_weights[to_prediction <= near].sum()
    percentile = _weighted_percentile if definition == "area" else _percentile
    return SurfaceMetrics(
        hd95=max(percentile(to_truth, weights), percentile(to_prediction, true_weights)),
        nsd=float(agreeing / (weights.sum() + true_weights.sum())),
        tolerance=tolerance,
        definition=definition,
    )


def _check(mask: npt.NDArray[np.bool_], spacing: Spacing, tolerance: float, definition: str) -> npt.NDArray[np.float64]:
    if mask.ndim != 3:
        raise FedCoWProError(
            f"masks of shape {mask.shape}", "masks (depth, height, width)", "add an axis of length 1 to a single slice"
        )
    size = np.asarray(spacing, dtype=np.float64)
    if size.shape != (3,) or not (np.isfinite(size) & (size > 0)).all():
        raise FedCoWProError(f"spacing {tuple(spacing)}", "three positive numbers in mm", "give (depth, height, width)")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise FedCoWProError(f"a tolerance of {tolerance} mm", "a number from 0 on", "give a distance in mm")
    if definition not in get_args(Definition):
        raise FedCoWProError(
            f"surface definition '{definition}'", f"one of {', '.join(get_args(Definition))}", "choose one"
        )
    return size


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """The part that holds a mask; every surface and all that is nearest to it lie in it, or half a voxel around it."""
    box = []
    for axes in ((1, 2), (0, 2), (0, 1)):
        used = np.flatnonzero(mask.any(axis=axes))
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)


def _surface(
    mask: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64], definition: Definition
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Where the surface is, on a grid with the mask's spacing, and the weight of each of its elements in C order."""
    padded = np.pad(mask, 1)
    if definition == "voxels":
        core = padded[1:-1, 1:-1, 1:-1]
        kernel = core.copy()
        for axis in range(3):
            for start in (0, 2):
                window = [slice(1, -1)] * 3
                window[axis] = slice(start, start + mask.shape[axis])
                kernel &= padded[tuple(window)]
        surface = core & ~kernel
        return surface, np.ones(np.count_nonzero(surface))
    codes: npt.NDArray[np.uint8] = padded.view(np.uint8)
    codes = codes[:-1] | (codes[1:] << np.uint8(1))
    codes = codes[:, :-1] | (codes[:, 1:] << np.uint8(2))
    codes = codes[:, :, :-1] | (codes[:, :, 1:] << np.uint8(4))
    surface = (codes != 0) & (codes != 255)
    return surface, _areas(tuple(spacing.tolist()))[codes[surface]]


def _distances(
    start: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Distance in mm of each element of `start`, in C order, to the nearest of `target`."""
    distances = np.zeros(np.count_nonzero(start))
    apart = ~target[start]  # the other elements lie on both surfaces
    offsets = _by_tree if CROWDED * (len(distances) + np.count_nonzero(target)) < start.size else _by_transform
    distances[apart] = offsets(start & ~target, target, spacing)
    return distances


def _by_tree(
    start: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Fast where surfaces are thin in a large box, as those of organs are."""
    tree = KDTree(np.argwhere(target) * spacing, balanced_tree=False, compact_nodes=False)
    return np.asarray(tree.query(np.argwhere(start) * spacing)[0])


def _by_transform(
    start: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Fast where surfaces fill the box, as those of noise do; its time does not depend on them."""
    # The transform's indices spare its distances of all the voxels that no surface passes.
    nearest = ndimage.distance_transform_edt(~target, sampling=spacing, return_distances=False, return_indices=True)
    here = np.nonzero(start)
    steps = np.stack([(nearest[axis][here] - here[axis]) * spacing[axis] for axis in range(3)])
    return np.asarray(np.sqrt((steps * steps).sum(axis=0)))


def _weighted_percentile(distances: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    """Smallest distance within which lie 95 % of the area."""
    order = np.argsort(distances)
    area = np.cumsum(weights[order])
    return float(distances[order[np.searchsorted(area, PERCENTILE * area[-1] * (1 - ROUNDING))]])


def _percentile(distances: npt.NDArray[np.float64], _: npt.NDArray[np.float64]) -> float:
    """95th percentile, interpolated between the two nearest elements."""
    return float(np.quantile(distances, PERCENTILE))


@lru_cache(maxsize=64)
def _areas(spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Area in mm² of the surface within the eight voxels around a corner, for each code 0..255.

    Bit dz + 2 dy + 4 dx of a code says whether the voxel at that offset is inside. The surface is that of marching
    cubes (Lorensen & Cline 1987), taken from the side with fewer voxels: seen from either side, its area is the same.
    """
    areas = np.zeros(256)
    for code in range(1, 255):
        lesser = code if code.bit_count() <= 4 else 255 - code
        inside = np.array([lesser >> bit & 1 for bit in range(8)], dtype=np.float32).reshape(2, 2, 2, order="F")
        points, faces, _, _ = marching_cubes(inside, 0.5, method="lorensen")
        corners = points.astype(np.float64)[faces] * spacing
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        areas[code] = np.linalg.norm(normals, axis=1).sum() / 2
    return areas
