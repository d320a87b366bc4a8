"""Label maps as DICOM segmentations, in and out, on the images that they belong to (extra `dicom`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.checks import label_volume
from fedcowpro.volume.dicom.discover import SegmentationFile, find
from fedcowpro.volume.dicom.headers import (
    SEGMENTATION_CLASSES,
    examining,
    kind_of,
    read_dataset,
    read_header,
    slices_of,
)
from fedcowpro.volume.dicom.library import quiet
from fedcowpro.volume.dicom.pixels import stored_values
from fedcowpro.volume.dicom.redaction import identifiers_of, redact, redacting_errors
from fedcowpro.volume.dicom.seg_writer import write_segmentation
from fedcowpro.volume.dicom.stack import LPS_TO_RAS, Plane, plane_of
from fedcowpro.volume.volume import Grid, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["SegmentationLabels", "find_segmentations", "organs_of", "read_segmentation", "write_segmentation"]

_OFF_GRID = 0.1  # of a voxel: how far a segment's pixel may be from the image's
_AT_ONCE = 64  # frames decoded at a time
_VALUE = re.compile(r"label (\d{1,3})")


@dataclass(frozen=True)
class SegmentationLabels:
    """The label map in a DICOM segmentation; a `LabelSource`.

    Attributes:
        path: the file.
        organs: as for `read_segmentation`.
    """

    path: Path
    organs: Mapping[int, str] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def read(self, like: Volume) -> Volume:
        """The label map on the grid of `like`."""
        return read_segmentation(self.path, like, self.organs)


def find_segmentations(folder: Path) -> list[SegmentationFile]:
    """The DICOM segmentations in a folder tree, with the series that each was drawn on.

    Raises:
        FedCoWProError: no such folder; the extra is not installed.
    """
    return list(find(folder).segmentations)


def organs_of(path: Path) -> dict[int, str]:
    """Label value -> name of the segments of a file, as `read_segmentation` gives them without `organs`.

    Raises:
        FedCoWProError: no DICOM segmentation, or a damaged one.
    """
    header = read_header(Path(path), whole=True)
    return dict(_segments(header, Path(path)).values())


def read_segmentation(path: Path, like: Volume, organs: Mapping[int, str] | None = None) -> Volume:
    """Read a segmentation as the label map of an image; where it lies counts, not which files it refers to.

    Args:
        path: the file.
        like: the image, read from DICOM or from any other format, on the same grid but for the order and direction
            of its axes.
        organs: label value -> name of a segment (case does not matter); other segments are left out. None = all
            segments, with the values that this program wrote, or else with their numbers.

    Returns:
        Volume with uint8 voxels (depth, height, width); 0 is background.

    Raises:
        FedCoWProError: no segmentation, or a damaged one; fractional or overlapping segments; segments off the
            image's grid or beyond it.
    """
    path = Path(path)
    dataset = read_dataset(path)
    with examining(path):
        identifiers = identifiers_of(dataset)
    with redacting_errors(identifiers):
        return _read(dataset, path, like, organs, redact(str(path), identifiers))


def _read(dataset: Dataset, path: Path, like: Volume, organs: Mapping[int, str] | None, name: str) -> Volume:
    segments = _segments(dataset, path)
    by_name = None if organs is None else {name.strip().lower(): value for value, name in organs.items()}
    values = {
        number: value if by_name is None else by_name.get(name.lower(), 0) for number, (value, name) in segments.items()
    }
    labels = np.zeros(like.grid.shape, np.uint8)
    for plane, slice_labels in _label_slices(dataset, values, path):
        _place(slice_labels, plane, labels, like.grid, path, like.name)
    return label_volume(labels, like.grid, like, name)


def _segments(header: Dataset, path: Path) -> dict[int, tuple[int, str]]:
    """Segment number -> label value and name."""
    if kind_of(header) not in SEGMENTATION_CLASSES:
        raise FedCoWProError(f"{path}: not a DICOM segmentation", "a DICOM segmentation (SEG)", "give such a file")
    with quiet():
        listed = [one for one in header.get("SegmentSequence") or [] if int(one.SegmentNumber) > 0]  # 0: background
        numbers = [int(one.SegmentNumber) for one in listed]
        names = [str(one.get("SegmentLabel") or "").strip() for one in listed]
        described = [str(one.get("SegmentDescription") or "") for one in listed]
    values = values_of(numbers, described, path)
    return {number: (values[number], name) for number, name in zip(numbers, names, strict=True)}


def values_of(numbers: Sequence[int], described: Sequence[str], path: Path) -> dict[int, int]:
    """Number of a segment or region -> label value: that in its description where this program wrote it.

    Raises:
        FedCoWProError: none, or more than there are label values.
    """
    ours = [_VALUE.fullmatch(text) for text in described]
    values = [int(match[1]) if match else 0 for match in ours]
    if not all(0 < value < 256 for value in values) or len(set(values)) < len(values):
        values = list(numbers)
    if not values or max(values) > 255:
        raise FedCoWProError(f"{path}: {len(values)} segments", "1 to 255 segments", "give another segmentation")
    return dict(zip(numbers, values, strict=True))


def _label_slices(dataset: Dataset, values: Mapping[int, int], path: Path) -> Iterator[tuple[Plane, np.ndarray]]:
    """Plane and label values, uint8 (rows, columns), of each frame that shows a wanted segment."""
    attributes = slices_of(dataset)
    kind = "LABELMAP" if kind_of(dataset) == SEGMENTATION_CLASSES[1] else str(dataset.get("SegmentationType"))
    full = int(dataset.get("MaximumFractionalValue") or 1) if kind == "FRACTIONAL" else 1
    table = np.zeros(max(values) + 1, np.uint8)
    table[list(values)] = list(values.values())
    wanted = [
        index
        for index, one in enumerate(attributes)
        if kind == "LABELMAP" or values.get(int(one.get("ReferencedSegmentNumber") or 0), 0)
    ]
    for start in range(0, len(wanted), _AT_ONCE):
        indices = wanted[start : start + _AT_ONCE]
        for index, stored in zip(indices, stored_values(dataset, indices, path), strict=True):
            plane = plane_of(attributes[index])
            if plane is None:
                raise FedCoWProError(
                    f"{path}: frame {index + 1} has no position", "a place for each frame", "write the file again"
                )
            if kind == "LABELMAP":
                yield plane, np.where(stored < len(table), table[np.minimum(stored, len(table) - 1)], 0)
                continue
            if not np.isin(stored, (0, full)).all():
                raise FedCoWProError(
                    f"{path}: fractional segments", "binary segments", "threshold them with the tool that made them"
                )
            value = values[int(attributes[index].get("ReferencedSegmentNumber"))]
            yield plane, (stored > 0).astype(np.uint8) * np.uint8(value)


def _place(values: np.ndarray, plane: Plane, labels: np.ndarray, grid: Grid, path: Path, name: str) -> None:
    """Write the pixels of a frame that are not 0 into `labels`, an array in the native order of `grid`."""
    to_voxel = np.linalg.inv(grid.affine) @ LPS_TO_RAS
    exact = np.column_stack(
        [
            nib.affines.apply_affine(to_voxel, plane.position),
            to_voxel[:3, :3] @ np.array(plane.down) * plane.spacing[0],
            to_voxel[:3, :3] @ np.array(plane.right) * plane.spacing[1],
        ]
    )
    whole = np.round(exact).astype(int)
    rows, columns = values.shape
    corners = np.array([[1, 1, 1, 1], [0, rows - 1, 0, rows - 1], [0, 0, columns - 1, columns - 1]])
    off = np.abs((exact - whole) @ corners).max()
    if off > _OFF_GRID or (np.abs(whole[:, 1:]).sum(axis=0) != 1).any():
        raise FedCoWProError(
            f"{path}: segments lie on another grid than the image's",
            f"the grid of {name}",
            "resample the segmentation onto the image with the tool that made it",
        )
    where = whole @ np.array([np.ones(np.count_nonzero(values), int), *np.nonzero(values)])
    if where.size and ((where < 0).any() or (where.max(axis=1) >= grid.shape).any()):
        raise FedCoWProError(
            f"{path}: segments reach beyond the image", f"segments within {name}", "give the image they belong to"
        )
    before, new = labels[tuple(where)], values[values > 0]
    if ((before != 0) & (before != new)).any():
        raise FedCoWProError(
            f"{path}: segments overlap", "at most one organ at each voxel", "name the organs wanted, or separate them"
        )
    labels[tuple(where)] = new
