"""A picture per segmented volume: three slices with the outlines of what was found."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fedcowpro.core.files import write_atomic
from fedcowpro.reports.toolkit.overlays import PIXELS, panel
from fedcowpro.volume.organ_colours import organ_colours

SLICES = 3
_BAND = 18  # pixels for the slices' numbers


def write_preview(path: Path, image: np.ndarray, labels: np.ndarray, names: Mapping[int, str]) -> None:
    """Write a PNG of slices at the middles of three equal parts of what was found; of the volume where nothing was.

    Args:
        image: (depth, height, width).
        labels: the same; 0 is background.
        names: of the label values, for the legend.
    """
    shown = np.flatnonzero(labels.any(axis=(1, 2)))
    if len(shown) == 0:
        shown = np.arange(len(labels))
    organs = [int(organ) for organ in np.unique(labels) if organ]
    colours = organ_colours(dict.fromkeys(organs, "") | dict(names))
    width, height = PIXELS
    strip = Image.new("RGB", (width * SLICES, height + 2 * _BAND), "black")
    draw = ImageDraw.Draw(strip)
    for column in range(SLICES):
        z = int(shown[(2 * column + 1) * len(shown) // (2 * SLICES)])
        picture = base64.b64decode(panel(image[z], labels[z], colours).partition(",")[2])
        strip.paste(Image.open(io.BytesIO(picture)).convert("RGB"), (column * width, 0))
        draw.text((column * width + 6, height + 3), f"slice {z + 1} of {len(labels)}, from the foot end", fill="white")
    left = 6.0
    for organ in organs:
        name = names.get(organ, f"label {organ}")
        draw.rectangle((left, height + _BAND + 4, left + 9, height + _BAND + 13), fill=colours[organ])
        draw.text((left + 14, height + _BAND + 3), name, fill="white")
        left += 30 + draw.textlength(name)
    content = io.BytesIO()
    strip.save(content, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.getvalue())
