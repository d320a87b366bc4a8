"""Images and label maps as NIfTI files, in and out."""

from __future__ import annotations

import gzip
import os
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np

from fedcowpro.errors import FedCoWProError
from fedcowpro.volume.parse import grid_of, open_nifti, voxels_of
from fedcowpro.volume.volume import OBLIQUE_DEGREES, Grid, Volume

MIN_SLICES = 3
AFFINE_TOLERANCE = 0.1  # of the smallest spacing, at the corner that lies furthest off


def read_image(path: Path) -> Volume:
    """Read one scalar 3-D volume, whatever the order and direction of the file's axes.

    A trailing axis of length 1 is dropped. An oblique volume is taken along its nearest patient axes, with a
    warning.

    Returns:
        Volume with float32 voxels (depth, height, width), the file's intensity scaling applied.

    Raises:
        FedCoWProError: missing, damaged or non-NIfTI file; 2-D or 4-D data; complex or RGB voxels; no or
            singular affine; units other than mm; fewer than 3 slices; NaN or infinite voxels; no contrast.
    """
    path = Path(path)
    image = open_nifti(path)
    grid = grid_of(image, path)
    depth = grid.internal_shape[0]
    if depth < MIN_SLICES or min(grid.shape) < 2:
        raise FedCoWProError(
            f"{path}: {depth} axial slice(s), shape {grid.shape}",
            f"at least {MIN_SLICES} axial slices",
            "give a whole volume rather than a localiser or a single slice",
        )
    with np.errstate(over="ignore"):
        voxels = voxels_of(image, path).astype(np.float32)
    bad = voxels.size - int(np.isfinite(voxels).sum())
    if bad:
        raise FedCoWProError(
            f"{path}: {bad} voxels are NaN or infinite",
            "finite intensities",
            "replace them, for example by the intensity of air, and save the volume again",
        )
    if voxels.min() == voxels.max():
        raise FedCoWProError(
            f"{path}: every voxel is {voxels.flat[0]:g}",
            "an image with contrast",
            "check that this file is the image and was exported completely",
        )
    if grid.oblique:
        warnings.warn(
            f"{path}: oblique by more than {OBLIQUE_DEGREES:g} degree; slices are cut along the volume's own "
            "axes nearest to axial",
            stacklevel=2,
        )
    return Volume(grid.to_internal(voxels), grid.spacing, grid, str(path))


def read_labels(path: Path, like: Volume) -> Volume:
    """Read the label map of an image.

    Returns:
        Volume with uint8 voxels (depth, height, width); 0 is background.

    Raises:
        FedCoWProError: what `read_image` refuses in a file, another shape or affine than the image's,
            values that are not whole numbers in 0..255.
    """
    path = Path(path)
    image = open_nifti(path)
    grid = grid_of(image, path)
    remedy = f"resample the labels onto the grid of {like.name}"
    if grid.shape != like.grid.shape:
        raise FedCoWProError(f"{path}: shape {grid.shape}", f"the image's shape {like.grid.shape}", remedy)
    offset = _corner_offset(grid, like.grid)
    if offset > AFFINE_TOLERANCE * min(like.spacing):
        raise FedCoWProError(
            f"{path}: affine differs from the image's by up to {offset:.3g} mm",
            f"the affine of {like.name}",
            remedy,
        )
    values = voxels_of(image, path)
    if not np.isfinite(values).all() or (values != np.round(values)).any() or values.min() < 0 or values.max() > 255:
        raise FedCoWProError(
            f"{path}: values from {values.min():g} to {values.max():g}, not all whole numbers in 0..255",
            "a label map: 0 background, 1..255 organs",
            "check that this is a label map, not an image or a probability map",
        )
    return Volume(grid.to_internal(values.astype(np.uint8)), grid.spacing, grid, str(path))


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


def write_labels(path: Path, labels_dhw: np.ndarray, grid: Grid) -> None:
    """Write a label map on the native grid: the file's shape, affine and form codes, uint8.

    The file appears whole or not at all. Missing parent folders are made.

    Args:
        path: ends with .nii or .nii.gz.
        labels_dhw: uint8 (depth, height, width).
        grid: the grid of the image it belongs to.

    Raises:
        FedCoWProError: another file ending, or a shape or dtype that does not fit.
    """
    if labels_dhw.dtype != np.uint8:
        raise FedCoWProError(f"labels of type {labels_dhw.dtype}", "uint8 labels", "convert the labels to uint8")
    _write(Path(path), _on_grid(labels_dhw, grid), grid)


def write_probabilities(path: Path, probs: np.ndarray, grid: Grid) -> None:
    """Write scores or probabilities as float32 on the native grid; classes become the fourth axis.

    Args:
        path: ends with .nii or .nii.gz.
        probs: (depth, height, width) or (classes, depth, height, width).
        grid: the grid of the image they belong to.

    Raises:
        FedCoWProError: another file ending, or a shape that does not fit.
    """
    probs = probs.astype(np.float32, copy=False)
    native = (
        _on_grid(probs, grid) if probs.ndim == 3 else np.stack([_on_grid(channel, grid) for channel in probs], axis=-1)
    )
    _write(Path(path), native, grid)


def _corner_offset(one: Grid, other: Grid) -> float:
    """Largest distance in mm between the same corner voxel of two grids of one shape."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in one.shape])).reshape(3, -1).T
    gap = nib.affines.apply_affine(one.affine, corners) - nib.affines.apply_affine(other.affine, corners)
    return float(np.linalg.norm(gap, axis=1).max())


def _on_grid(array: np.ndarray, grid: Grid) -> np.ndarray:
    if array.shape != grid.internal_shape:
        raise FedCoWProError(
            f"array of shape {array.shape}",
            f"the grid's (depth, height, width) {grid.internal_shape}",
            "bring the array onto the native grid first",
        )
    return grid.to_native(array)


def _write(path: Path, native: np.ndarray, grid: Grid) -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise FedCoWProError(f"output {path}", "a name ending with .nii or .nii.gz", "choose such a name")
    image = nib.Nifti1Image(native, grid.affine)
    image.set_sform(grid.affine if grid.sform_code else None, grid.sform_code)
    image.set_qform(grid.affine if grid.qform is None else grid.qform, grid.qform_code)
    image.header.set_xyzt_units("mm")
    raw = image.to_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A fixed time stamp makes equal results equal files.
        partial.write_bytes(gzip.compress(raw, compresslevel=6, mtime=0) if path.suffix == ".gz" else raw)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
