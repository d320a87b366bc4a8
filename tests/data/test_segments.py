"""Unions of superpixels: which neighbours are taken, and what a pseudo-label is in another slice."""

from __future__ import annotations

import numpy as np
import pytest

from fedcowpro.data.episodes.pseudo_labels import counterpart, joined


def stripes(*values: float) -> tuple[np.ndarray, np.ndarray]:
    """Superpixels 1, 2, ... side by side, 4 pixels wide, with these grey values; air above and below."""
    segments = np.zeros((8, 4 * len(values)), np.uint16)
    segments[2:6] = np.repeat(np.arange(1, len(values) + 1), 4)
    image = np.where(segments > 0, np.array([0.0, *values])[segments], -9.0).astype(np.float32)
    return segments, image


def members(segments: np.ndarray, mask: np.ndarray) -> set[int]:
    found = set(np.unique(segments[mask]).tolist())
    assert np.array_equal(mask, np.isin(segments, list(found)))  # whole superpixels
    return found


def test_the_most_similar_neighbour_comes_first() -> None:
    segments, image = stripes(3.0, 1.0, 1.3, 1.2, 1.9, -3.0)
    assert members(segments, joined(segments, image, 3, 1)) == {3, 4}
    # The next one has to touch the union; 2 is nearer to the first superpixel's value than 5.
    assert members(segments, joined(segments, image, 3, 2)) == {2, 3, 4}
    assert members(segments, joined(segments, image, 3, 3)) == {2, 3, 4, 5}


def test_dissimilar_neighbours_and_air_are_left_out() -> None:
    segments, image = stripes(0.0, 1.0, 0.05, 1.0)
    assert image[segments > 0].std() == pytest.approx(0.49, abs=0.01)  # limit: 0.245
    assert members(segments, joined(segments, image, 1, 3)) == {1}
    segments, image = stripes(0.0, 0.1, 5.0, 0.0)
    assert members(segments, joined(segments, image, 1, 3)) == {1, 2}  # 4 does not touch


def test_similarity_is_to_the_first_superpixel() -> None:
    """A ramp of grey values does not carry the union away."""
    segments, image = stripes(*np.linspace(0, 4, 9))
    limit = image[segments > 0].std() / 2
    assert 0.5 < limit < 1
    assert members(segments, joined(segments, image, 5, 3)) == {4, 5, 6}


def test_counterpart_by_hand() -> None:
    segments = np.zeros((6, 6), np.uint16)
    segments[0:4, 0:2], segments[0:4, 2:4], segments[4:6, 0:4] = 1, 2, 3
    mask = np.zeros((6, 6), bool)
    mask[0:4, 0:3] = True  # all of 1, half of 2
    found, overlap = counterpart(mask, segments)
    assert members(segments, found) == {1}
    assert overlap == pytest.approx(8 / 12)
    mask[3, 3] = True  # more than half of 2
    found, overlap = counterpart(mask, segments)
    assert members(segments, found) == {1, 2}
    assert overlap == pytest.approx(13 / 16)


def test_no_counterpart() -> None:
    segments = np.ones((6, 6), np.uint16)
    segments[0] = 0
    mask = np.zeros((6, 6), bool)
    mask[1:3, 1:3] = True
    found, overlap = counterpart(mask, segments)  # a small part of a large superpixel
    assert not found.any()
    assert overlap == 0
    mask[:], mask[0] = False, True
    assert counterpart(mask, segments)[1] == 0  # outside the body


def test_the_counterpart_has_the_best_overlap_of_all_unions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        segments = np.repeat(np.repeat(rng.integers(0, 5, (4, 4)), 2, 0), 2, 1).astype(np.uint16)
        mask = rng.random((8, 8)) < 0.5
        found, overlap = counterpart(mask, segments)

        def iou(union: np.ndarray, mask: np.ndarray = mask) -> float:
            return float((union & mask).sum() / (union | mask).sum())

        assert overlap == pytest.approx(iou(found))
        singles = [iou(segments == number) for number in range(1, 5)]
        if max(singles) > 0.5:
            assert overlap >= max(singles)
