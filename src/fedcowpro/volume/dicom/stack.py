"""Where slices lie, and the one grid that they form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.volume.dicom.headers import Attributes
from fedcowpro.volume.volume import Grid

Vector = tuple[float, float, float]
SAME_PLACE = 0.01  # mm; nearer slices are at one position
ROUNDING = 1e-3  # of cosines, and of spacings in mm
TILT_DEGREES = 1.0  # a smaller tilt is not worth a word
_STEEPEST = 45.0  # degrees; beyond any gantry
_UNEVEN = 0.1  # of the distance between slices: how far a slice may be from its place along the normal
_SIDEWAYS = 0.5  # of a pixel: how far it may be from its place across the normal
_GAP = 1.5  # of the usual distance: here a slice is missing
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Plane:
    """Where a slice lies.

    Attributes:
        position: centre of the first pixel, mm, to Left, Posterior, Superior.
        right: direction in which the column index grows, unit length.
        down: direction in which the row index grows, unit length.
        spacing: mm between rows, mm between columns.
        size: rows, columns.
    """

    position: Vector
    right: Vector
    down: Vector
    spacing: tuple[float, float]
    size: tuple[int, int]

    @cached_property
    def normal(self) -> np.ndarray:
        """Unit vector across the slice."""
        return np.cross(self.right, self.down)

    @cached_property
    def height(self) -> float:
        """Position along the normal in mm."""
        return float(self.normal @ np.array(self.position))

    def fits(self, other: Plane) -> bool:
        """Whether both have one size, spacing and orientation, but for rounding."""
        mine, theirs = ((*plane.right, *plane.down, *plane.spacing) for plane in (self, other))
        near = (abs(one - two) <= ROUNDING * max(1.0, abs(one)) for one, two in zip(mine, theirs, strict=True))
        return self.size == other.size and all(near)


def plane_of(attributes: Attributes) -> Plane | None:
    """The plane of a slice; None where position, orientation or pixel spacing is missing or makes no sense."""
    names = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    position, cosines, spacing = (_numbers(attributes.get(name)) for name in names)
    if (len(position), len(cosines), len(spacing)) != (3, 6, 2) or min(spacing) <= 0:
        return None
    right, down = cosines[:3], cosines[3:]
    if min(np.linalg.norm(right), np.linalg.norm(down)) < 0.9 or abs(right @ down) > 0.01:
        return None
    # Cosines are written with few digits: made orthogonal and of unit length again.
    right = right / np.linalg.norm(right)
    down = down - (down @ right) * right
    down = down / np.linalg.norm(down)
    size = (int(attributes.get("Rows")), int(attributes.get("Columns")))
    return Plane(_vector(position), _vector(right), _vector(down), (float(spacing[0]), float(spacing[1])), size)


def places(planes: Sequence[Plane]) -> list[list[int]]:
    """Indices of slices that lie at one position, for each position in order; `planes` are in order of height."""
    groups: list[list[int]] = []
    for index, plane in enumerate(planes):
        if groups and plane.height - planes[groups[-1][0]].height < SAME_PLACE:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def grid_of(planes: Sequence[Plane], files: Sequence[Path], name: str) -> Grid:
    """The grid (columns, rows, slices) of slices at different positions, in order of height.

    A gantry tilt stays: the third axis is then not at right angles to the slices. Such a grid has no qform, which
    cannot say that.

    Args:
        planes: of one size, spacing and orientation.
        files: the file of each, for messages.
        name: how messages call the volume.

    Raises:
        FedCoWProError: missing slices, uneven distances, slices that are shifted against each other.
    """
    first = planes[0]
    points = np.array([plane.position for plane in planes])
    _require_even(np.array([plane.height for plane in planes]), files, name)
    step = (points[-1] - points[0]) / (len(points) - 1)
    off = points - (points[0] + np.arange(len(points))[:, None] * step)
    sideways = np.linalg.norm(off - np.outer(off @ first.normal, first.normal), axis=1)
    tilt = float(np.rad2deg(np.arccos(min(1.0, float(step @ first.normal / np.linalg.norm(step))))))
    if sideways.max() > _SIDEWAYS * min(first.spacing) or tilt > _STEEPEST:
        worst = int(sideways.argmax())
        raise FedCoWProError(
            f"{name}: slices are shifted against each other in their plane, for example {files[worst].name} "
            f"by {sideways[worst]:.3g} mm",
            "slices in a straight row",
            "convert the series with a tool that resamples, for example dcm2niix, and give the NIfTI file",
        )
    if tilt > TILT_DEGREES:
        inform(
            f"{name}: the gantry was tilted by {tilt:.1f} degrees; slices are used as scanned, and distances in mm "
            "across slices are measured along the slant",
            stacklevel=4,
        )
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.right) * first.spacing[1]
    affine[:3, 1] = np.array(first.down) * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = points[0]
    rows, columns = first.size
    straight = tilt < 0.1  # degrees; less is rounding of the cosines
    return Grid((columns, rows, len(planes)), LPS_TO_RAS @ affine, qform_code=1 if straight else 0)


def _require_even(heights: np.ndarray, files: Sequence[Path], name: str) -> None:
    gaps = np.diff(heights)
    step = (heights[-1] - heights[0]) / len(gaps)
    if np.abs(heights - (heights[0] + step * np.arange(len(heights)))).max() <= _UNEVEN * step:
        return
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    wide = np.flatnonzero(gaps > _GAP * usual)
    if len(wide) == 1 or 0 < len(wide) <= len(gaps) / 4:
        missing = ", ".join(
            f"{round(gaps[at] / usual) - 1} between {files[at].name} ({heights[at]:.2f} mm) and "
            f"{files[at + 1].name} ({heights[at + 1]:.2f} mm)"
            for at in wide[:3]
        )
        raise FedCoWProError(
            f"{name}: missing slices: {missing}{', and more' if len(wide) > 3 else ''}",
            f"a slice every {usual:.3g} mm",
            "export the series again completely; if the scanner left the gap, interpolate with a tool of your choice "
            "and give the NIfTI file",
        )
    raise FedCoWProError(
        f"{name}: uneven distances between slices, {gaps.min():.3g} to {gaps.max():.3g} mm",
        "one distance between slices",
        "convert the series with a tool that resamples, for example dcm2niix, and give the NIfTI file",
    )


def _numbers(value: object) -> np.ndarray:
    """Finite numbers of a multi-valued attribute; empty where it is not that."""
    try:
        numbers = np.array([float(number) for number in value])  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return np.empty(0)
    return numbers if np.isfinite(numbers).all() else np.empty(0)


def _vector(values: np.ndarray) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])
