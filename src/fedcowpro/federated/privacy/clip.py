"""Clipping of a site's update."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def update_norm(before: Arrays, after: Arrays) -> float:
    """L2 norm of `after - before` over the names of `after`."""
    squares = (np.square(after[name] - before[name].astype(np.float64)).sum() for name in after)
    return math.sqrt(math.fsum(map(float, squares)))


def clip_factor(norm: float, clip: float) -> float:
    """What to multiply an update of this norm by, so that its norm is at most `clip`."""
    return min(1.0, clip / norm) if norm > 0 else 1.0
