"""Slices in files -> one checked volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedcowpro.config import Modality
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.volume.checks import image_volume
from fedcowpro.volume.dicom.headers import examining, read_dataset, read_header, slices_of
from fedcowpro.volume.dicom.pixels import is_rescaled, values_of
from fedcowpro.volume.dicom.stack import Plane, grid_of, places, plane_of
from fedcowpro.volume.volume import Grid, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_CT_OFFSET = 1024  # what scanners add to Hounsfield units, to store no negative numbers
Where = tuple[Path, int]  # a file and which of its frames, from 0


@dataclass(frozen=True)
class Layout:
    """The slices of a volume on its grid, one for each position.

    Attributes:
        slices: where each is, in the order of the grid's third axis.
        headers: file -> its header without pixels, all attributes.
        grid: (columns, rows, slices).
    """

    slices: tuple[Where, ...]
    headers: dict[Path, Dataset]
    grid: Grid


def read_slices(slices: Sequence[Where], name: str, modality: Modality | None = None) -> Volume:
    """Read slices that are in order of height as one image.

    Raises:
        FedCoWProError: a file that is missing, damaged or has changed since it was listed; different slices at one
            position; what `grid_of` and `image_volume` refuse.
    """
    planes: list[Plane] = []
    voxels = np.empty((0, 0, 0), np.float32)
    inverse = rescaled = False
    for file, indices in _by_file(slices):
        dataset = read_dataset(file)
        planes += _planes(dataset, file, indices, planes)
        if not voxels.size:
            voxels = np.empty((len(slices), *planes[0].size), np.float32)
        for index, values in enumerate(values_of(dataset, indices, file), len(planes) - len(indices)):
            voxels[index] = values
        rescaled |= is_rescaled(dataset, indices, file)
        inverse |= dataset.get("Modality") != "CT" and dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    chosen = _without_copies(planes, slices, voxels, name)
    grid = grid_of([planes[index] for index in chosen], [slices[index][0] for index in chosen], name)
    if len(chosen) < len(voxels):
        voxels = voxels[chosen]
    if inverse:
        # Shown with high values dark. Hounsfield units are physical however they are shown.
        voxels = voxels.max() + voxels.min() - voxels
    if modality == "ct" and not rescaled and _stored_hounsfield(voxels):
        voxels = voxels - np.float32(_CT_OFFSET)
        inform(
            f"{name}: a CT without RescaleIntercept; its values from 0 upwards are taken for Hounsfield units + "
            f"{_CT_OFFSET}, as scanners store them",
            stacklevel=4,
        )
    return image_volume(voxels.transpose(2, 1, 0), grid, name, modality)


def _stored_hounsfield(voxels: np.ndarray) -> bool:
    """Whether values are those of a CT but for the offset: none negative, some of air, and many of soft tissue."""
    tissue = (voxels > _CT_OFFSET - 200) & (voxels < _CT_OFFSET + 250)
    return bool(voxels.min() >= 0 and (voxels < _CT_OFFSET - 20).mean() > 0.01 and tissue.mean() > 0.05)


def layout_of(slices: Sequence[Where], name: str) -> Layout:
    """Where slices that are in order of height lie; of copies at one position the first. Reads no pixels.

    Raises:
        FedCoWProError: as `read_slices`, for what headers show.
    """
    planes: list[Plane] = []
    headers = {}
    for file, indices in _by_file(slices):
        headers[file] = read_header(file, whole=True)
        planes += _planes(headers[file], file, indices, planes)
    chosen = [group[0] for group in places(planes)]
    kept = tuple(slices[index] for index in chosen)
    return Layout(kept, headers, grid_of([planes[index] for index in chosen], [file for file, _ in kept], name))


def _by_file(slices: Sequence[Where]) -> list[tuple[Path, list[int]]]:
    """Consecutive slices of one file together, so that it is opened once."""
    runs: list[tuple[Path, list[int]]] = []
    for file, frame in slices:
        if runs and runs[-1][0] == file:
            runs[-1][1].append(frame)
        else:
            runs.append((file, [frame]))
    return runs


def _planes(header: Dataset, file: Path, indices: Sequence[int], before: Sequence[Plane]) -> list[Plane]:
    with examining(file):
        attributes = slices_of(header)
        planes = [plane_of(attributes[index]) if index < len(attributes) else None for index in indices]
    found = [plane for plane in planes if plane is not None]
    row = [*before[-1:], *found]
    in_order = all(one.height <= other.height for one, other in pairwise(row))
    if len(found) < len(planes) or not in_order or not all(plane.fits(row[0]) for plane in found):
        raise FedCoWProError(
            f"{file}: not the slice that was found there before",
            "files that stay as they are while they are read",
            "run the command again",
        )
    return found


def _without_copies(planes: Sequence[Plane], slices: Sequence[Where], voxels: np.ndarray, name: str) -> list[int]:
    """Index of one slice for each position; different slices at one position are refused."""
    groups = places(planes)
    for group in groups:
        for other in group[1:]:
            if not np.array_equal(voxels[group[0]], voxels[other]):
                raise FedCoWProError(
                    f"{name}: different slices at one position ({planes[other].height:.2f} mm): "
                    f"{_called(slices[group[0]])} and {_called(slices[other])}",
                    "one slice at each position, or attributes that tell the volumes apart (echo time, phase, ...)",
                    "put each volume into a folder of its own with its own series, or give it as NIfTI",
                )
    if copies := len(planes) - len(groups):
        inform(f"{name}: {copies} slice(s) are there more than once and were used once", stacklevel=4)
    return [group[0] for group in groups]


def _called(where: Where) -> str:
    return where[0].name if where[1] == 0 else f"{where[0].name} (frame {where[1] + 1})"
