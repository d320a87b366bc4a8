"""What the top slices show: lungs above the diaphragm and the base of the heart."""

from __future__ import annotations

import numpy as np

from fedcowpro.data.phantom.body import Body
from fedcowpro.data.phantom.canvas import Canvas
from fedcowpro.data.phantom.fields import Volume, smooth_max
from fedcowpro.data.phantom.tissues import Tissue


def paint_chest(canvas: Canvas, body: Body, within: Volume, rng: np.random.Generator) -> Volume:
    """Paint lungs and heart.

    Returns:
        float32 (depth, height, width): mm beneath the diaphragm, negative in the chest.
    """
    x, y, z = canvas.x, canvas.y, canvas.z
    top = (rng.uniform(108, 126) * body.stature, rng.uniform(96, 114) * body.stature)
    crown = top[0] + (top[1] - top[0]) / (1 + np.exp(-(x / body.half_width - 0.12) * 20))
    lateral = np.maximum(np.abs(x) - 0.42 * body.half_width, 0)
    behind = np.maximum(y + 0.15 * body.half_depth, 0)
    ahead = np.maximum(-y - 0.35 * body.half_depth, 0)
    fall = rng.uniform(0.8, 1.1)
    dome = crown - lateral**2 / 95 - fall * behind**2 / 165 - ahead**2 / 70 + 3 * canvas.bumps
    below = (dome - z).astype(np.float32)
    spine = body.spine(z)
    mediastinum = np.maximum(np.abs(x - 4) - 30 + 0.25 * np.abs(y), 0) + np.maximum(y - spine + 4, 0) * (np.abs(x) > 26)
    lung = (below < 0) & (within > 0) & (mediastinum > 0)
    everywhere = (slice(None), slice(None), slice(None))
    canvas.paint(everywhere, lung, Tissue.LUNG, over=(Tissue.VISCERAL_FAT,))
    veins = (np.abs(canvas.ripples) < 0.1) & (np.abs(canvas.bumps) < 0.12)
    canvas.paint(everywhere, lung & veins, Tissue.VEIN, over=(Tissue.LUNG,))
    _paint_heart(canvas, body, top[1], rng)
    return below


def _paint_heart(canvas: Canvas, body: Body, dome: float, rng: np.random.Generator) -> None:
    centre = body.at(0.20, -0.28, 0.0) + np.array([0, 0, dome + rng.uniform(26, 36)])
    box, distance = canvas.ellipsoid(centre, (58, 46, 42), margin=6)
    distance += 3 * canvas.bumps[box]
    base = (canvas.z[box] - dome) * -1.0
    outside = smooth_max(distance, (base - 4).astype(np.float32), 6.0)
    over = (Tissue.VISCERAL_FAT, Tissue.LUNG, Tissue.VEIN)
    canvas.paint(box, outside < 4, Tissue.VISCERAL_FAT, over=over)
    canvas.paint(box, outside < 0, Tissue.MYOCARDIUM, over=over)
    shift = np.array([14.0, -4.0, 4.0])
    for offset, radii, tissue in (
        (shift, (26, 20, 24), Tissue.ARTERY),
        (-shift * 1.9, (22, 26, 28), Tissue.VEIN),
    ):
        chamber, inside = canvas.ellipsoid(centre + offset, radii)
        inside += 2.5 * canvas.bumps[chamber] + 0.8 * canvas.ripples[chamber]
        canvas.paint(chamber, inside < 0, tissue, over=(Tissue.MYOCARDIUM,))
