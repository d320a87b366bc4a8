"""What a site does to its own update before it leaves: clip, and with the local mechanism add noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedcowpro.config import PrivacyConfig
from fedcowpro.federated.privacy.clip import Arrays, centred, clip_factor, count_deviation, noise_deviation, update_norm
from fedcowpro.federated.privacy.noise import gaussian, noise_key


@dataclass(frozen=True)
class Protected:
    """An update (`after - before`, float64) that may leave its site, and whether it was clipped, with noise."""

    update: dict[str, np.ndarray]
    below: float


def protect(
    config: PrivacyConfig, before: Arrays, after: Arrays, clip: float, seed: int, site: str, round_number: int
) -> Protected:
    """Clip an update to L2 norm `clip`, and with the local mechanism noise each number and the bit of clipping.

    Args:
        before: the server's tensors, those of `after` at least.
        after: the site's learnt tensors.
        seed, site, round_number: what the noise depends on with `randomness: seed`; without effect with `os`.
    """
    norm = update_norm(before, after)
    factor = clip_factor(norm, clip)
    update = {name: factor * (after[name] - before[name].astype(np.float64)) for name in sorted(after)}
    below = centred(norm, clip)
    if config.mechanism == "local" and config.noise_multiplier:
        key, deviation = noise_key(config.randomness, seed, site, round_number), noise_deviation(config, clip)
        update = {name: value + deviation * gaussian(key, name, value.shape) for name, value in update.items()}
        below += count_deviation(config) * float(gaussian(key, "", ()))
    return Protected(update, below)
