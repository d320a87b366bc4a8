"""DICOM RT structure sets -> label maps of the images that they belong to (extra `dicom`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.checks import label_volume
from fedcowpro.volume.dicom.headers import STRUCTURE_SET_CLASS, examining, kind_of, read_dataset
from fedcowpro.volume.dicom.redaction import identifiers_of, redact, redacting_errors
from fedcowpro.volume.dicom.seg_reader import values_of
from fedcowpro.volume.dicom.stack import LPS_TO_RAS
from fedcowpro.volume.volume import Grid, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_OFF_SLICE = 0.2  # of the distance between slices: how far a point may be from the slice that it is for


def read_structure_set(path: Path, like: Volume, organs: Mapping[int, str] | None = None) -> Volume:
    """Read outlines as the label map of an image: pixels whose centre they enclose. Where they lie counts.

    Several outlines of a region on one slice, one within the other, cut holes.

    Args:
        path: the file.
        like: the image, read from DICOM or from any other format.
        organs: label value -> name of a region (case does not matter); other ones are left out. None = all, with the
            values that this program wrote, or else with their numbers.

    Returns:
        Volume with uint8 voxels (depth, height, width); 0 is background.

    Raises:
        FedCoWProError: no structure set, or a damaged one; regions that overlap; outlines that are not closed, not on
            slices of the image, or beyond it.
    """
    path = Path(path)
    dataset = read_dataset(path)
    with examining(path):
        if kind_of(dataset) != STRUCTURE_SET_CLASS:
            raise FedCoWProError(f"{path}: not a structure set", "a DICOM RT structure set", "give such a file")
        identifiers = identifiers_of(dataset)
    with redacting_errors(identifiers), examining(path):
        labels = _read(dataset, path, like, organs)
        return label_volume(labels, like.grid, like, redact(str(path), identifiers))


def _read(dataset: Dataset, path: Path, like: Volume, organs: Mapping[int, str] | None) -> np.ndarray:
    """uint8, in the native order of the image's grid."""
    listed = list(dataset.get("StructureSetROISequence") or [])
    described = [str(one.get("ROIDescription") or "") for one in listed]
    values = values_of([int(one.ROINumber) for one in listed], described, path)
    names = {int(one.ROINumber): str(one.get("ROIName") or "").strip() for one in listed}
    if organs is not None:
        by_name = {name.strip().lower(): value for value, name in organs.items()}
        values = {number: by_name.get(names[number].lower(), 0) for number in values}
    labels = np.zeros(like.grid.shape, np.uint8)
    for region in dataset.get("ROIContourSequence") or []:
        value = values.get(int(region.ReferencedROINumber), 0)
        if not value:
            continue
        inside = np.zeros(like.grid.shape, bool)
        for contour in region.get("ContourSequence") or []:
            _fill(contour, inside, like.grid, path, like.name)
        if (labels[inside] != 0).any():
            raise FedCoWProError(
                f"{path}: regions overlap",
                "at most one organ at each voxel",
                "name the organs wanted, or separate them",
            )
        labels[inside] = value
    return labels


def _fill(contour: Dataset, inside: np.ndarray, grid: Grid, path: Path, name: str) -> None:
    """Turn the pixels within an outline over."""
    from skimage.draw import polygon

    if contour.get("ContourGeometricType") == "POINT":  # marks, which enclose nothing
        return
    if not str(contour.get("ContourGeometricType")).startswith("CLOSED"):
        raise FedCoWProError(f"{path}: outlines that are not closed", "closed ones", "export it as DICOM-SEG or NIfTI")
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    at = nib.affines.apply_affine(np.linalg.inv(grid.affine) @ LPS_TO_RAS, points)
    flat = np.ptp(at, axis=0)
    axis = int(flat.argmin())
    place = round(float(at[:, axis].mean()))
    if np.abs(at[:, axis] - place).max() > _OFF_SLICE:
        raise FedCoWProError(
            f"{path}: outlines between the slices of {name}", "outlines on the slices of the image",
            "give the image they belong to, or export them as DICOM-SEG or NIfTI",
        )  # fmt: skip
    one, other = (side for side in range(3) if side != axis)
    size = (grid.shape[one], grid.shape[other])
    if not 0 <= place < grid.shape[axis] or (at < -1).any() or (at > np.array(grid.shape)).any():
        raise FedCoWProError(
            f"{path}: outlines beyond the image", f"outlines within {name}", "give the image they belong to"
        )
    rows, columns = polygon(at[:, one], at[:, other], size)
    index = [np.full_like(rows, place)] * 3
    index[one], index[other] = rows, columns
    inside[tuple(index)] ^= True
