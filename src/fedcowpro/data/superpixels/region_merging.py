"""Superpixels by region merging: regions of one grey value each, at a price for every pixel of border.

The energy is Mumford and Shah's for piecewise constant images: the squared deviations from the regions' means plus
`price` times the length of all borders. As in Koepfler, Lopez and Morel 1994, neighbours merge greedily as long as
that lowers the energy; here every two regions that are each other's cheapest neighbour merge in the same round,
which keeps the work in a few array operations. The regions to begin with are the basins of the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Ints = npt.NDArray[np.int64]
# Neighbours before and after a pixel in reading order.
_BEFORE = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
_AFTER = ((0, 1), (1, -1), (1, 0), (1, 1))


@dataclass
class _Regions:
    """Regions and their 4-connected neighbours: pixels and sum of grey per region; per pair, the two (a < b) and
    the length of their border in pixel sides."""

    pixels: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]
    a: Ints
    b: Ints
    border: npt.NDArray[np.float64]

    def prices(self) -> npt.NDArray[np.float64]:
        """What merging each pair adds to the squared deviations, per unit of its border."""
        mean, n = self.total / self.pixels, self.pixels
        a, b = self.a, self.b
        return n[a] * n[b] / (n[a] + n[b]) * (mean[a] - mean[b]) ** 2 / self.border

    def merge(self, allowed: npt.NDArray[np.bool_], prices: npt.NDArray[np.float64]) -> Ints:
        """Merge the allowed pairs that are each other's cheapest; new number of every region."""
        pairs = np.flatnonzero(allowed)
        dearest_first = pairs[np.argsort(prices[pairs], kind="stable")][::-1]
        # Of repeated indices the last value stays: each region's cheapest pair.
        best = np.full(len(self.pixels), -1)
        best[np.stack([self.a[dearest_first], self.b[dearest_first]], axis=1).ravel()] = np.repeat(dearest_first, 2)
        chosen = pairs[(best[self.a[pairs]] == pairs) & (best[self.b[pairs]] == pairs)]
        into = np.arange(len(self.pixels))
        into[self.b[chosen]] = self.a[chosen]
        alive = into == np.arange(len(into))
        number = (np.cumsum(alive) - 1)[into]
        n = int(alive.sum())
        self.pixels = _sums(number, self.pixels, n)
        self.total = _sums(number, self.total, n)
        self.a, self.b, self.border = _pairs(number[self.a], number[self.b], self.border)
        return number


def merged_regions(
    grey: np.ndarray, body: npt.NDArray[np.bool_], *, price: float, sigma: float, min_size: int
) -> npt.NDArray[np.int64]:
    """Segment the body of one slice.

    Args:
        grey: (height, width), grey levels; the result depends on their scale.
        body: (height, width), what to segment.
        price: squared grey levels per pixel side of border. Two large regions with a common border of length l stay
            apart when their means differ by more than sqrt(price * l * (1 / pixels of one + 1 / pixels of the other)).
        sigma: pixels; smooths the gradient whose basins are the first regions.
        min_size: pixels; smaller regions merge with their cheapest neighbour in any case, as far as they have one.

    Returns:
        (height, width): 0 outside the body, 1..n inside, every id used; each segment is 8-connected.
    """
    out = np.zeros(grey.shape, np.int64)
    if not body.any():
        return out
    window = tuple(
        slice(int(used[0]), int(used[-1]) + 1) for used in (np.flatnonzero(body.any(axis=axis)) for axis in (1, 0))
    )
    grey, body = grey[window].astype(np.float32), body[window]
    first = _basins(np.where(body, ndimage.gaussian_gradient_magnitude(grey, sigma), np.inf))[body]
    used = np.zeros(body.size, bool)
    used[first] = True
    first = (np.cumsum(used) - 1)[first]
    ids = np.full(body.shape, -1)
    ids[body] = first
    regions = _regions(ids, np.bincount(first), np.bincount(first, grey[body]))
    number = np.arange(len(regions.pixels))
    for force in (False, True):
        while len(regions.a):
            prices = regions.prices()
            small = np.minimum(regions.pixels[regions.a], regions.pixels[regions.b]) < min_size
            allowed = small if force else prices < price
            if not allowed.any():
                break
            number = regions.merge(allowed, prices)[number]
    out[window][body] = number[first] + 1
    return out


def _basins(height: npt.NDArray[np.float32]) -> Ints:
    """Index of the local minimum that steepest descent among 8 neighbours leads to, for every pixel;
    infinite pixels lead to themselves.

    On a plateau descent goes to the neighbour that comes first in reading order, so it never turns in a circle.
    """
    rows, columns = height.shape
    padded = np.pad(height, 1, constant_values=np.inf)
    lowest, choice = height.copy(), np.zeros(height.shape, np.int8)
    steps = ((0, 0), *_BEFORE, *_AFTER)
    for i, (dy, dx) in enumerate(steps[1:], 1):
        other = padded[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]
        lower = other <= lowest if i <= len(_BEFORE) else other < lowest
        choice[lower] = i
        np.minimum(lowest, other, out=lowest)
    choice[np.isinf(height)] = 0
    offsets = np.array([dy * columns + dx for dy, dx in steps])
    target = np.arange(height.size).reshape(height.shape) + offsets[choice]
    flat = target.ravel()
    while not np.array_equal(further := flat[flat], flat):
        flat = further
    return flat.reshape(height.shape)


def _regions(ids: Ints, pixels: np.ndarray, total: np.ndarray) -> _Regions:
    """The regions of a map of ids; -1 belongs to none."""
    found = []
    for one, other in ((ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1])):
        border = (one != other) & (one >= 0) & (other >= 0)
        found.append(np.stack([one[border], other[border]]))
    one, other = np.concatenate(found, axis=1)
    return _Regions(pixels.astype(np.float64), total, *_pairs(one, other, np.ones(len(one))))


def _pairs(one: Ints, other: Ints, border: np.ndarray) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """Unordered pairs of different regions, each once, with the sum of their borders."""
    differ = one != other
    one, other, border = one[differ], other[differ], border[differ]
    n = int(max(one.max(initial=0), other.max(initial=0))) + 1
    keys, pair = np.unique(np.minimum(one, other) * n + np.maximum(one, other), return_inverse=True)
    return keys // n, keys % n, _sums(pair, border, len(keys))


def _sums(groups: Ints, values: np.ndarray, n: int) -> npt.NDArray[np.float64]:
    """Sum of the values of each group 0..n-1."""
    return np.bincount(groups, values, minlength=n).astype(np.float64, copy=False)
