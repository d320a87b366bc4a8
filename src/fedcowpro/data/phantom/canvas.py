"""The canvas on which anatomy is painted: warped patient coordinates, a tissue map and a label map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedcowpro.data.phantom.fields import Volume, smooth_field
from fedcowpro.data.phantom.tissues import Tissue

Box = tuple[slice, slice, slice]
Mask = NDArray[np.bool_]
KEEP = -1
FAR = np.float32(1e3)


class Canvas:
    """Tissue and label maps with the coordinates of every voxel in the patient.

    Attributes:
        x, y, z: float32 (depth, height, width), mm from the middle of the body towards Left, Posterior and
            Superior, displaced by a smooth random warp so that no shape painted through them is plain.
        bumps, ripples: unit-variance surface roughness of about 40 mm and 14 mm, same shape.
        tissue: uint8 (depth, height, width) of ``Tissue``.
        label: uint8 (depth, height, width), 0 where no organ is annotated.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int, int],
        spacing: tuple[float, float, float],
        origin: tuple[float, float, float],
        warp_mm: float,
    ) -> None:
        """``origin`` is the (z, y, x) of the first voxel's centre in mm; ``warp_mm`` the warp's standard deviation."""
        self.shape, self.spacing = shape, spacing
        self._origin = origin
        axes = [o + s * np.arange(n, dtype=np.float32) for o, s, n in zip(origin, spacing, shape, strict=True)]
        grids = (axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :])
        warps = [smooth_field(rng, shape, spacing, (110.0, 75.0, 75.0)) * np.float32(warp_mm) for _ in range(3)]
        self._reach = tuple(float(np.abs(w).max()) for w in warps)
        self.z, self.y, self.x = (grid.astype(np.float32) + w for grid, w in zip(grids, warps, strict=True))
        self.bumps = smooth_field(rng, shape, spacing, 38.0)
        self.ripples = smooth_field(rng, shape, spacing, 14.0)
        self.tissue = np.zeros(shape, np.uint8)
        self.label = np.zeros(shape, np.uint8)

    def box(self, low: ArrayLike, high: ArrayLike, margin: float = 0.0) -> Box:
        """Slices of the voxels whose warped (x, y, z) can lie between ``low`` and ``high`` (mm)."""
        slices = []
        for axis in range(3):
            lo = np.asarray(low)[2 - axis] - margin - self._reach[axis] - self._origin[axis]
            hi = np.asarray(high)[2 - axis] + margin + self._reach[axis] - self._origin[axis]
            first = int(np.clip(np.floor(lo / self.spacing[axis]), 0, self.shape[axis]))
            last = int(np.clip(np.ceil(hi / self.spacing[axis]) + 1, first, self.shape[axis]))
            slices.append(slice(first, last))
        return slices[0], slices[1], slices[2]

    def paint(
        self, box: Box, mask: Mask, tissue: Tissue, *, label: int = 0, over: Sequence[Tissue] | None = None
    ) -> None:
        """Set ``tissue`` where ``mask`` holds (and the present tissue is in ``over``); ``label=KEEP`` leaves labels."""
        if over is not None:
            allowed = np.zeros(256, bool)
            allowed[list(over)] = True
            mask = mask & allowed[self.tissue[box]]
        self.tissue[box][mask] = tissue
        if label != KEEP:
            self.label[box][mask] = label

    def ellipsoid(
        self, centre: ArrayLike, radii: ArrayLike, rotation: ArrayLike | None = None, margin: float = 0.0
    ) -> tuple[Box, Volume]:
        """Box and approximate signed distance (mm, negative inside) to an ellipsoid.

        ``rotation`` is (3, 3) with the ellipsoid's axes as rows; ``margin`` widens the box (mm).
        """
        middle, radius = np.asarray(centre, np.float32), np.asarray(radii, np.float32)
        axes = np.eye(3) if rotation is None else np.asarray(rotation)
        extent = np.sqrt(((axes.T * radius) ** 2).sum(1))
        box = self.box(middle - extent, middle + extent, margin + 4)
        offset = [grid[box] - c for grid, c in zip((self.x, self.y, self.z), middle, strict=True)]
        scaled = np.zeros_like(offset[0])
        square = offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2
        for row, r in zip(axes.astype(np.float32), radius, strict=True):
            along = offset[0] * row[0] + offset[1] * row[1] + offset[2] * row[2]
            scaled += (along / r) ** 2
        length = np.sqrt(square)
        return box, length - length / np.sqrt(scaled + 1e-6)

    def tube(self, points: ArrayLike, radii: ArrayLike, margin: float = 1.0) -> tuple[Box, Volume]:
        """Box and signed distance (mm) to a chain of round cones.

        Args:
            points: (n, 3) centres as (x, y, z) in mm.
            radii: one radius or (n,) in mm.
            margin: how far outside the surface the distance is still computed, mm.
        """
        path = np.asarray(points, np.float32)
        width = np.broadcast_to(np.asarray(radii, np.float32), (len(path),))
        reach = np.maximum(width[:-1], width[1:])[:, None]
        low, high = np.minimum(path[:-1], path[1:]) - reach, np.maximum(path[:-1], path[1:]) + reach
        box = self.box(low.min(0), high.max(0), margin)
        distance = np.full(tuple(s.stop - s.start for s in box), FAR, np.float32)
        for i in range(len(path) - 1):
            part = self.box(low[i], high[i], margin)
            inner = tuple(slice(p.start - o.start, p.stop - o.start) for p, o in zip(part, box, strict=True))
            view = distance[inner]
            if view.size:
                np.minimum(
                    view,
                    self._cone(part, path[i], path[i + 1], float(width[i]), float(width[i + 1])),
                    out=view,
                )
        return box, distance

    def _cone(self, box: Box, a: Volume, b: Volume, ra: float, rb: float) -> Volume:
        along = b - a
        px, py, pz = self.x[box] - a[0], self.y[box] - a[1], self.z[box] - a[2]
        t = (px * along[0] + py * along[1] + pz * along[2]) / max(float(along @ along), 1e-6)
        t = np.clip(t, 0, 1)
        square = (px - t * along[0]) ** 2 + (py - t * along[1]) ** 2 + (pz - t * along[2]) ** 2
        return np.sqrt(square) - (ra + (rb - ra) * t)
