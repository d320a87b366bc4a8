"""What a pseudo-label is in another slice."""

from __future__ import annotations

import numpy as np
import pytest

from fedcowpro.data.episodes.pseudo_labels import counterpart


def members(segments: np.ndarray, mask: np.ndarray) -> set[int]:
    found = set(np.unique(segments[mask]).tolist())
    assert np.array_equal(mask, np.isin(segments, list(found)))  # whole superpixels
    return found


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
