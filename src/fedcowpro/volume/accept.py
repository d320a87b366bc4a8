"""A volume or label map in whatever form a user has it: array, nibabel image, path."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.volume.checks import image_volume, label_volume
from fedcowpro.volume.parse import grid_of, voxels_of
from fedcowpro.volume.read import read_labels, read_volume
from fedcowpro.volume.volume import Grid, Volume

Given = np.ndarray | nib.spatialimages.SpatialImage | str | PathLike[str]
Painted = Sequence[int] | Literal["labelled", "all"]


def as_volume(given: Given, spacing: Sequence[float] | None = None, name: str = "image") -> Volume:
    """An image as a volume.

    Args:
        given: array (depth, height, width) growing to Superior, Posterior and Left; a nibabel image; or the path of a
            file or of a folder with one DICOM series.
        spacing: mm between voxels of an array along (depth, height, width); other forms bring their own.
        name: how messages call it.

    Raises:
        FedCoWProError: an array without spacing, spacing beside another form, another type, or what `read_volume`
            refuses.
    """
    if isinstance(given, np.ndarray):
        return image_volume(_numbers(given, name).astype(np.float32), _array_grid(given, spacing, name), name)
    if spacing is not None:
        raise FedCoWProError(
            f"{name}: spacing {tuple(spacing)} beside a file or image that brings its own", "spacing with arrays only",
            "leave spacing out",
        )  # fmt: skip
    if isinstance(given, nib.spatialimages.SpatialImage):
        where = Path(given.get_filename() or name)
        image = _nifti(given)
        return image_volume(voxels_of(image, where).astype(np.float32), grid_of(image, where), str(where))
    if isinstance(given, str | PathLike):
        return read_volume(Path(given))
    raise _unknown(given, name)


def as_labels(given: Given, like: Volume, name: str = "mask") -> Volume:
    """A label map of an image, uint8; an array lies on the image's own axes.

    Raises:
        FedCoWProError: another type, shape, place or values than a label map of this image has.
    """
    if isinstance(given, np.ndarray):
        values = _numbers(given.astype(np.uint8) if given.dtype == bool else given, name)
        if values.shape != like.grid.shape:
            raise FedCoWProError(
                f"{name}: shape {values.shape}", f"{like.grid.shape}, the shape of {like.name}",
                "give the labels on the image's own axes",
            )  # fmt: skip
        return label_volume(values, like.grid, like, name)
    if isinstance(given, nib.spatialimages.SpatialImage):
        where = Path(given.get_filename() or name)
        image = _nifti(given)
        return label_volume(voxels_of(image, where), grid_of(image, where), like, str(where))
    if isinstance(given, str | PathLike):
        return read_labels(Path(given), like)
    raise _unknown(given, name)


def known_slices(painted: Painted | None, labels: Volume) -> np.ndarray:
    """Which slices of an example are known, bool (depth,).

    Args:
        painted: as for `painted_slices`; 'all' = every one; None = every one, but where all labels lie in one slice of
            a volume: then that slice alone is, with a warning, for nobody draws an organ into one slice and knows that
            it is in no other.
        labels: the label map.

    Raises:
        FedCoWProError: a number outside the volume.
    """
    if painted is not None and painted != "all":
        return painted_slices(painted, labels)
    shown = np.asarray(labels.voxels.any(axis=(1, 2)))
    if painted is None and int(shown.sum()) == 1:
        inform(
            f"{labels.name}: labels in one slice of {len(shown)}: the others are taken for not annotated; "
            "say --painted all (painted='all' in Python) if no organ is in them",
            stacklevel=2,
        )
        return shown
    return np.ones(len(shown), bool)


def painted_slices(painted: Painted, labels: Volume) -> np.ndarray:
    """Which slices are known, bool (depth,).

    Args:
        painted: their numbers along the file's or array's own axis through the slices, or 'labelled' for those that
            have a label.
        labels: the label map.

    Raises:
        FedCoWProError: a number outside the volume.
    """
    if isinstance(painted, str):
        if painted != "labelled":
            raise FedCoWProError(f"painted='{painted}'", "'labelled' or slice numbers", "correct it")
        return np.asarray(labels.voxels.any(axis=(1, 2)))
    grid = labels.grid
    axis = int(np.flatnonzero(nib.io_orientation(grid.affine)[:, 0] == 2)[0])
    count = grid.shape[axis]
    if odd := [z for z in painted if not 0 <= int(z) < count]:
        raise FedCoWProError(f"painted: slice {odd[0]}", f"numbers in 0..{count - 1}", "count slices from 0")
    known = np.zeros(grid.shape, bool)
    known[(slice(None),) * axis + (list(map(int, painted)),)] = True
    return np.asarray(grid.to_internal(known)[:, 0, 0])


def _array_grid(array: np.ndarray, spacing: Sequence[float] | None, name: str) -> Grid:
    if array.ndim != 3:
        raise FedCoWProError(f"{name}: an array of shape {array.shape}", "(depth, height, width)", "give one volume")
    sizes = tuple(float(mm) for mm in spacing) if spacing is not None else ()
    if len(sizes) != 3 or not all(np.isfinite(mm) and mm > 0 for mm in sizes):
        raise FedCoWProError(
            f"{name}: an array with spacing {spacing}", "three lengths in mm, (depth, height, width)",
            "give spacing=(depth, height, width)",
        )  # fmt: skip
    depth, height, width = sizes
    affine = np.array([[0, 0, -width, 0], [0, -height, 0, 0], [depth, 0, 0, 0], [0, 0, 0, 1.0]])
    return Grid((array.shape[0], array.shape[1], array.shape[2]), affine)


def _nifti(image: nib.spatialimages.SpatialImage) -> nib.Nifti1Image:
    """Any spatial image with a NIfTI header, which says where it lies."""
    return image if isinstance(image, nib.Nifti1Image) else nib.Nifti1Image.from_image(image)


def _numbers(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind not in "iuf":
        raise FedCoWProError(f"{name}: an array of {array.dtype}", "one real number per voxel", "convert the array")
    return array


def _unknown(given: object, name: str) -> FedCoWProError:
    return FedCoWProError(
        f"{name}: {type(given).__name__}",
        "a NumPy array with spacing, a nibabel image, or the path of a file or of a DICOM folder",
        "convert it",
    )
