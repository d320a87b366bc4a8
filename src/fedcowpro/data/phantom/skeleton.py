"""Spine, ribs, iliac crests and the muscles along the back."""

from __future__ import annotations

import numpy as np

from fedcowpro.data.phantom.body import Body
from fedcowpro.data.phantom.canvas import Box, Canvas, Mask
from fedcowpro.data.phantom.fields import Volume
from fedcowpro.data.phantom.tissues import Tissue


def paint_bone(canvas: Canvas, box: Box, distance: Volume, rim: float) -> None:
    """Cortical bone of ``rim`` mm around marrow, where ``distance`` (mm) is negative."""
    canvas.paint(box, distance < 0, Tissue.BONE)
    canvas.paint(box, distance < -rim, Tissue.MARROW)


def paint_back_muscles(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Erector spinae, quadratus lumborum and psoas on both sides."""
    bulk = rng.uniform(0.85, 1.15)
    for side in (-1.0, 1.0):
        ends = [(side * 35, float(body.spine(h)) + 38, h) for h in np.linspace(-110.0, 150.0, 6)]
        box, distance = canvas.tube(ends, np.linspace(25, 20, 6) * bulk)
        distance += 3 * canvas.bumps[box] + 0.5 * canvas.ripples[box]
        canvas.paint(box, distance < 1.0, Tissue.FAT, over=(Tissue.MUSCLE, Tissue.VISCERAL_FAT))
        canvas.paint(box, distance < 0, Tissue.MUSCLE, over=(Tissue.FAT, Tissue.VISCERAL_FAT))
        streaks = (np.abs(canvas.ripples[box]) < 0.10) & (canvas.bumps[box] > -0.3) & (distance < -2)
        canvas.paint(box, streaks, Tissue.FAT, over=(Tissue.MUSCLE,))
        path = [(side * (64 + 6 * t), float(body.spine(h)) + 26, h) for t, h in ((1, -95), (0.4, -50), (0, 10))]
        box, distance = canvas.tube(path, [13 * bulk, 12 * bulk, 6])
        canvas.paint(box, distance + canvas.ripples[box] < 0, Tissue.MUSCLE, over=(Tissue.VISCERAL_FAT,))
        heights = ((20, 30.0, 4.0), (-15, 34.0, 11.0), (-50, 40.0, 18.0), (-110, 50.0, 23.0))
        path = [(side * u, float(body.spine(h)) + 4, h) for h, u, _ in heights]
        box, distance = canvas.tube(path, [r * bulk for _, _, r in heights])
        canvas.paint(box, distance + canvas.ripples[box] < 0, Tissue.MUSCLE, over=(Tissue.VISCERAL_FAT,))


def paint_spine(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Vertebrae with discs, canal, arches and processes along the whole volume."""
    low = (-62, float(body.spine(0.0)) - 45, -1e3)
    high = (62, float(body.spine(0.0)) + 85, 1e3)
    box = canvas.box(low, high)
    x, z = canvas.x[box], canvas.z[box]
    y = canvas.y[box] - body.spine(z)
    pitch, scale = 34 * body.stature, rng.uniform(0.92, 1.1)
    phase = (z / pitch + rng.random()) % 1.0  # 0..0.24 is disc, the rest vertebral body
    size = scale * (1 - 0.0012 * z)
    waist = 1 - 0.08 * np.sin(np.pi * np.clip((phase - 0.24) / 0.76, 0, 1))

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> Volume:
        rho = np.sqrt(((np.abs(x) - cx) / (rx * size)) ** 2 + ((y - cy) / (ry * size)) ** 2 + 1e-6)
        return ((rho - 1) * min(rx, ry) * size).astype(np.float32)

    arch = np.minimum(ellipse(0, 25, 17, 14), ellipse(17, 31, 10, 9) + 14 * (np.abs(phase - 0.2) > 0.28))
    spinous = np.maximum(np.abs(x) - 3.2 - 1.5 * (y > 52), np.abs(y - 44) - 15) + 9 * (np.abs(phase - 0.5) > 0.3)
    level = np.abs(phase - 0.72) * pitch
    transverse = np.maximum(np.abs(y - 20 - 0.1 * np.abs(x)) - 5.0, np.maximum(level - 6, np.abs(x) - 40 * size))
    pedicle = np.maximum(np.maximum(np.abs(np.abs(x) - 16) - 5.5, np.abs(y - 16) - 11), level - 9)
    arch = arch + 16 * ((phase < 0.12) | (phase > 0.97))
    posterior = np.minimum(np.minimum(arch, spinous), np.minimum(transverse, pedicle))
    paint_bone(canvas, box, posterior + 0.6 * canvas.ripples[box], 2.2)

    corpus = np.maximum(ellipse(0, 0, 24, 18) / waist, y - 15 * size)
    disc = phase < 0.24
    paint_bone(canvas, box, corpus + 1e3 * disc, 1.8)
    canvas.paint(box, (corpus < 0) & ((np.abs(phase - 0.24) < 0.03) | (phase > 0.97)), Tissue.BONE)
    canvas.paint(box, (corpus < 1) & disc & (phase > 0.01), Tissue.DISC)
    canal = ellipse(0, 25, 11, 8.5)
    canvas.paint(box, canal < 2.0, Tissue.VISCERAL_FAT)
    canvas.paint(box, canal < 0.5, Tissue.CSF)
    cord = np.where(z > 5, ellipse(0, 26, 5.5, 4.5), ellipse(3.5, 28, 2.4, 1.8))
    canvas.paint(box, cord < 0, Tissue.CORD)


def paint_ribs(canvas: Canvas, body: Body, within: Volume, rng: np.random.Generator) -> None:
    """Ribs sloping down and forwards inside the wall, with cartilage in front; ``within`` from ``paint_body``."""
    shell: Mask = (within > -11) & (within < 1) & (canvas.tissue == Tissue.MUSCLE)
    index = np.nonzero(shell)
    x, y, z, inward = canvas.x[index], canvas.y[index], canvas.z[index], within[index]
    angle = np.arctan2(np.abs(x), y)  # 0 at the back, pi in front
    pitch, lowest = 27 * body.stature, rng.uniform(8, 24)
    drop, rise = rng.uniform(46, 58), rng.uniform(30, 60)
    height = z + drop * np.minimum(angle, 2.3) - rise * np.maximum(angle - 2.3, 0)
    number = np.round((height - lowest) / pitch)
    off = height - lowest - number * pitch
    reach = np.select([number < 0, number < 1, number < 2, number < 3], [-1.0, 0.75, 1.35, 2.0], 2.75)
    rho = np.sqrt((off / 6.5) ** 2 + ((inward + 5.0) / 4.0) ** 2)
    rib = (rho < 1) & (angle < reach) & (angle > 0.2)
    tissue = np.where(rho > 0.62, Tissue.BONE, Tissue.MARROW)
    tissue = np.where(angle > 2.2, Tissue.CARTILAGE, tissue)
    canvas.tissue[index] = np.where(rib, tissue, Tissue.MUSCLE)
    box = canvas.box((-14, -1e3, 95), (14, 0, 1e3))
    sternum = (np.abs(canvas.x[box]) < 13) & (np.abs(within[box] + 5) < 4.5) & (canvas.z[box] > 100)
    canvas.paint(box, sternum & (canvas.y[box] < 0), Tissue.MARROW)


def paint_iliac_crests(canvas: Canvas, body: Body, top: float, rng: np.random.Generator) -> None:
    """The upper rims of the hip bones with gluteal muscle behind, below the height ``top`` (mm)."""
    lean = rng.uniform(0.5, 0.8)
    for side in (-1.0, 1.0):
        box = canvas.box((-1e3, -40, -1e3), (1e3, 130, top))
        x, y, z = side * canvas.x[box], canvas.y[box] - body.spine(top), canvas.z[box]
        sheet = x - 0.70 * body.half_width + lean * (y - 5) - 0.25 * (z - top) + 4 * canvas.bumps[box]
        extent = np.abs(y - 12 + 0.2 * (top - z)) - 1.1 * np.maximum(top - z, 0) - 4
        plate = np.maximum(np.maximum(np.abs(sheet) * 0.8 - 4.5, extent), z - top)
        gluteal = np.maximum(np.maximum(np.abs(sheet - 16) - 13, extent), z - top + 8)
        right_side = x > 0
        canvas.paint(box, (gluteal < 0) & right_side, Tissue.MUSCLE, over=(Tissue.FAT,))
        paint_bone(canvas, box, (plate + 1e3 * ~right_side).astype(np.float32), 1.8)
