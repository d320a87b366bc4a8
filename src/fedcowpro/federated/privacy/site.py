"""What a site does to its own update before it leaves: clip, and with the local mechanism add noise."""

from __future__ import annotations

import numpy as np

from fedcowpro.config import PrivacyConfig
from fedcowpro.federated.privacy.clip import Arrays, clip_factor, update_norm
from fedcowpro.federated.privacy.noise import gaussian, noise_key


def protect(
    config: PrivacyConfig, before: Arrays, after: Arrays, clip: float, seed: int, site: str, round_number: int
) -> dict[str, np.ndarray]:
    """Clip an update to L2 norm `clip`, and with the local mechanism noise each number.

    Args:
        before: the server's tensors, those of `after` at least.
        after: the site's learnt tensors.
        seed, site, round_number: what the noise depends on with `randomness: seed`; without effect with `os`.

    Returns:
        The update (`after - before`, float64) that may leave the site.
    """
    factor = clip_factor(update_norm(before, after), clip)
    update = {name: factor * (after[name] - before[name].astype(np.float64)) for name in sorted(after)}
    if config.mechanism == "local" and config.noise_multiplier:
        key, deviation = noise_key(config.randomness, seed, site, round_number), config.noise_multiplier * clip
        update = {name: value + deviation * gaussian(key, name, value.shape) for name, value in update.items()}
    return update
