"""From the voxels and the grid of any file format to a checked volume in the internal frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from fedcowpro.config import Modality
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.volume.volume import OBLIQUE_DEGREES, Grid, Volume

MIN_SLICES = 3
WHOLE = 1e-3  # how far a label may be from a whole number: scaled integers are off by rounding
_FEW = 32  # different values
UNKNOWN = 255  # in label maps of a data set that declares voxels unknown: neither an organ nor background
AFFINE_TOLERANCE = 0.1  # of the smallest spacing, at the corner that lies furthest off


def image_volume(voxels: np.ndarray, grid: Grid, name: str, modality: Modality | None = None) -> Volume:
    """A scalar image; oblique grids are taken along their nearest patient axes, with a warning.

    Args:
        voxels: float32 in the grid's own axis order.
        grid: where they lie.
        name: how messages call the volume, usually its path.
        modality: what the file's header says.

    Raises:
        FedCoWProError: fewer than 3 slices, NaN or infinite voxels, no contrast, the values of a label map.
    """
    depth = grid.internal_shape[0]
    if depth < MIN_SLICES or min(grid.shape) < 2:
        raise FedCoWProError(
            f"{name}: {depth} axial slice(s), shape {grid.shape}",
            f"at least {MIN_SLICES} axial slices",
            "give a whole volume rather than a localiser or a single slice",
        )
    bad = voxels.size - int(np.isfinite(voxels).sum())
    if bad:
        raise FedCoWProError(
            f"{name}: {bad} voxels are NaN or infinite",
            "finite intensities",
            "replace them, for example by the intensity of air, and save the volume again",
        )
    if voxels.min() == voxels.max():
        raise FedCoWProError(
            f"{name}: every voxel is {voxels.flat[0]:g}",
            "an image with contrast",
            "check that this file is the image and was exported completely",
        )
    if (few := _label_values(voxels)) is not None:
        raise FedCoWProError(
            f"{name}: whole numbers, {len(few)} different ones, as a label map has", "an image",
            "give the image; of a folder with both, a pattern for the images, as 'scans/image_*.nii.gz'",
        )  # fmt: skip
    if grid.oblique:
        inform(
            f"{name}: oblique by more than {OBLIQUE_DEGREES:g} degree; slices are cut along the volume's own "
            "axes nearest to axial",
            stacklevel=3,
        )
    return Volume(grid.to_internal(voxels), grid.spacing, grid, name, modality)


def _label_values(voxels: np.ndarray) -> np.ndarray | None:
    """The values, where they are few whole numbers of 0 to 255, as labels have and no scan; else None."""
    flat = values = voxels.reshape(-1)
    for part in (flat[:: max(1, flat.size // 10_000)], flat):  # most images are told by a few of their voxels
        values = np.unique(part)
        if len(values) > _FEW or values[0] < 0 or values[-1] > UNKNOWN or (values != np.round(values)).any():
            return None
    return values


def label_volume(values: np.ndarray, grid: Grid, like: Volume, name: str) -> Volume:
    """The label map of an image, uint8 (depth, height, width); 0 is background.

    Args:
        values: whole numbers 0..255 in the grid's own axis order, of any type.
        grid: where they lie; the image's, but for the order and direction of axes.
        like: the image.
        name: how messages call the map, usually its path.

    Raises:
        FedCoWProError: another shape or affine than the image's, values that are not whole numbers in 0..255.
    """
    remedy = f"resample the labels onto the grid of {like.name}"
    if grid.internal_shape != like.grid.internal_shape:
        raise FedCoWProError(
            f"{name}: shape {grid.internal_shape} (depth, height, width)",
            f"the image's shape {like.grid.internal_shape}",
            remedy,
        )
    offset = corner_offset(grid, like.grid)
    if offset > AFFINE_TOLERANCE * min(like.spacing):
        raise FedCoWProError(
            f"{name}: affine differs from the image's by up to {offset:.3g} mm",
            f"the affine of {like.name}",
            remedy,
        )
    whole = np.rint(values)
    with np.errstate(invalid="ignore"):
        fits = (np.abs(values - whole) <= WHOLE) & (whole >= 0) & (whole <= 255)
    if not fits.all():
        bad = np.argwhere(~fits)
        raise FedCoWProError(
            f"{name}: {len(bad)} voxel(s) that are no label, for example {values[tuple(bad[0])]:.7g} at "
            f"{tuple(map(int, bad[0]))}",
            f"a label map: whole numbers within {WHOLE:g}, 0 background, 1..255 organs",
            "check that this is a label map, not an image or a probability map; if it is one, save it rounded, "
            "as in numpy.rint(labels).astype('uint8')",
        )
    return Volume(grid.to_internal(whole.astype(np.uint8)), grid.spacing, grid, name)


def mark_unknown(labels: Volume, value: int | None) -> Volume:
    """The label map with `UNKNOWN` in place of a value that a data set declares unknown.

    Raises:
        FedCoWProError: another label has the value of `UNKNOWN`.
    """
    if value is None:
        return labels
    if value != UNKNOWN and (labels.voxels == UNKNOWN).any():
        raise FedCoWProError(
            f"{labels.name}: label {UNKNOWN} beside unknown voxels ({value})", "labels 1..254", "number that organ anew"
        )
    voxels = np.where(labels.voxels == value, np.uint8(UNKNOWN), labels.voxels)
    return replace(labels, voxels=voxels)


def require_nonempty(labels: np.ndarray, path: Path) -> None:
    """Refuse a support mask without a foreground voxel.

    Args:
        labels: label map or mask of any shape; 0 is background.
        path: the file it came from, for the message.

    Raises:
        FedCoWProError: no voxel is above 0.
    """
    if not labels.any():
        raise FedCoWProError(
            f"{path}: the mask is empty",
            "at least one labelled voxel in the support mask",
            "give a mask in which the organ is drawn, and check the label value asked for",
        )


def corner_offset(one: Grid, other: Grid) -> float:
    """Largest distance in mm between corners of two grids of one internal shape, each in the internal frame."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in one.internal_shape])).reshape(3, -1).T
    places = [nib.affines.apply_affine(grid.internal_affine, corners) for grid in (one, other)]
    return float(np.linalg.norm(places[0] - places[1], axis=1).max())
