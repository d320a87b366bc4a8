"""Order of painting of the female pelvis and its organs, with or without a brachytherapy applicator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcowpro.data.phantom.body import Body, paint_body
from fedcowpro.data.phantom.bowel import paint_loop, wander
from fedcowpro.data.phantom.canvas import KEEP, Canvas
from fedcowpro.data.phantom.fields import Volume, smooth_max
from fedcowpro.data.phantom.geometry import curve, moved, rotation
from fedcowpro.data.phantom.hips import paint_hips, paint_pelvic_cavity, paint_sacrum
from fedcowpro.data.phantom.tissues import BOWEL_CONTENTS, SOFT_FILL, Tissue

LABELS = {1: "bladder", 2: "rectum", 3: "sigmoid colon", 4: "femoral heads"}
BLADDER, RECTUM, SIGMOID, FEMORAL_HEADS = LABELS
Point = NDArray[np.float64]


def paint_pelvis(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Paint one patient from the perineum (z about -60 mm) past the femoral heads (z = 0) to the promontory."""
    paint_body(canvas, body, rng)
    within = paint_pelvic_cavity(canvas, body, rng)
    paint_sacrum(canvas, rng)
    paint_hips(canvas, FEMORAL_HEADS, rng)
    _paint_bladder(canvas, body, within, rng)
    top = _paint_rectum(canvas, rng)
    _paint_womb(canvas, rng)
    _paint_sigmoid(canvas, top, within, rng)
    _paint_small_bowel(canvas, body, within, rng)
    _paint_vessels(canvas, rng)


def _paint_bladder(canvas: Canvas, body: Body, within: Volume, rng: np.random.Generator) -> None:
    size = rng.uniform(0.8, 1.25)
    centre = np.array([rng.normal(0, 4), -0.33 * body.half_depth + rng.normal(0, 3), 4 + 18 * size])
    tilt = rotation(rng.normal(-12, 10), rng.normal(0, 6), rng.normal(0, 6)).T
    box, distance = canvas.ellipsoid(centre, np.array([40, 29, 29]) * size * rng.uniform(0.9, 1.1, 3), tilt, margin=8)
    distance += 4 * canvas.bumps[box]
    distance = smooth_max(distance, 2.0 - within[box], 8.0)
    canvas.paint(box, distance < 0, Tissue.BLADDER_WALL, label=BLADDER, over=SOFT_FILL)
    wall = rng.uniform(2.5, 4.5) + 0.7 * canvas.ripples[box]
    canvas.paint(box, distance < -wall, Tissue.BLADDER, label=KEEP, over=(Tissue.BLADDER_WALL,))
    if rng.random() < 0.5:  # balloon of a catheter
        spot = centre + np.array([rng.normal(0, 6), 4, -14 * size])
        ball_box, ball = canvas.ellipsoid(spot, rng.uniform(8, 11) * np.ones(3))
        canvas.paint(ball_box, np.abs(ball) < 0.9, Tissue.BLADDER_WALL, label=KEEP, over=(Tissue.BLADDER,))


def _paint_rectum(canvas: Canvas, rng: np.random.Generator) -> Point:
    sway = rng.normal(0, 4, 6)
    knots = np.array(
        [
            [0, 42, -66],
            [0, 34, -38],
            [sway[1], 38, -12],
            [sway[2], 44, 12],
            [sway[3], 40, 36],
            [sway[4], 30, 54],
        ]
    )
    fill = rng.uniform(0.75, 1.3)
    radii = curve(np.array([9, 10, 14, 16, 14, 12]) * [0.9, 1, fill, fill, fill, 1], 16)
    content = Tissue.GAS if rng.random() < 0.3 else Tissue.RECTUM_CONTENT
    gas = None if content == Tissue.GAS or rng.random() < 0.4 else rng.uniform(-4, 6)
    wall = rng.uniform(3.0, 4.5)
    paint_loop(canvas, curve(knots, 16), radii, content, wall=wall, gas_above=gas, label=RECTUM)
    return np.asarray(knots[-1])


def _paint_womb(canvas: Canvas, rng: np.random.Generator) -> None:
    """Uterus, cervix with tumour, vagina and urethra; often a tandem and ring inside."""
    lean, size = rng.normal(0, 7), rng.uniform(0.95, 1.4)
    cervix = np.array([lean * 0.3, 9.0, 8.0]) + rng.normal(0, 2, 3)
    fundus = cervix + np.array([lean, rng.uniform(-26, 4), 48 * size])
    line = curve([moved(cervix, 0, 2, -8), cervix, moved((cervix + fundus) / 2, 0, 3, 0), fundus], 9)
    box, distance = canvas.tube(line, curve(np.array([14, 15, 17, 21]) * size, 9), margin=6)
    distance += 3 * canvas.bumps[box]
    canvas.paint(box, distance < 0, Tissue.UTERUS, over=SOFT_FILL)
    cavity_box, cavity = canvas.tube(line[3:], np.linspace(1.5, 5, 6) * size)
    canvas.paint(cavity_box, cavity + canvas.ripples[cavity_box] < 0, Tissue.ENDOMETRIUM, over=(Tissue.UTERUS,))
    box, distance = canvas.ellipsoid(cervix, rng.uniform(13, 23, 3))
    distance += 4 * canvas.bumps[box] + canvas.ripples[box]
    canvas.paint(box, distance < 0, Tissue.TUMOUR, over=(Tissue.UTERUS, Tissue.VISCERAL_FAT))
    for shift in (-9.0, 0.0, 9.0):
        vagina = curve([np.array([shift, 14, -62]), np.array([shift, 12, -35]), moved(cervix, shift, 2, -14)], 6)
        box, distance = canvas.tube(vagina, 8.0)
        canvas.paint(box, distance + canvas.ripples[box] < 0, Tissue.BOWEL_WALL, over=(*SOFT_FILL, Tissue.MUSCLE))
    box, distance = canvas.tube([[0, -14, -66], [0, -20, -36], [0, -28, -12]], [6, 8, 9])
    canvas.paint(box, distance + canvas.bumps[box] < 0, Tissue.BOWEL_WALL, over=(*SOFT_FILL, Tissue.MUSCLE))
    if rng.random() < 0.65:
        _paint_applicator(canvas, line, cervix)


def _paint_applicator(canvas: Canvas, line: NDArray[np.float64], cervix: Point) -> None:
    inside = (
        Tissue.UTERUS,
        Tissue.ENDOMETRIUM,
        Tissue.TUMOUR,
        Tissue.BOWEL_WALL,
        Tissue.VISCERAL_FAT,
        Tissue.MUSCLE,
    )
    entry = np.array([0.0, 16.0, -75.0])
    tandem = np.concatenate([curve([entry, moved(cervix, 0, 1, -20)], 4), line[1:-2]])
    turn = np.linspace(0, 2 * np.pi, 13)
    ring = cervix + np.stack([14 * np.cos(turn), 14 * np.sin(turn) * 0.8, np.full(13, -16.0)], 1)
    for path, radius in ((tandem, 2.6), (ring, 4.2)):
        box, distance = canvas.tube(path, radius)
        canvas.paint(box, distance < 0, Tissue.APPLICATOR, over=inside)


def _paint_sigmoid(canvas: Canvas, top: Point, within: Volume, rng: np.random.Generator) -> None:
    knots = np.array([[0, 0, 0], [18, -14, 10], [-8, -34, 14], [22, -44, 20], [52, -28, 16], [76, -22, 34]], float)
    knots[1:] += rng.normal(0, 7, (5, 3))
    line = curve(top + knots * [rng.uniform(0.7, 1.1), 1, rng.uniform(0.7, 1.2)], 30)
    radii = rng.uniform(10, 14) * (1 + 0.15 * np.sin(np.arange(30) * 1.4))
    content = (Tissue.STOOL, Tissue.BOWEL_COLLAPSED, Tissue.BOWEL_FLUID)[int(rng.choice(3, p=(0.45, 0.4, 0.15)))]
    gas = rng.uniform(-6, 14) if rng.random() < 0.6 else None
    paint_loop(canvas, line, radii, content, wall=rng.uniform(2.5, 4), within=within, gas_above=gas, label=SIGMOID)


def _paint_small_bowel(canvas: Canvas, body: Body, within: Volume, rng: np.random.Generator) -> None:
    low, high = np.array([-85.0, 25 - body.half_depth, 24.0]), np.array([85.0, 35.0, 100.0])
    for _ in range(int(rng.integers(34, 54))):
        line = wander(rng, rng.uniform(low, high), low, high, steps=8)
        content = BOWEL_CONTENTS[int(rng.choice(3, p=(0.45, 0.35, 0.2)))]
        paint_loop(canvas, line, rng.uniform(8, 14), content, wall=rng.uniform(1.8, 3), within=within)


def _paint_vessels(canvas: Canvas, rng: np.random.Generator) -> None:
    """External iliac to femoral vessels and small vessels beside the cervix."""
    for side in (-1.0, 1.0):
        for shift, tissue in ((0.0, Tissue.ARTERY), (11.0, Tissue.VEIN)):
            knots = [[34, 15, 95], [58, -12, 55], [56, -46, 15], [50, -66, -20], [52, -64, -75]]
            path = [[side * (x - 0.4 * shift), y + shift, z] for x, y, z in knots]
            box, distance = canvas.tube(curve(path, 14), rng.uniform(3.5, 5.5))
            over = (*SOFT_FILL, Tissue.MUSCLE, Tissue.FAT)
            canvas.paint(box, distance < 1.5, Tissue.VISCERAL_FAT, over=over)
            canvas.paint(box, distance < 0, tissue, over=over)
        for _ in range(55):
            start = np.array([side * rng.uniform(14, 60), rng.uniform(-15, 50), rng.uniform(-25, 60)])
            bends = np.cumsum(rng.normal(0, 9, (4, 3)), 0)
            box, distance = canvas.tube(start + bends, rng.uniform(1.0, 2.8))
            canvas.paint(box, distance < 0, Tissue.VEIN if rng.random() < 0.6 else Tissue.ARTERY, over=SOFT_FILL)
