"""Agreement of volumes after Bland and Altman (Lancet 1986): how far off is a volume, and in which direction.

Two masks of one volume can overlap badly, and a good overlap can hide that an organ is always drawn too large. The
difference is taken in percent of the mean of both volumes, so that large and small organs compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedcowpro.evaluation.statistics.intervals import FEWEST
from fedcowpro.evaluation.statistics.standard_error import Array

_WIDTH = 1.96  # standard deviations that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Agreement:
    """Mean difference in percent, and the limits that hold 95 % of single cases if these are normally distributed.

    Limits are NaN where cases are too few for a standard deviation.
    """

    bias: float
    low: float
    high: float


def volume_differences(relative_errors: Array) -> Array:
    """(predicted - true) in percent of their mean, from (predicted - true) / true; -200 = missed, below 200 always."""
    return np.asarray(200 * relative_errors / (2 + relative_errors))


def agreement(differences: Array) -> Agreement:
    """Bias and limits of agreement of cases' differences (cases,)."""
    bias = float(differences.mean())
    if len(differences) < FEWEST:
        return Agreement(bias, np.nan, np.nan)
    half = _WIDTH * float(differences.std(ddof=1))
    return Agreement(bias, bias - half, bias + half)
