"""What is measured of an organ in a label map: how much, where, how large, how bright; the columns of every table."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from fedcowpro.volume.volume import Volume


@dataclass(frozen=True)
class Measured:
    """Of one organ; the names are those of the tables' columns. Nothing is known of an organ without voxels but that.

    Attributes:
        millilitres: of all its voxels.
        slices: axial slices that show it.
        first_slice, last_slice: that show it, from foot to head, counted from 1 as the page does.
        size_lr, size_ap, size_si_mm: extent in mm from left to right, anterior to posterior, superior to inferior,
            along the volume's axes.
        mean, sd: of its grey values, of CT in Hounsfield units.
    """

    millilitres: float
    voxels: int
    slices: int
    first_slice: int | None
    last_slice: int | None
    size_lr_mm: float
    size_ap_mm: float
    size_si_mm: float
    mean: float | None
    sd: float | None


NOTHING = Measured(0.0, 0, 0, None, None, 0.0, 0.0, 0.0, None, None)
COLUMNS = tuple(field.name for field in fields(Measured))


def measure(labels: np.ndarray, volume: Volume) -> dict[int, Measured]:
    """Measure each label of a label map, ascending; background is none.

    Args:
        labels: uint8 (depth, height, width).
        volume: the image on the same grid.
    """
    found = {}
    for value, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        inside = labels[box] == value
        grey = volume.voxels[box][inside]
        size = [(side.stop - side.start) * mm for side, mm in zip(box, volume.spacing, strict=True)]
        found[value] = Measured(
            millilitres=len(grey) * volume.grid.millilitres,
            voxels=len(grey),
            slices=int(inside.any(axis=(1, 2)).sum()),
            first_slice=box[0].start + 1,
            last_slice=box[0].stop,
            size_lr_mm=size[2],
            size_ap_mm=size[1],
            size_si_mm=size[0],
            mean=float(grey.mean(dtype=np.float64)),
            sd=float(grey.std(dtype=np.float64)),
        )
    return found


def cells(found: Measured) -> list[str]:
    """The cells of `COLUMNS`; empty where nothing is known."""
    values = (getattr(found, name) for name in COLUMNS)
    return ["" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value) for value in values]
