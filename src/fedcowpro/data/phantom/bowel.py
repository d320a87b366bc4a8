"""Duodenum, colon and the loops of small bowel that fill the rest of the cavity."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedcowpro.data.phantom.body import Body
from fedcowpro.data.phantom.canvas import KEEP, Canvas
from fedcowpro.data.phantom.fields import Volume
from fedcowpro.data.phantom.geometry import curve
from fedcowpro.data.phantom.tissues import BOWEL_CONTENTS, SOFT_FILL, Tissue


def paint_loop(
    canvas: Canvas,
    points: ArrayLike,
    radii: ArrayLike,
    content: Tissue,
    *,
    wall: float,
    within: Volume | None = None,
    gas_above: float | None = None,
    label: int = 0,
) -> None:
    """A hollow tube of bowel in the fat.

    Args:
        canvas: painted in place.
        points: (n, 3) centre line as (x, y, z) in mm.
        radii: one or (n,), mm.
        content: what fills it.
        wall: thickness of the wall in mm.
        within: mm beneath the inner face of the body wall, to keep the loop inside.
        gas_above: how far anterior of the mean centre line gas begins, mm; None for no gas.
        label: organ number of wall and contents.
    """
    line = np.asarray(points, float)
    box, distance = canvas.tube(line, radii, margin=5)
    distance += 1.6 * canvas.bumps[box] + 0.5 * canvas.ripples[box]
    if within is not None:
        distance = np.maximum(distance, 1.0 - within[box])
    canvas.paint(box, distance < 0, Tissue.BOWEL_WALL, label=label, over=SOFT_FILL)
    inside = (distance < -wall) & (canvas.tissue[box] == Tissue.BOWEL_WALL)
    canvas.paint(box, inside, content, label=KEEP)
    if gas_above is not None:
        level = line[:, 1].mean() - gas_above  # a fluid level is flat across the whole loop
        canvas.paint(box, inside & (canvas.y[box] < level), Tissue.GAS, label=KEEP)


def paint_duodenum(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """C-shaped loop round the head of the pancreas."""
    knots = [
        body.at(-0.20, -0.28, 10),
        body.at(-0.34, -0.10, 2),
        body.at(-0.35, 0.06, -24),
        body.at(-0.22, 0.02, -44),
        body.at(0.10, -0.06, -42),
        body.at(0.26, -0.16, -20),
    ]
    content = BOWEL_CONTENTS[rng.integers(3)]
    paint_loop(canvas, curve(knots, 16), rng.uniform(9, 13), content, wall=2.5)


def paint_colon(canvas: Canvas, body: Body, within: Volume, rng: np.random.Generator) -> None:
    """Ascending, transverse and descending colon with stool, gas and haustra."""
    drape = rng.uniform(-45, 0)
    rise = rng.uniform(-35, -5)
    segments = (
        ([(-0.66, 0.10, -135), (-0.70, 0.15, -90), (-0.72, 0.12, -50), (-0.66, -0.05, rise)], 23.0),
        ([(-0.66, -0.10, rise), (-0.45, -0.58, drape), (0.0, -0.68, drape - 6), (0.45, -0.62, drape + 14),
          (0.74, -0.22, 30)], 19.0),
        ([(0.76, -0.12, 34), (0.80, 0.16, 10), (0.78, 0.22, -40), (0.74, 0.18, -90), (0.66, 0.10, -135)], 14.0),
    )  # fmt: skip
    for knots, width in segments:
        line = curve([body.at(*k) + rng.normal(0, 4, 3) for k in knots], 26)
        haustra = 1 + 0.14 * np.sin(np.arange(26) * rng.uniform(1.3, 2.0) + rng.uniform(0, 6))
        content = Tissue.STOOL if rng.random() < 0.7 else BOWEL_CONTENTS[rng.integers(3)]
        sag = line[:, 1].mean() - line[:, 1].min()  # the middle of the transverse colon lies in front
        gas = sag + rng.uniform(-0.6, 0.8) * width
        radius = width * rng.uniform(0.7, 1.2)
        paint_loop(canvas, line, radius * haustra, content, wall=2.2, within=within, gas_above=gas)


def paint_small_bowel(canvas: Canvas, body: Body, within: Volume, rng: np.random.Generator) -> None:
    """Random loops between the colon and the great vessels, and a few beside the stomach."""
    low = body.at(-0.72, -0.80, -125)
    high = body.at(0.72, 0.18, 12)
    crowd = int(rng.integers(60, 90))
    for number in range(crowd):
        upper = number % 6 == 0
        start = body.at(0.45, -0.2, 18) + rng.normal(0, (22, 18, 12)) if upper else rng.uniform(low, high)
        line = wander(rng, start, low, high, steps=int(rng.integers(5, 11)))
        content = BOWEL_CONTENTS[int(rng.choice(3, p=(0.5, 0.33, 0.17)))]
        gas = rng.uniform(0, 7) if rng.random() < 0.15 else None
        radius = rng.uniform(7.5, 14.5)
        paint_loop(canvas, line, radius, content, wall=rng.uniform(1.6, 3.0), within=within, gas_above=gas)


def wander(
    rng: np.random.Generator, start: ArrayLike, low: ArrayLike, high: ArrayLike, steps: int
) -> NDArray[np.float64]:
    """A random smooth walk of 13 mm steps that turns back at the bounds ``low`` and ``high`` (x, y, z in mm)."""
    heading = rng.normal(size=3)
    point = np.asarray(start, float)
    points = [point]
    for _ in range(steps):
        heading = heading / np.linalg.norm(heading) + rng.normal(0, 0.5, 3)
        outside = (point < low).astype(float) - (point > high).astype(float)
        heading = np.where(outside != 0, outside * np.abs(heading), heading)
        point = point + 13 * heading / np.linalg.norm(heading)
        points.append(point)
    return np.array(points)
