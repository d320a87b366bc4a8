"""Real numbers as whole ones modulo 2^32, in which sums of a known number of sites do not wrap around."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedcowpro.config import PrivacyConfig

_WORDS = 2**32
_TAIL = 8.0  # deviations of noise that the ring has room for; what lies beyond, 1 number in 10^15, is cut off there


@dataclass(frozen=True)
class Ring:
    """Numbers within -bound..bound, at most `sites` of which are added.

    Each becomes one of `levels` + 1 whole numbers from 0; the sum of all sites' stays below 2^32.
    """

    bound: float
    sites: int

    @property
    def levels(self) -> int:
        return (_WORDS - 1) // self.sites

    @property
    def step(self) -> float:
        """Distance of neighbouring numbers; rounding moves a number by at most half of it."""
        return 2 * self.bound / self.levels

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Finite float64 numbers as uint32; those beyond the bound are cut off at it."""
        cut = np.clip(values, -self.bound, self.bound)
        return np.minimum(np.rint((cut + self.bound) / self.step), self.levels).astype(np.uint32)

    def decode_sum(self, total: np.ndarray, count: int) -> np.ndarray:
        """Sum of `count` encoded numbers as float64."""
        return total.astype(np.float64) * self.step - count * self.bound

    def clip_before_rounding(self, clip: float, count: int) -> float:
        """A little less than `clip`: rounding of `count` numbers cannot carry the update beyond `clip`."""
        return max(clip - math.sqrt(count) * self.step / 2, clip / 2)


def ring_of(config: PrivacyConfig, sites: int) -> Ring:
    """The ring for numbers of clipped updates, with the site's noise if it adds some."""
    noise = config.noise_multiplier if config.mechanism == "local" else 0.0
    return Ring(config.clip + _TAIL * noise * config.clip, sites)


def pack(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """All arrays in the order of their names as one vector of float64."""
    return np.concatenate([np.asarray(arrays[name], np.float64).ravel() for name in sorted(arrays)])


def unpack(vector: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays that `pack` packed."""
    found, at = {}, 0
    for name in sorted(shapes):
        count = int(np.prod(shapes[name]))
        found[name] = vector[at : at + count].reshape(shapes[name])
        at += count
    return found
