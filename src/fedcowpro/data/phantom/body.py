"""The trunk: skin, subcutaneous fat, the muscular wall and the cavity inside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcowpro.data.phantom.canvas import Canvas
from fedcowpro.data.phantom.fields import Volume, refine
from fedcowpro.data.phantom.tissues import Tissue


@dataclass(frozen=True)
class Body:
    """Measures of one patient's trunk; lengths in mm, the outline being that of the muscles beneath the fat."""

    half_width: float
    half_depth: float
    exponent: float
    fat: float
    wall: float
    lordosis: float
    stature: float

    def at(self, u: float, v: float, z: float) -> NDArray[np.float64]:
        """Point (x, y, z) in mm: ``u``, ``v`` as fractions of half width (Left) and half depth (Posterior)."""
        return np.array([u * self.half_width, v * self.half_depth, z * self.stature])

    def spine(self, z: Volume | float) -> Volume:
        """Posterior position (mm) of the middle of the vertebral bodies at height ``z``."""
        height = np.asarray(z, np.float32)
        return np.float32(0.29 * self.half_depth) - np.float32(self.lordosis) * np.cos((height + 45) / 80)

    def outer_width(self) -> float:
        """Half width (mm) of the body with its fat."""
        return self.half_width + 1.3 * self.fat


def random_body(rng: np.random.Generator, breadth: float = 1.0) -> Body:
    """Draw the trunk of one patient, from slender to obese; ``breadth`` widens it (the hips)."""
    bulk = float(np.clip(rng.normal(), -1.8, 1.8))
    return Body(
        half_width=breadth * (138 + 12 * bulk + rng.normal(0, 4)),
        half_depth=104 + 10 * bulk + rng.normal(0, 4),
        exponent=rng.uniform(2.0, 2.35),
        fat=float(np.clip(16 + 8 * bulk + rng.normal(0, 5), 4, 40)),
        wall=rng.uniform(9, 13),
        lordosis=rng.uniform(2, 7),
        stature=rng.uniform(0.93, 1.08),
    )


def paint_body(canvas: Canvas, body: Body, rng: np.random.Generator) -> Volume:
    """Paint skin, fat and muscular wall, and fill the cavity with visceral fat.

    Returns:
        float32 (depth, height, width): mm beneath the inner face of the wall, negative in the wall and outside.
    """
    every = max(1, round(4 / canvas.spacing[2]))
    thin = (slice(None), slice(None, None, every), slice(None, None, every))
    x, y, z, bumps = canvas.x[thin], canvas.y[thin], canvas.z[thin], canvas.bumps[thin]
    waist = 1 + rng.uniform(-0.05, 0.03) * np.exp(-(((z + 25) / 45) ** 2))
    groove = np.float32(rng.uniform(0.03, 0.08)) * np.exp(-((x / 22) ** 2)) * (y > 0)
    flat = 1 + rng.uniform(0.0, 0.06) * (y > 0)
    across = np.abs(x) / (body.half_width * waist)
    front = np.abs(y) * flat / (body.half_depth * (waist - groove))
    radial = (across**body.exponent + front**body.exponent) ** np.float32(1 / body.exponent) + 1e-4
    length = np.sqrt(x * x + y * y)
    side = np.abs(x) / (length + 1)
    depth = length / radial - length + 1.3 * bumps

    flank, belly = rng.uniform(-0.2, 0.9), rng.uniform(-0.1, 0.6)
    fat = body.fat * (0.75 + flank * side / (1 + np.exp(-(y + 10) / 18)) + belly * (y < 0) * (1 - side) - 0.0015 * z)
    fat = np.maximum(fat + 0.06 * body.fat * bumps, 2.0)
    wall = body.wall * (0.8 + 0.65 * side) * np.float32(rng.uniform(0.85, 1.1)) + 1.8 * bumps
    inward, fat, wall = (refine(part, every, canvas.shape) for part in (depth, fat, wall))

    everywhere = (slice(None), slice(None), slice(None))
    canvas.paint(everywhere, inward > -fat - 2.0, Tissue.SKIN)
    canvas.paint(everywhere, inward > -fat, Tissue.FAT)
    canvas.paint(everywhere, inward > 0, Tissue.MUSCLE)
    _layer_wall(canvas, inward, wall)
    within = inward - wall
    canvas.paint(everywhere, within > 0, Tissue.VISCERAL_FAT)
    return within.astype(np.float32)


def _layer_wall(canvas: Canvas, inward: Volume, wall: Volume) -> None:
    """Fat planes between the three flat muscles, and the seams beside and between the rectus muscles."""
    index = np.nonzero((inward > 0) & (inward < wall))
    x, y, bumps = np.abs(canvas.x[index]), canvas.y[index], canvas.bumps[index]
    share = inward[index] / wall[index]
    planes = (np.abs(share - 0.38) < 0.05) | (np.abs(share - 0.7) < 0.04)
    planes &= (x > 0.9 * np.abs(y)) & (canvas.ripples[index] > 0.1)
    seams = (y < -40) & ((x < 2) | (np.abs(x - 64 - 4 * bumps) < 0.9))
    canvas.tissue[index] = np.where(planes | seams, Tissue.FAT, canvas.tissue[index])
