"""A volume or label map in whatever form a user has it: array, nibabel image, path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from glob import has_magic
from math import isclose
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

import nibabel as nib
import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.volume.checks import image_volume, label_volume
from fedcowpro.volume.find import find_volumes
from fedcowpro.volume.parse import grid_of, voxels_of
from fedcowpro.volume.read import read_labels, read_volume, require_volume
from fedcowpro.volume.volume import Grid, Volume

Given = np.ndarray | nib.spatialimages.SpatialImage | str | PathLike[str]
Painted = Sequence[int] | Literal["labelled", "all"]
Order = Literal["zyx", "xyz"]
_SAME = 0.01  # relative difference of two lengths that are taken for one


def as_volume(
    given: Given, spacing: Sequence[float] | None = None, name: str = "image", order: Order | None = None
) -> Volume:
    """An image as a volume.

    Args:
        given: an array; a nibabel image; or the path of a file or of a folder with one DICOM series.
        spacing: mm between voxels along an array's own axes; other forms bring their own.
        name: how messages call it.
        order: axes of an array: 'zyx' = (depth, height, width) growing to Superior, Posterior and Left; 'xyz' =
            nibabel's (right, anterior, superior); None = told from shape and spacing (see `order_of`).

    Raises:
        FedCoWProError: an array without spacing or of an order that cannot be told, spacing or order beside another
            form, another type, or what `read_volume` refuses.
    """
    if isinstance(given, np.ndarray):
        return image_volume(_numbers(given, name).astype(np.float32), _array_grid(given, spacing, order, name), name)
    if spacing is not None or order is not None:
        what = f"spacing {tuple(spacing)}" if spacing is not None else f"order '{order}'"
        raise FedCoWProError(
            f"{name}: {what} beside a file or image that brings its own", "spacing and order with arrays only",
            "leave it out",
        )  # fmt: skip
    if isinstance(given, nib.spatialimages.SpatialImage):
        where = Path(given.get_filename() or name)
        image = _nifti(given)
        return image_volume(voxels_of(image, where).astype(np.float32), grid_of(image, where), str(where))
    if isinstance(given, str | PathLike):
        return read_volume(Path(given))
    raise _unknown(given, name)


def as_volumes(
    given: Sequence[Given], spacing: Sequence[float] | None = None, order: Order | None = None
) -> Iterator[Volume]:
    """Images of any form as volumes, one after the other; spacing and order are of the arrays among them.

    Raises:
        FedCoWProError: as `as_volume`.
    """
    for number, one in enumerate(given):
        of_array = (spacing, f"volume {number}", order) if isinstance(one, np.ndarray) else (None, f"volume {number}")
        yield as_volume(one, *of_array)


def several(given: Given | Sequence[Given]) -> list[Given] | None:
    """The images that a list, a pattern or a folder stands for; None where it is one image.

    Raises:
        FedCoWProError: an empty list; a pattern or folder that stands for nothing; a path among them that is missing,
            of an unknown format, or a broken NIfTI file.
    """
    if isinstance(given, str | PathLike):
        path = Path(given)
        if path.is_file() or not (path.is_dir() or has_magic(str(path))):
            return None
        paths = find_volumes([path])
        if paths == [path]:  # a DICOM series
            return None
        images: list[Given] = [*paths]
    elif isinstance(given, Sequence):
        images = list(given)
    else:
        return None
    if not images:
        raise FedCoWProError("an empty list of volumes", "one image at least", "give a list, a folder or a pattern")
    for one in images:
        if isinstance(one, str | PathLike):
            require_volume(Path(one))
    return images


def order_of(shape: Sequence[int], spacing: Sequence[float], name: str = "image") -> Order:
    """Whether the axis through the slices comes first or last in an array.

    Slices are nearly always squares of square pixels. So the two axes of one length, or of one spacing, lie within the
    slices. Shape and spacing must not contradict each other.

    Args:
        shape: voxels along the array's axes.
        spacing: mm along the same axes.
        name: how messages call the array.

    Raises:
        FedCoWProError: neither or both orders are likely.
    """
    votes: set[Order] = set()
    for first, middle, last in (shape, spacing):
        slices_first, slices_last = isclose(middle, last, rel_tol=_SAME), isclose(first, middle, rel_tol=_SAME)
        if slices_first != slices_last:
            votes.add("zyx" if slices_first else "xyz")
    if len(votes) != 1:
        raise FedCoWProError(
            f"{name}: an array of shape {tuple(shape)} with spacing {tuple(map(float, spacing))}, whose axes can be "
            "(depth, height, width) or nibabel's (x, y, z)", "an order that is known",
            "give order='zyx' or order='xyz', and spacing along the same axes; or give the nibabel image itself",
        )  # fmt: skip
    return votes.pop()


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


def _array_grid(array: np.ndarray, spacing: Sequence[float] | None, order: Order | None, name: str) -> Grid:
    if array.ndim != 3:
        raise FedCoWProError(f"{name}: an array of shape {array.shape}", "three axes", "give one volume")
    sizes = tuple(float(mm) for mm in spacing) if spacing is not None else ()
    if len(sizes) != 3 or not all(np.isfinite(mm) and mm > 0 for mm in sizes):
        raise FedCoWProError(
            f"{name}: an array with spacing {spacing}", "three lengths in mm, along the array's axes",
            "give spacing=(depth, height, width)",
        )  # fmt: skip
    if order not in (None, *get_args(Order)):
        raise FedCoWProError(f"order='{order}'", "'zyx' or 'xyz'", "correct it, or leave it out")
    if order is None:
        order = order_of(array.shape, sizes, name)
        if order == "xyz":
            inform(
                f"{name}: shape {array.shape} and spacing {sizes} are taken for nibabel's axes (x, y, z), slices along "
                "the last one; say order='xyz' to have no note, order='zyx' if it is not so",
                stacklevel=4,
            )
    if order == "xyz":
        affine = np.diag([*sizes, 1.0])
    else:
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
