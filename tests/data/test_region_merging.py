"""Region merging: segments are the regions that the price of border leaves apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fedcowpro.data.superpixels.region_merging import merged_regions


def energy(grey: np.ndarray, segments: np.ndarray, price: float) -> float:
    """Squared deviations from the segments' means plus the price of all borders."""
    deviations = sum(grey[segments == i].var() * (segments == i).sum() for i in np.unique(segments))
    sides = np.count_nonzero(segments[1:] != segments[:-1]) + np.count_nonzero(segments[:, 1:] != segments[:, :-1])
    return float(deviations + price * sides)


def blocks(seed: int, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Noisy patches of constant grey, and a body of irregular outline."""
    rng = np.random.default_rng(seed)
    grey = np.kron(rng.uniform(0, 250, (4, 4)), np.ones((size // 4, size // 4))) + rng.normal(0, 3, (size, size))
    y, x = np.mgrid[:size, :size] / size - 0.5
    return np.clip(grey, 0, 255).astype(np.float32), x**2 + y**2 < rng.uniform(0.1, 0.3)


@given(st.integers(0, 10_000), st.sampled_from([1.0, 100.0, 3000.0]), st.sampled_from([1, 20, 100]))
@settings(max_examples=25, deadline=None)
def test_segments_partition_the_body_into_connected_regions_of_a_least_size(
    seed: int, price: float, min_size: int
) -> None:
    grey, body = blocks(seed)
    segments = merged_regions(grey, body, price=price, sigma=1.0, min_size=min_size)
    np.testing.assert_array_equal(segments > 0, body)
    np.testing.assert_array_equal(np.unique(segments[body]), np.arange(1, segments.max() + 1))
    for i in range(1, segments.max() + 1):
        assert ndimage.label(segments == i, structure=np.ones((3, 3)))[1] == 1
    assert min(np.bincount(segments[body])[1:]) >= min_size  # this body is 4-connected, so every region has neighbours


@given(st.integers(0, 10_000), st.sampled_from([10.0, 300.0]))
@settings(max_examples=15, deadline=None)
def test_no_merge_that_is_left_lowers_the_energy(seed: int, price: float) -> None:
    grey, body = blocks(seed, 32)
    segments = merged_regions(grey, body, price=price, sigma=1.0, min_size=1)
    inside = np.where(body, grey, 0).astype(np.float64)
    reached = energy(inside, segments, price)
    for one, other in itertools.combinations(range(1, segments.max() + 1), 2):
        together = np.where(segments == other, one, segments)
        assert energy(inside, together, price) >= reached - 1e-6 * reached


@pytest.mark.parametrize(("price", "expected"), [(1000.0, 2), (1600.0, 1)])
def test_the_price_is_in_squared_grey_values_per_side_of_border(price: float, expected: int) -> None:
    """Halves of 16 x 8 pixels that differ by 20: 128 * 128 / 256 * 400 / 16 = 1600 per side, so 1600 is enough."""
    grey = np.full((16, 16), 100, np.float32)
    grey[:, 8:] = 120
    segments = merged_regions(grey, np.ones((16, 16), bool), price=np.nextafter(price, np.inf), sigma=0.5, min_size=1)
    assert segments.max() == expected


def test_borders_lie_on_the_edges() -> None:
    y, x = np.mgrid[:96, :96]
    disc = (y - 40) ** 2 + (x - 50) ** 2 < 20**2
    grey = np.where(disc, 160.0, 80.0) + np.random.default_rng(0).normal(0, 5, disc.shape)
    segments = merged_regions(grey, np.ones(disc.shape, bool), price=1500.0, sigma=1.5, min_size=50)
    inner = segments == segments[40, 50]
    assert segments.max() == 2
    assert 2 * (inner & disc).sum() / (inner.sum() + disc.sum()) > 0.97


def test_small_regions_merge_in_any_case() -> None:
    grey = np.full((32, 32), 50, np.float32)
    grey[10:14, 10:14] = 250
    options = {"price": 10.0, "sigma": 0.5}
    assert merged_regions(grey, np.ones((32, 32), bool), min_size=16, **options).max() == 2
    assert merged_regions(grey, np.ones((32, 32), bool), min_size=17, **options).max() == 1


def test_plateaus_and_bodies_without_neighbours_come_to_an_end() -> None:
    flat = np.zeros((20, 20), np.float32)
    assert (merged_regions(flat, np.ones((20, 20), bool), price=1.0, sigma=1.0, min_size=5) == 1).all()
    apart = np.zeros((20, 20), bool)
    apart[3, 3] = apart[4, 5] = True
    assert merged_regions(flat, apart, price=1.0, sigma=1.0, min_size=5)[apart].tolist() == [1, 2]
    assert not merged_regions(flat, np.zeros((20, 20), bool), price=1.0, sigma=1.0, min_size=5).any()
