"""Linear resampling of slices, one axis at a time, low-passed where it shrinks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Taps:
    """Output pixel i of a line is the sum over k of weight[k, i] * input[source[k, i]], if inside[i]."""

    source: np.ndarray
    weight: np.ndarray
    inside: np.ndarray

    def __getitem__(self, part: slice) -> Taps:
        return Taps(self.source[:, part], self.weight[:, part], self.inside[part])


def taps_of(centres: np.ndarray, step: float, n: int) -> Taps:
    """Linear interpolation of a line of `n` pixels at `centres`, which lie `step` apart.

    Where the output is coarser, the triangle is widened to `step`, which keeps fine structure from aliasing.
    """
    reach = max(1.0, step)
    index = np.floor(centres - reach).astype(int) + 1 + np.arange(math.ceil(2 * reach))[:, None]
    weight = np.clip(1 - np.abs(centres - index) / reach, 0, None) * ((index >= 0) & (index < n))
    inside = (centres > -0.5 - 1e-6) & (centres < n - 0.5 + 1e-6)
    weight = np.divide(weight, weight.sum(axis=0), out=np.zeros_like(weight), where=inside)
    used = weight.any(axis=1)
    return Taps(np.clip(index[used], 0, n - 1), weight[used].astype(np.float32), inside)


def resample(array: np.ndarray, taps: tuple[Taps, Taps], outside: float) -> np.ndarray:
    """Apply `taps` to the last two axes; float32, `outside` where either axis is outside."""
    rows, columns = taps
    array = array.astype(np.float32, copy=False)
    pairs = zip(rows.source, rows.weight, strict=True)
    array = sum(np.take(array, index, axis=-2) * weight[:, None] for index, weight in pairs)
    pairs = zip(columns.source, columns.weight, strict=True)
    array = sum(np.take(array, index, axis=-1) * weight for index, weight in pairs)
    array[..., ~rows.inside, :] = outside
    array[..., ~columns.inside] = outside
    return array
