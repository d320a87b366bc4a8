"""Order of painting of the abdomen: later parts fill only the fat that earlier ones left."""

from __future__ import annotations

import numpy as np

from fedcowpro.data.phantom import bowel, organs, skeleton, vessels
from fedcowpro.data.phantom.body import Body, paint_body
from fedcowpro.data.phantom.canvas import Canvas
from fedcowpro.data.phantom.chest import paint_chest


def paint_abdomen(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Paint one patient from the iliac crests (z about -110 mm) to the base of the heart (z about 140 mm)."""
    within = paint_body(canvas, body, rng)
    skeleton.paint_ribs(canvas, body, within, rng)
    skeleton.paint_back_muscles(canvas, body, rng)
    skeleton.paint_spine(canvas, body, rng)
    skeleton.paint_iliac_crests(canvas, body, rng.uniform(-98, -78) * body.stature, rng)
    below = paint_chest(canvas, body, within, rng)
    aorta, cava = vessels.paint_great_vessels(canvas, body, rng)
    hila = organs.paint_kidneys(canvas, body, rng)
    organs.paint_adrenals(canvas, body)
    organs.paint_spleen(canvas, body, within, below, rng)
    organs.paint_liver(canvas, body, within, below, rng)
    organs.paint_gallbladder(canvas, body, rng)
    pancreas = organs.paint_pancreas(canvas, body, rng)
    porta = vessels.paint_branches(canvas, aorta, cava, hila, pancreas, rng)
    vessels.paint_liver_vessels(canvas, porta, cava, rng)
    organs.paint_stomach(canvas, body, within, below, rng)
    bowel.paint_duodenum(canvas, body, rng)
    bowel.paint_colon(canvas, body, within, rng)
    bowel.paint_small_bowel(canvas, body, within, rng)
    vessels.paint_mesenteric_vessels(canvas, body.at(0.0, -0.2, -35), rng)
