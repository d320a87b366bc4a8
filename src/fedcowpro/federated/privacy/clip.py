"""Clipping of a site's update, and a clip that follows a quantile of the updates' norms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from fedcowpro.config import PrivacyConfig

Arrays = Mapping[str, np.ndarray]


def update_norm(before: Arrays, after: Arrays) -> float:
    """L2 norm of `after - before` over the names of `after`."""
    squares = (np.square(after[name] - before[name].astype(np.float64)).sum() for name in after)
    return math.sqrt(math.fsum(map(float, squares)))


def clip_factor(norm: float, clip: float) -> float:
    """What to multiply an update of this norm by, so that its norm is at most `clip`."""
    return min(1.0, clip / norm) if norm > 0 else 1.0


def noise_deviation(config: PrivacyConfig, clip: float) -> float:
    """Standard deviation of the noise on a sum of updates clipped to `clip`.

    With adaptive clipping the count of clipped updates is released too, with noise of `count_deviation`; together they
    cost what one release with `noise_multiplier` z does (Andrew et al. 2021, arXiv 1905.03871, theorem 1):
    1 / z^2 = 1 / z_update^2 + 1 / (2 s)^2, with s = z hence z_update = z sqrt(4/3).
    """
    return config.noise_multiplier * clip * (math.sqrt(4 / 3) if config.adaptive else 1.0)


def count_deviation(config: PrivacyConfig) -> float:
    """Standard deviation of the noise on the sum of `below - 1/2` over the sites, one of which moves it by 1/2."""
    return config.noise_multiplier


def centred(norm: float, clip: float) -> float:
    """1/2 where the update was not clipped, else -1/2."""
    return 0.5 if norm <= clip else -0.5


def next_clip(config: PrivacyConfig, clip: float, noised: Iterable[float], sites: int) -> float:
    """The clip of the next round: clip exp(-rate (b - quantile)), with b the share of unclipped updates.

    Args:
        noised: values of `centred` that carry noise, alone or in their sum.
        sites: number of sites that these come from.
    """
    share = math.fsum(noised) / sites + 0.5
    return clip * math.exp(-config.clip_rate * (min(max(share, 0.0), 1.0) - config.quantile))
