"""All metrics of one prediction, and what each of them means, to be printed beside its number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy.typing as npt

from fedcowpro.core.overlap import overlap
from fedcowpro.evaluation.surface import surface_metrics

Better = Literal["higher", "lower", "zero"]


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    Attributes:
        label: its name on a page.
        unit: "mm", or "" for a share.
        better: which values are good; "zero" for a signed error.
        bounds: the smallest and the largest possible value.
        definition: a sentence; `{tolerance}` in it stands for the tolerance in mm.
    """

    label: str
    unit: str
    better: Better
    bounds: tuple[float, float]
    definition: str


_EMPTY = "not defined when both masks are empty, 0 when one is"
_AREA = "surface elements between voxels weighted by their area (Nikolov et al. 2018; as surface-distance 0.1)"
METRICS = {
    "dice": Metric("Dice", "", "higher", (0, 1), f"2 TP / (2 TP + FP + FN) over voxels; {_EMPTY}"),
    "iou": Metric("IoU", "", "higher", (0, 1), f"TP / (TP + FP + FN) over voxels (Jaccard); {_EMPTY}"),
    "precision": Metric("Precision", "", "higher", (0, 1), f"TP / (TP + FP) over voxels; {_EMPTY}"),
    "recall": Metric("Recall", "", "higher", (0, 1), f"TP / (TP + FN) over voxels (sensitivity); {_EMPTY}"),
    "relative_volume_error": Metric(
        "Relative volume error",
        "",
        "zero",
        (-1, math.inf),
        "(predicted - true volume) / true volume, signed; not defined when the truth is empty",
    ),
    "hd95": Metric(
        "HD95",
        "mm",
        "lower",
        (0, math.inf),
        f"the larger of both directed 95th percentiles of the distance between surfaces; {_AREA}; "
        "not defined when both masks are empty, infinite when one is",
    ),
    "nsd": Metric(
        "NSD",
        "",
        "higher",
        (0, 1),
        f"share of both surfaces within {{tolerance}} mm of the other one; {_AREA}; {_EMPTY}",
    ),
}


@dataclass(frozen=True)
class Scores:
    """The metrics of one prediction; the fields are the keys of `METRICS`."""

    dice: float
    iou: float
    precision: float
    recall: float
    relative_volume_error: float
    hd95: float
    nsd: float


def score(prediction: npt.ArrayLike, truth: npt.ArrayLike, spacing: Sequence[float], tolerance: float) -> Scores:
    """Every metric of a prediction.

    Args:
        prediction: boolean mask (depth, height, width).
        truth: boolean mask of the same shape.
        spacing: voxel size (depth, height, width) in mm.
        tolerance: of NSD, in mm.

    Raises:
        FedCoWProError: masks that are not boolean, 3-D and of one shape; a spacing that is not three positive numbers;
            a tolerance below 0.
    """
    volumes, surfaces = overlap(prediction, truth), surface_metrics(prediction, truth, spacing, tolerance)
    return Scores(**vars(volumes), hd95=surfaces.hd95, nsd=surfaces.nsd)


def definition_of(metric: str, tolerance: float | None = None) -> str:
    """The metric's label, unit and definition as one sentence to print beside its numbers.

    Args:
        metric: key of `METRICS`.
        tolerance: of NSD, in mm.
    """
    found = METRICS[metric]
    text = found.definition.format(tolerance="a given number of" if tolerance is None else f"{tolerance:g}")
    return f"{found.label}{f' ({found.unit})' if found.unit else ''}: {text}."
