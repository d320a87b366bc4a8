"""A protected update as the words that secure aggregation adds, and the sum back as updates."""

from __future__ import annotations

import math

import numpy as np

from fedcowpro.config import PrivacyConfig
from fedcowpro.federated.privacy.clip import count_deviation, noise_deviation
from fedcowpro.federated.privacy.ring import Ring, pack, unpack
from fedcowpro.federated.privacy.site import Protected

_TAIL = (
    8.0  # standard deviations of noise that the ring has room for; beyond lies 1 number in 10^15, cut off at the bound
)
_NAME = ""  # the bit of clipping among the arrays; it sorts before all names


def ring_of(config: PrivacyConfig, clip: float, sites: int) -> Ring:
    """The ring for numbers of updates that were clipped to `clip`, with the site's noise if it adds some."""
    noise = noise_deviation(config, clip) if config.mechanism == "local" else 0.0
    return Ring(clip + _TAIL * noise, sites)


def clip_before_rounding(clip: float, ring: Ring, count: int) -> float:
    """A little less than `clip`: rounding of `count` numbers cannot carry the update beyond `clip`."""
    return max(clip - math.sqrt(count) * ring.step / 2, clip / 2)


def to_words(config: PrivacyConfig, own: Protected, ring: Ring) -> np.ndarray:
    """The update as uint32; with adaptive clipping the site's bit as one word more."""
    bit = {_NAME: np.array(own.below * _bit_scale(config, ring))} if config.adaptive else {}
    return ring.encode(pack({**own.update, **bit}))


def count_words(config: PrivacyConfig, shapes: dict[str, tuple[int, ...]]) -> int:
    """Number of words of such an update."""
    return sum(int(np.prod(shape)) for shape in shapes.values()) + (1 if config.adaptive else 0)


def from_words(
    config: PrivacyConfig, total: np.ndarray, sites: int, ring: Ring, shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, np.ndarray], float]:
    """Sum of the updates of `sites` sites, and of their bits (0 without adaptive clipping)."""
    all_shapes = {**shapes, _NAME: ()} if config.adaptive else shapes
    arrays = unpack(ring.decode_sum(total, sites), all_shapes)
    bit = arrays.pop(_NAME, np.zeros(()))
    return arrays, float(bit) / _bit_scale(config, ring)


def _bit_scale(config: PrivacyConfig, ring: Ring) -> float:
    """From `Protected.below` to the ring's range."""
    noise = count_deviation(config) if config.mechanism == "local" else 0.0
    return ring.bound / (0.5 + _TAIL * noise)
