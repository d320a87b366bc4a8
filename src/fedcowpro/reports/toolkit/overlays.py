"""Pictures of slices with contours: what the support showed, what was predicted, what is true."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.reports.toolkit.charts import YELLOW

PANELS = ("Support (annotated)", "Query", "Prediction", "Truth")
PIXELS = (320, 240)  # width, height of a panel
GREYS = 64


@dataclass(frozen=True)
class Overlay:
    """One query slice beside its support slice; all arrays are (height, width) and of one shape per pair.

    Attributes:
        site: the site's name.
        organs: name of each label that is drawn.
        support_image: grey values in any unit.
        support_labels: uint8, 0 = background.
        query_image: grey values in any unit.
        prediction: uint8 labels on the query.
        truth: uint8 labels on the query.
        caption: a line below the pictures.
    """

    site: str
    organs: Mapping[int, str]
    support_image: npt.NDArray[np.floating]
    support_labels: npt.NDArray[np.uint8]
    query_image: npt.NDArray[np.floating]
    prediction: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    caption: str

    def __post_init__(self) -> None:
        pairs = (
            (self.support_image, self.support_labels),
            (self.query_image, self.prediction),
            (self.query_image, self.truth),
        )
        for image, labels in pairs:
            if image.ndim != 2 or image.shape != labels.shape:
                raise FedCoWProError(
                    f"an overlay of site '{self.site}' with an image of shape {image.shape} and labels "
                    f"of shape {labels.shape}",
                    "an image and labels (height, width) of one shape",
                    "pass one slice of each",
                )

    def present(self) -> list[int]:
        """Labels of `organs` that occur in the support, the prediction or the truth, ascending."""
        found = {int(v) for labels in (self.support_labels, self.prediction, self.truth) for v in np.unique(labels)}
        return sorted(found & set(self.organs))


def frame(image: npt.NDArray[np.floating], margin: int = 6) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of a part in the shape of a panel that holds the body.

    The body is all that is brighter than the padding. The part may reach over the border of (height, width),
    so that all panels have one shape.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    body = image > low + 0.1 * (high - low)
    if not body.any():
        body = np.ones(image.shape, dtype=bool)
    top, bottom = np.flatnonzero(body.any(axis=1))[[0, -1]]
    left, right = np.flatnonzero(body.any(axis=0))[[0, -1]]
    unit = max((right - left + 2 * margin) / PIXELS[0], (bottom - top + 2 * margin) / PIXELS[1])
    x, y = (left + right) / 2, (top + bottom) / 2
    return (
        x - unit * PIXELS[0] / 2,
        x + unit * PIXELS[0] / 2,
        y - unit * PIXELS[1] / 2,
        y + unit * PIXELS[1] / 2,
    )


def panel(
    image: npt.NDArray[np.floating],
    labels: npt.NDArray[np.uint8] | None,
    colours: Mapping[int, str],
    *,
    fills: npt.NDArray[np.uint8] | None = None,
    segments: npt.NDArray[np.integer] | None = None,
) -> str:
    """One slice as a PNG data URI, with an outline and a light fill per label.

    Args:
        image: (height, width) grey values in any unit; the middle 99 % fill the scale.
        labels: (height, width), or None for the slice alone.
        colours: colour of each label that is drawn.
        fills: (height, width), what is filled where that is not `labels`.
        segments: (height, width); a thin line is drawn between different ones.
    """
    height, width = image.shape
    figure = Figure(figsize=(PIXELS[0] / 100, PIXELS[1] / 100), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    low, high = np.percentile(image, (0.5, 99.5))
    # Few grey levels: half the bytes, and no difference that the eye sees.
    grey = np.round(np.clip((image - low) / max(high - low, 1e-6), 0, 1) * GREYS) / GREYS
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="bilinear", aspect="auto")
    if segments is not None:
        axes.add_collection(
            LineCollection(list(_sides(segments)), colors=[YELLOW], linewidths=0.8, capstyle="projecting")
        )
    x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
    for label, colour in colours.items():
        outline, filled = (
            None if part is None else part == label for part in (labels, labels if fills is None else fills)
        )
        # A rim of background closes outlines at the border of the slice.
        if filled is not None and filled.any():
            axes.contourf(x, y, np.pad(filled.astype(float), 1), levels=[0.5, 1.5], colors=[to_rgba(colour, 0.22)])
        if outline is not None and outline.any():
            axes.contour(x, y, np.pad(outline.astype(float), 1), levels=[0.5], colors=[colour], linewidths=1.6)
    left, right, top, bottom = frame(image)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _sides(segments: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Ends (n, 2, 2) of the pixel sides between different segments, as x and y."""
    y, x = np.nonzero(segments[:, 1:] != segments[:, :-1])
    upright = np.stack([np.stack([x + 0.5, y - 0.5], axis=1), np.stack([x + 0.5, y + 0.5], axis=1)], axis=1)
    y, x = np.nonzero(segments[1:] != segments[:-1])
    level = np.stack([np.stack([x - 0.5, y + 0.5], axis=1), np.stack([x + 0.5, y + 0.5], axis=1)], axis=1)
    return np.concatenate([upright, level])


def panels(overlay: Overlay, colours: Mapping[int, str]) -> list[str]:
    """The four pictures named by `PANELS`, as PNG data URIs."""
    support, query = (np.asarray(image, dtype=np.float32) for image in (overlay.support_image, overlay.query_image))
    shown = (
        (support, overlay.support_labels),
        (query, None),
        (query, overlay.prediction),
        (query, overlay.truth),
    )
    return [panel(image, labels, colours) for image, labels in shown]
