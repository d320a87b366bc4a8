"""The solid organs of the abdomen, the gallbladder and the stomach."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcowpro.data.phantom.body import Body
from fedcowpro.data.phantom.canvas import KEEP, Canvas
from fedcowpro.data.phantom.fields import Volume, smooth_max
from fedcowpro.data.phantom.geometry import curve, moved, rotation
from fedcowpro.data.phantom.tissues import SOFT_FILL, Tissue

LABELS = {
    1: "liver",
    2: "right kidney",
    3: "left kidney",
    4: "spleen",
    5: "stomach",
    6: "gallbladder",
    7: "aorta",
    8: "inferior vena cava",
    9: "pancreas",
}
LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN, STOMACH, GALLBLADDER, AORTA, CAVA, PANCREAS = LABELS


def paint_kidneys(canvas: Canvas, body: Body, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Both kidneys with cortex, medulla and sinus, wrapped in fat; returns the hilum points (right, left)."""
    hila = []
    fat = np.clip(rng.normal(0.3 * body.fat, 2.0), 0.8, 9)
    for side, label, height in ((-1.0, RIGHT_KIDNEY, -14.0), (1.0, LEFT_KIDNEY, 2.0)):
        size = rng.uniform(0.86, 1.12)
        centre = body.at(side * rng.uniform(0.43, 0.50), 0, height + rng.normal(0, 9))
        centre[1] = float(body.spine(float(centre[2]))) + rng.uniform(-2, 14)
        frame = (
            np.diag([-side, 1.0, 1.0])
            @ rotation(rng.normal(-8, 5), side * rng.uniform(6, 16), side * rng.uniform(15, 45)).T
        )
        medial, _, long = frame
        box, bean = canvas.ellipsoid(centre, np.array([34, 29, 58]) * size, frame, margin=12)
        bean += 2.5 * canvas.bumps[box] + 0.7 * canvas.ripples[box]
        x, y, z = (g[box] - c for g, c in zip((canvas.x, canvas.y, canvas.z), centre, strict=True))
        inward = medial[0] * x + medial[1] * y + medial[2] * z
        axial = long[0] * x + long[1] * y + long[2] * z
        across = np.sqrt(np.maximum(x * x + y * y + z * z - inward**2 - axial**2, 0))
        sinus = np.sqrt(((inward - 31 * size) / 27) ** 2 + (across / 11) ** 2 + (axial / 26) ** 2)
        sinus = ((sinus - size) * 11 + 1.5 * canvas.ripples[box]).astype(np.float32)
        canvas.paint(box, bean < fat * (0.7 + 0.4 * canvas.bumps[box]), Tissue.FAT, over=SOFT_FILL)
        kidney = np.maximum(bean, -sinus)
        over = (Tissue.FAT, Tissue.VISCERAL_FAT)
        canvas.paint(box, kidney < 0, Tissue.CORTEX, label=label, over=over)
        pyramids = (bean < -6) & (canvas.ripples[box] + 0.6 * canvas.bumps[box] > -0.35)
        canvas.paint(box, pyramids, Tissue.MEDULLA, label=KEEP, over=(Tissue.CORTEX,))
        calyx = (sinus < -3.5) & (canvas.ripples[box] > 0.2) & (bean < -4)
        canvas.paint(box, calyx, Tissue.URINE, label=KEEP, over=over)
        hila.append(centre + medial * 26 * size)
        pelvis = hila[-1] - medial * 6
        ureter = [pelvis, hila[-1], moved(hila[-1], -side * 6, 2, -30), [side * 42, centre[1] - 8, -110]]
        tube_box, tube = canvas.tube(ureter, [6 * size, 3.5, 2.2, 2.0])
        canvas.paint(tube_box, tube < 0, Tissue.URINE, label=KEEP, over=over)
    return hila


def paint_liver(canvas: Canvas, body: Body, within: Volume, below: Volume, rng: np.random.Generator) -> None:
    """Liver filling the right upper cavity beneath the diaphragm, thinning towards Left."""
    edge = rng.uniform(0.12, 0.6)
    box = canvas.box((-1e3, -1e3, -120), (edge * body.half_width + 40, 1e3, 160))
    x, y, z = canvas.x[box], canvas.y[box], canvas.z[box]
    u, v = x / body.half_width + 0.07 * canvas.bumps[box], y / body.half_depth
    u += rng.uniform(-0.25, 0.35) * (v + 0.4)
    low, tilt = rng.normal(-58, 20), rng.uniform(0.85, 1.25)
    knots_u = [-1.1, -0.68, -0.42, -0.16, 0.10, edge, edge + 0.45]
    knots_z = [low, low + 8, 0.3 * low + rng.normal(0, 8), 16, 34 * tilt, 62 * tilt, 150]
    floor = np.interp(u, knots_u, knots_z).astype(np.float32)
    floor += 60 * np.maximum(v - 0.05, 0) * (u > -0.75) + 6 * canvas.bumps[box]
    hollow = np.interp(u, [-0.24, -0.05, 0.15, 0.5, 0.9], [0.9, 0.22, -0.10, -0.28, -0.45]).astype(np.float32)
    back = (v - hollow - 0.0035 * (z - 60)) * body.half_depth + 4 * canvas.bumps[box]
    distance = smooth_max((floor - z) * 0.6, 1.2 - within[box], 5.0)
    distance = smooth_max(distance, 2.0 - below[box], 6.0)
    distance = smooth_max(distance, (back * 0.8).astype(np.float32), 10.0)
    cleft = 1.0 + 0.03 * (55 - z) - np.abs(x + 0.10 * body.half_width - 0.12 * (y + 40) + 3 * canvas.bumps[box])
    cleft = np.minimum(cleft, np.minimum(-y - rng.uniform(0.2, 0.55) * body.half_depth, rng.uniform(30, 58) - z))
    distance = np.maximum(distance, cleft) + 0.5 * canvas.ripples[box]
    canvas.paint(box, distance < 0, Tissue.LIVER, label=LIVER, over=SOFT_FILL)
    for _ in range(int(rng.poisson(0.7))):
        spot = body.at(rng.uniform(-0.8, 0.1), rng.uniform(-0.5, 0.4), rng.uniform(0, 100))
        lesion_box, lesion = canvas.ellipsoid(spot, rng.uniform(4, 14) * rng.uniform(0.8, 1.2, 3))
        lesion += 0.8 * canvas.ripples[lesion_box]
        canvas.paint(lesion_box, lesion < 0, Tissue.LESION, label=KEEP, over=(Tissue.LIVER,))


def paint_gallbladder(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Pear-shaped gallbladder in the under surface of the liver."""
    neck = body.at(rng.uniform(-0.32, -0.24), -0.18, rng.uniform(10, 20))
    fundus = body.at(rng.uniform(-0.52, -0.36), rng.uniform(-0.66, -0.45), rng.uniform(-32, -10))
    middle = (neck + fundus) / 2 + rng.normal(0, 4, 3)
    width = rng.uniform(9, 16)
    box, distance = canvas.tube(curve([neck, middle, fundus], 7), np.linspace(0.45, 1, 7) * width, margin=4)
    distance += 1.2 * canvas.bumps[box]
    over = (Tissue.LIVER, Tissue.VISCERAL_FAT, Tissue.LESION)
    canvas.paint(box, distance < 1.2, Tissue.BOWEL_WALL, over=over)
    canvas.paint(box, distance < 0, Tissue.BILE, label=GALLBLADDER, over=(*over, Tissue.BOWEL_WALL))


def paint_spleen(canvas: Canvas, body: Body, within: Volume, below: Volume, rng: np.random.Generator) -> None:
    """Crescent against the left posterior wall, hollowed at its hilum."""
    centre = body.at(rng.uniform(0.64, 0.74), rng.uniform(0.28, 0.42), rng.uniform(36, 54))
    size = rng.uniform(0.8, 1.25)
    turn = rotation(rng.normal(15, 6), rng.normal(0, 8), rng.uniform(-40, -15)).T
    box, distance = canvas.ellipsoid(centre, np.array([42, 52, 66]) * size, turn, margin=6)
    distance += 4 * canvas.bumps[box] + 0.5 * canvas.ripples[box]
    inner, hollow = canvas.ellipsoid(centre + np.array([-42, -26, -6]) * size, np.array([30, 32, 44]) * size)
    scoop = np.full(distance.shape, 1e3, np.float32)
    overlap = [slice(max(i.start, b.start), min(i.stop, b.stop)) for i, b in zip(inner, box, strict=True)]
    if all(s.stop > s.start for s in overlap):
        of_box = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(overlap, box, strict=True))
        of_inner = tuple(slice(s.start - i.start, s.stop - i.start) for s, i in zip(overlap, inner, strict=True))
        scoop[of_box] = hollow[of_inner]
    distance = smooth_max(distance, -scoop, 6.0)
    distance = smooth_max(smooth_max(distance, 1.5 - within[box], 3.0), 2.5 - below[box], 4.0)
    canvas.paint(box, distance < 0, Tissue.SPLEEN, label=SPLEEN, over=SOFT_FILL)


def paint_stomach(canvas: Canvas, body: Body, within: Volume, below: Volume, rng: np.random.Generator) -> None:
    """Stomach from the fundus under the left dome to the pylorus: wall, contents and gas above the fluid level."""
    fill = rng.uniform(0.72, 1.25)
    knots = [
        body.at(0.10, 0.12, 82),
        body.at(0.44, 0.02, 84),
        body.at(rng.uniform(0.48, 0.60), -0.22, 58),
        body.at(rng.uniform(0.40, 0.55), -0.45, 30),
        body.at(rng.uniform(0.12, 0.25), -0.52, rng.uniform(-8, 14)),
        body.at(-0.18, -0.32, rng.uniform(6, 16)),
    ]
    radii = np.maximum(curve(np.array([10, 34, 33, 26, 19, 9]), 16) * [*np.full(13, fill), 1, 1, 1], 7)
    box, distance = canvas.tube(curve(knots, 16), radii, margin=8)
    distance += 4 * canvas.bumps[box] + 0.6 * canvas.ripples[box]
    distance = smooth_max(smooth_max(distance, 2.0 - within[box], 4.0), 2.5 - below[box], 4.0)
    canvas.paint(box, distance < 0, Tissue.STOMACH_WALL, label=STOMACH, over=SOFT_FILL)
    folds = 3.2 + 1.2 * canvas.ripples[box]
    canvas.paint(box, distance < -folds, Tissue.STOMACH_CONTENT, label=KEEP, over=(Tissue.STOMACH_WALL,))
    level = rng.uniform(-0.8, -0.3) * body.half_depth
    gas = canvas.y[box] < level + 0.8 * canvas.ripples[box]
    canvas.paint(box, gas, Tissue.GAS, label=KEEP, over=(Tissue.STOMACH_CONTENT,))


def paint_pancreas(canvas: Canvas, body: Body, rng: np.random.Generator) -> NDArray[np.float64]:
    """Pancreas arching over the great vessels towards the splenic hilum; returns its centre line (n, 3)."""
    lift = rng.normal(0, 6)
    knots = [
        body.at(-0.20, -0.02, -22 + lift),
        body.at(-0.17, -0.10, 0 + lift),
        body.at(0.04, -0.20, 14 + lift),
        body.at(0.28, -0.04, 24 + lift),
        body.at(0.55, 0.18, 40 + lift),
    ]
    line = curve(knots, 14)
    radii = curve(np.array([13, 14, 9, 10, 8]) * rng.uniform(0.8, 1.15), 14)
    box, distance = canvas.tube(line, radii, margin=5)
    distance += 2 * canvas.bumps[box] + 2.2 * canvas.ripples[box]
    canvas.paint(box, distance < 0, Tissue.PANCREAS, label=PANCREAS, over=SOFT_FILL)
    return line


def paint_adrenals(canvas: Canvas, body: Body) -> None:
    """Thin inverted-Y glands above the kidneys."""
    for side in (-1.0, 1.0):
        ridge = body.at(side * 0.24, 0.18, 38)
        for leg in (np.array([side * 12, 20, -8]), np.array([-side * 2, 22, -10])):
            box, distance = canvas.tube([moved(ridge, 0, 0, 12), ridge, ridge + leg], [2.2, 2.6, 1.8])
            canvas.paint(box, distance < 0, Tissue.ADRENAL, over=(*SOFT_FILL, Tissue.FAT))
