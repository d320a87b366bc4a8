"""Overlap of two binary masks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fedcowpro.errors import FedCoWProError


def counts(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of two masks.

    Args:
        prediction: boolean array of any shape.
        truth: boolean array of the same shape.

    Returns:
        (tp, fp, fn) as numbers of elements.

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
    tp = int(np.count_nonzero(predicted & true))
    return tp, int(np.count_nonzero(predicted)) - tp, int(np.count_nonzero(true)) - tp


def dice_from_counts(tp: int, fp: int, fn: int) -> float:
    """Dice = 2 TP / (2 TP + FP + FN), in 0..1; NaN where all counts are zero.

    The Dice of a scan takes the counts *summed over its slices*, not the mean of the slices' Dice
    (evaluation of SSL-ALPNet, Ouyang et al. 2020).
    """
    total = 2 * tp + fp + fn
    return 2 * tp / total if total else math.nan


def dice(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Dice of two boolean masks of one shape (any number of axes).

    Returns:
        A value in 0..1; 0.0 when exactly one mask is empty; NaN ("not defined") when both are, so that an
        organ that is neither there nor predicted does not flatter a mean.

    Raises:
        FedCoWProError: the shapes differ, or an array is not boolean.
    """
    return dice_from_counts(*counts(prediction, truth))
