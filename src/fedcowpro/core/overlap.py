"""Overlap of two binary masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedcowpro.core.errors import FedCoWProError


def require_masks(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], ...]:
    """Both as arrays, after the check that they are masks of one shape.

    Returns:
        (prediction, truth)

    Raises:
        FedCoWProError: the shapes differ, or an array is not boolean. Label maps are refused because their
            truth value would merge all organs into one.
    """
    predicted, true = np.asarray(prediction), np.asarray(truth)
    if predicted.shape != true.shape:
        raise FedCoWProError(
            f"a prediction of shape {predicted.shape} and a truth of shape {true.shape}",
            "two masks of one shape",
            "bring both to the same grid before they are compared",
        )
    for name, array in (("prediction", predicted), ("truth", true)):
        if array.dtype != np.bool_:
            raise FedCoWProError(
                f"a {name} of type {array.dtype}",
                "a boolean mask",
                f"compare one organ at a time: {name} == label",
            )
    return predicted, true


def counts(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of two masks.

    Args:
        prediction: boolean array of any shape.
        truth: boolean array of the same shape.

    Returns:
        (tp, fp, fn) as numbers of elements.

    Raises:
        FedCoWProError: the shapes differ, or an array is not boolean.
    """
    predicted, true = require_masks(prediction, truth)
    tp = int(np.count_nonzero(predicted & true))
    return tp, int(np.count_nonzero(predicted)) - tp, int(np.count_nonzero(true)) - tp


def dice_from_counts(tp: int, fp: int, fn: int) -> float:
    """Dice = 2 TP / (2 TP + FP + FN), in 0..1; NaN where all counts are zero.

    The Dice of a scan takes the counts *summed over its slices*, not the mean of the slices' Dice
    (evaluation of SSL-ALPNet, Ouyang et al. 2020).
    """
    return _share(2 * tp, 2 * tp + fp + fn, tp + fp + fn)


def dice(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Dice of two boolean masks of one shape (any number of axes).

    Returns:
        A value in 0..1; 0.0 when exactly one mask is empty; NaN ("not defined") when both are, so that an
        organ that is neither there nor predicted does not flatter a mean.

    Raises:
        FedCoWProError: the shapes differ, or an array is not boolean.
    """
    return dice_from_counts(*counts(prediction, truth))


@dataclass(frozen=True)
class Overlap:
    """Overlap of a prediction with the truth.

    All are NaN when both masks are empty. When exactly one is empty, `dice`, `iou`, `precision` and `recall` are 0.0,
    those included whose own denominator is zero: a missed or an invented organ stays in every mean.

    Attributes:
        dice: 2 TP / (2 TP + FP + FN).
        iou: TP / (TP + FP + FN), the Jaccard index.
        precision: TP / (TP + FP).
        recall: TP / (TP + FN), the sensitivity.
        relative_volume_error: (predicted volume - true volume) / true volume, signed, from -1 (missed) up without a
            limit; NaN also when only the truth is empty.
    """

    dice: float
    iou: float
    precision: float
    recall: float
    relative_volume_error: float


def overlap_from_counts(tp: int, fp: int, fn: int) -> Overlap:
    """All overlap metrics from true positives, false positives and false negatives (see `Overlap`)."""
    present = tp + fp + fn
    return Overlap(
        dice=dice_from_counts(tp, fp, fn),
        iou=_share(tp, present, present),
        precision=_share(tp, tp + fp, present),
        recall=_share(tp, tp + fn, present),
        relative_volume_error=(fp - fn) / (tp + fn) if tp + fn else math.nan,
    )


def overlap(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> Overlap:
    """All overlap metrics of two boolean masks of one shape (any number of axes).

    Raises:
        FedCoWProError: the shapes differ, or an array is not boolean.
    """
    return overlap_from_counts(*counts(prediction, truth))


def _share(part: int, whole: int, present: int) -> float:
    """`part / whole`; 0 where it is 0 / 0 although a mask holds something, NaN where none does."""
    if not present:
        return math.nan
    return part / whole if whole else 0.0
