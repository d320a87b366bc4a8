"""Points, curves and rotations in the patient's frame: (x, y, z) in mm towards Left, Posterior, Superior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

Points = NDArray[np.float64]


def moved(points: ArrayLike, x: float, y: float, z: float) -> Points:
    """``points`` (3,) or (n, 3) shifted by (x, y, z) mm."""
    return np.asarray(points, float) + np.array([x, y, z])


def curve(points: ArrayLike | Sequence[ArrayLike], count: int) -> Points:
    """``count`` points along a smooth curve through ``points`` (n, 3), or ``count`` values through (n,)."""
    knots = np.asarray(points, float)
    return np.asarray(CubicSpline(np.arange(len(knots)), knots)(np.linspace(0, len(knots) - 1, count)))


def rotation(about_x: float, about_y: float, about_z: float) -> Points:
    """Rotation matrix (3, 3) from angles in degrees about the x, y and z axes."""
    cx, cy, cz = np.cos(np.radians((about_x, about_y, about_z)))
    sx, sy, sz = np.sin(np.radians((about_x, about_y, about_z)))
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(rz @ ry @ rx)
