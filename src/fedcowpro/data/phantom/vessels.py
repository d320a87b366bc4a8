"""Aorta, vena cava, their branches, and the trees inside the liver and the mesentery."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcowpro.data.phantom.body import Body
from fedcowpro.data.phantom.canvas import KEEP, Canvas
from fedcowpro.data.phantom.geometry import curve, moved
from fedcowpro.data.phantom.organs import AORTA, CAVA
from fedcowpro.data.phantom.tissues import SOFT_FILL, Tissue

Point = NDArray[np.float64]


def paint_great_vessels(canvas: Canvas, body: Body, rng: np.random.Generator) -> tuple[Point, Point]:
    """Aorta and inferior vena cava before the spine; returns their centre lines (n, 3), bottom to top."""
    heights = np.array([-130.0, -85, -40, 0, 40, 80, 120, 170])
    sway = rng.normal(0, 2.5, len(heights))
    front = body.spine(heights.astype(np.float32)) - 27
    aorta = np.stack([6 + sway + 0.05 * np.maximum(heights, 0), front + 0.07 * np.maximum(heights, 0), heights], 1)
    width = rng.uniform(8.5, 12.5)
    line = curve(aorta, 24)
    cava_front = front + np.array([3, 2, 1, 0, -8, -16, -22, -26])
    cava_x = np.array([-18, -18, -19, -20, -24, -28, -26, -24]) + rng.normal(0, 2, len(heights))
    cava = curve(np.stack([cava_x, cava_front, heights], 1), 24)
    for side in (-1.0, 1.0):
        crus = curve(
            [[side * 13 + 4, front[3] + 8, -5], [side * 15 + 5, front[4] + 4, 45], [side * 20, front[5], 90]],
            8,
        )
        box, distance = canvas.tube(crus, [3, 3.5, 4, 4.5, 4.5, 4, 4, 3])
        canvas.paint(box, distance < 0, Tissue.MUSCLE, over=SOFT_FILL)
    over = (*SOFT_FILL, Tissue.FAT, Tissue.LUNG, Tissue.MUSCLE)
    box, distance = canvas.tube(cava, rng.uniform(8.5, 12.5) + 0.8 * np.sin(np.arange(24)), margin=3)
    distance += 1.8 * canvas.bumps[box]
    canvas.paint(box, distance < 0, Tissue.VEIN, label=CAVA, over=over)
    box, distance = canvas.tube(line, np.linspace(0.85, 1.1, 24) * width, margin=3)
    canvas.paint(box, distance < 1.0, Tissue.BOWEL_WALL, label=AORTA, over=over)
    canvas.paint(box, distance < 0, Tissue.ARTERY, label=AORTA, over=(*over, Tissue.BOWEL_WALL))
    gullet = curve(
        [[-2, front[6] - 14, 175], [4, front[6] - 10, 130], [12, front[5] - 14, 95], [20, front[5] - 24, 84]],
        10,
    )
    box, distance = canvas.tube(gullet, 8.0, margin=3)
    canvas.paint(box, distance + canvas.bumps[box] < 0, Tissue.STOMACH_WALL, over=(*SOFT_FILL, Tissue.LUNG))
    return line, cava


def _nearest(line: Point, height: float) -> Point:
    return np.asarray(line[np.argmin(np.abs(line[:, 2] - height))])


def paint_branches(
    canvas: Canvas, aorta: Point, cava: Point, hila: list[Point], pancreas: Point, rng: np.random.Generator
) -> Point:
    """Renal, mesenteric and splenic vessels; returns the point where the portal vein meets the liver."""
    over = (*SOFT_FILL, Tissue.FAT)

    def pipe(points: list[Point], radius: float, tissue: Tissue) -> None:
        box, distance = canvas.tube(curve(points, 8), radius)
        canvas.paint(box, distance < 0, tissue, over=over)

    for hilum in hila:
        for trunk, radius, tissue in ((aorta, 2.6, Tissue.ARTERY), (cava, 4.2, Tissue.VEIN)):
            start = _nearest(trunk, float(hilum[2]) + 6)
            pipe([start, moved((start + hilum) / 2, 0, -5, 3), hilum], radius, tissue)
    root = _nearest(aorta, 18)
    fall = np.array([0.0, 0.0, -1.0])
    pipe([root, moved(root, -2, -20, -6), moved(root, -2, -32, -45), moved(root, -8, -42, -100)], 3.6, Tissue.ARTERY)
    confluence = moved(pancreas[5], 0, 9, 0)
    pipe(
        [confluence + fall * 95 + [-4, -14, 0], confluence + fall * 40 + [0, -8, 0], confluence],
        5.2,
        Tissue.LIVER_VEIN,
    )
    pipe([confluence, moved(pancreas[9], 0, 9, 2), moved(pancreas[-1], 4, 4, 6)], 4.2, Tissue.LIVER_VEIN)
    porta = confluence + np.array([-38.0, -4.0, 34.0]) + rng.normal(0, 3, 3)
    box, distance = canvas.tube(curve([confluence, moved(confluence, -15, -2, 16), porta], 7), 6.5, margin=5)
    canvas.paint(box, distance + 1.5 * canvas.bumps[box] < 1.8, Tissue.VISCERAL_FAT, over=(Tissue.LIVER,))
    canvas.paint(box, distance < 0, Tissue.LIVER_VEIN, label=KEEP, over=(*over, Tissue.LIVER))
    pipe([_nearest(aorta, 30), moved(confluence, -6, -12, 22), moved(porta, 4, -8, -4)], 2.6, Tissue.ARTERY)
    pipe([_nearest(aorta, 30), moved(confluence, 30, -2, 26), moved(pancreas[-1], 0, 8, 10)], 2.6, Tissue.ARTERY)
    return np.asarray(porta)


def _grow(
    rng: np.random.Generator, start: Point, heading: Point, radius: float, generations: int
) -> list[tuple[Point, NDArray[np.float64]]]:
    """A random tree as (centre line, radii) pieces."""
    length = rng.uniform(18, 34) * (0.6 + 0.1 * generations)
    bend = heading + rng.normal(0, 0.25, 3)
    middle = start + heading * length / 2
    end = middle + bend / np.linalg.norm(bend) * length / 2
    pieces = [(np.stack([start, middle, end]), np.linspace(radius, 0.78 * radius, 3))]
    if generations:
        normal = rng.normal(size=3)
        normal -= heading * (normal @ heading)
        normal /= np.linalg.norm(normal)
        for turn in (rng.uniform(0.35, 0.8), -rng.uniform(0.35, 0.8)):
            child = np.cos(turn) * heading + np.sin(turn) * normal
            pieces += _grow(rng, end, child, radius * rng.uniform(0.6, 0.8), generations - 1)
    return pieces


def paint_liver_vessels(canvas: Canvas, porta: Point, cava: Point, rng: np.random.Generator) -> None:
    """Portal branches from the hilum and hepatic veins that join the vena cava beneath the diaphragm."""
    junction = _nearest(cava, 92)
    trees = [
        (porta, np.array([-0.9, 0.1, 0.1]), 6.0, 5),
        (moved(porta, 4, -4, 2), np.array([0.3, -0.9, 0.35]), 5.0, 4),
        (junction, np.array([-0.85, 0.1, -0.4]), 5.6, 4),
        (junction, np.array([-0.45, -0.8, -0.3]), 5.2, 3),
        (junction, np.array([0.35, -0.85, -0.25]), 5.0, 3),
    ]
    for start, heading, radius, generations in trees:
        for line, radii in _grow(rng, start, heading / np.linalg.norm(heading), radius, generations):
            box, distance = canvas.tube(line, np.maximum(radii, 1.2))
            canvas.paint(box, distance < 0, Tissue.LIVER_VEIN, label=KEEP, over=(Tissue.LIVER,))


def paint_mesenteric_vessels(canvas: Canvas, root: Point, rng: np.random.Generator) -> None:
    """Thin vessels fanning out from ``root`` (x, y, z in mm) through the fat between the bowel loops."""
    for _ in range(26):
        heading = np.array([rng.normal(), rng.normal(-0.5, 0.4), rng.normal(-0.3, 0.5)])
        start = root + rng.normal(0, (14, 6, 30))
        tissue = Tissue.VEIN if rng.random() < 0.6 else Tissue.ARTERY
        for line, radii in _grow(rng, start, heading / np.linalg.norm(heading), rng.uniform(1.3, 2.4), 2):
            box, distance = canvas.tube(line, np.maximum(radii, 0.8))
            canvas.paint(box, distance < 0, tissue, over=SOFT_FILL)
