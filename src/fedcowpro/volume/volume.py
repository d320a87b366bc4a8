"""A volume in the program's one frame, and the file grid it came from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import nibabel as nib
import numpy as np

from fedcowpro.config import Modality

OBLIQUE_DEGREES = 1.0
_SPL = nib.orientations.axcodes2ornt("SPL")


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid of a file, in the file's own axis order.

    Args:
        shape: voxels along the file's three axes.
        affine: (4, 4) voxel index -> RAS+ millimetres; finite and invertible.
        sform_code: NIfTI code under which `affine` is stored as sform; 0 = the file had only a qform.
        qform: (4, 4) the file's qform where it differs from `affine`; None = `affine`.
        qform_code: NIfTI code of the qform; 0 = not set.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    sform_code: int = 1
    qform: np.ndarray | None = None
    qform_code: int = 1

    @cached_property
    def _to_internal(self) -> np.ndarray:
        return nib.orientations.ornt_transform(nib.io_orientation(self.affine), _SPL)

    @cached_property
    def _to_native(self) -> np.ndarray:
        return nib.orientations.ornt_transform(_SPL, nib.io_orientation(self.affine))

    @property
    def oblique(self) -> bool:
        """Whether an axis leaves the patient's axes by more than `OBLIQUE_DEGREES`."""
        return bool(np.rad2deg(nib.affines.obliquity(self.affine)).max() > OBLIQUE_DEGREES)

    @property
    def internal_shape(self) -> tuple[int, int, int]:
        """(depth, height, width) of this grid in the internal frame."""
        shape = self._permute(self.shape)
        return int(shape[0]), int(shape[1]), int(shape[2])

    @property
    def internal_affine(self) -> np.ndarray:
        """(4, 4) index in the internal frame (depth, height, width) -> RAS+ millimetres."""
        return self.affine @ nib.orientations.inv_ornt_aff(self._to_internal, self.shape)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along (depth, height, width)."""
        spacing = self._permute(nib.affines.voxel_sizes(self.affine))
        return float(spacing[0]), float(spacing[1]), float(spacing[2])

    @property
    def millilitres(self) -> float:
        """Of one voxel, also where the axes are not at right angles."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def to_internal(self, array: np.ndarray) -> np.ndarray:
        """Reorder a native array (3-D) to (depth->Superior, height->Posterior, width->Left); contiguous."""
        return np.ascontiguousarray(nib.apply_orientation(array, self._to_internal))

    def to_native(self, array: np.ndarray) -> np.ndarray:
        """Reorder (depth, height, width) to the file's axes; the inverse of `to_internal`."""
        return np.ascontiguousarray(nib.apply_orientation(array, self._to_native))

    def _permute(self, per_axis: tuple[int, int, int] | np.ndarray) -> np.ndarray:
        values = np.asarray(per_axis)
        out = np.empty_like(values)
        out[self._to_internal[:, 0].astype(int)] = values
        return out


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels in the internal frame.

    Args:
        voxels: (depth, height, width), depth to Superior, height to Posterior, width to Left;
            float32 for an image (HU for CT, arbitrary for MR), integers for labels.
        spacing: mm, (depth, height, width).
        grid: the file's own grid.
        name: how messages call this volume, usually its path.
        modality: what the file's header says; None = nothing.
    """

    voxels: np.ndarray
    spacing: tuple[float, float, float]
    grid: Grid
    name: str = "volume"
    modality: Modality | None = None
