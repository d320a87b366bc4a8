"""Measures of pseudo-labels: exact optima by brute force, and values that can be counted by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.overlap import dice
from fedcowpro.reports.site_report.pseudo_labels import best_union, borders, count_slice, dilate, join

EMPTY = np.zeros((8, 8), np.uint8)


def halves() -> tuple[np.ndarray, np.ndarray]:
    """8 x 8: segments 1 (left half) and 2 (right half, upper 4 rows); label 1 covers columns 2..5 of rows 0..3."""
    segments = np.zeros((8, 8), np.uint16)
    segments[:, :4], segments[:4, 4:] = 1, 2
    labels = EMPTY.copy()
    labels[:4, 2:6] = 1
    return segments, labels


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=9), st.integers(0, 10))
@settings(max_examples=300, deadline=None)
def test_best_union_is_the_best_of_all_unions(segments: list[tuple[int, int]], missed: int) -> None:
    """`missed`: pixels of the organ that lie in no segment."""
    areas = np.array([area for area, _ in segments], np.int64)
    overlap = np.array([min(area, share) for area, share in segments], np.int64)
    pixels = int(overlap.sum()) + missed
    unions = itertools.product((False, True), repeat=len(areas))
    scores = [2 * overlap[list(u)].sum() / (areas[list(u)].sum() + pixels) if pixels else math.nan for u in unions]
    best, chosen = best_union(overlap, areas, pixels)
    assert best == pytest.approx(max(scores), abs=1e-12, nan_ok=True)
    if pixels:
        assert best == 2 * overlap[chosen].sum() / (areas[chosen].sum() + pixels)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_best_union_and_best_single_are_dice_of_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    segments = rng.integers(0, 5, (6, 6)).repeat(2, 0).repeat(2, 1)
    labels = ndimage.zoom(rng.integers(0, 3, (4, 4)), 3, order=0)
    counts = count_slice(segments, labels, 2)
    for organ in (1, 2):
        masks = [np.isin(segments, chosen) for n in range(5) for chosen in itertools.combinations(range(1, 5), n)]
        best = max(dice(mask, labels == organ) for mask in masks) if (labels == organ).any() else math.nan
        assert counts.best_union(organ) == pytest.approx(best, nan_ok=True)
        singles = [dice(segments == i, labels == organ) for i in range(1, 5)]
        assert counts.best_single(organ) == pytest.approx(max(singles) if math.isfinite(best) else best, nan_ok=True)


def test_counts_of_a_slice() -> None:
    segments, labels = halves()
    counts = count_slice(segments, labels, 2)
    assert counts.pairs.tolist() == [[16, 0, 0], [24, 8, 0], [8, 8, 0]]
    assert counts.areas.tolist() == [32, 16]
    assert counts.body == 48
    assert counts.pixels(1) == 16
    assert counts.best_union(1) == 2 * 16 / (48 + 16)
    assert counts.best_single(1) == 2 * 8 / (16 + 16)
    assert math.isnan(counts.best_union(2))
    assert math.isnan(counts.best_single(2))
    # Segment 1 is background (24 of 32 pixels), segment 2 half and half.
    assert counts.achievable_accuracy == (24 + 8) / 48
    assert counts.undersegmentation == (8 + 8) / 16


def test_boundary_recall_counts_border_pixels_within_two_pixels() -> None:
    segments = np.ones((20, 20), np.uint16)
    segments[:, 10:] = 2  # border pixels: columns 9 and 10; near: columns 7..12
    labels = np.zeros((20, 20), np.uint8)
    labels[:, :6] = 1  # its border: column 5
    labels[:, 12:] = 2  # its border: column 12
    counts = count_slice(segments, labels, 2)
    assert counts.boundary_recall(1) == 0
    assert counts.boundary_recall(2) == 1
    assert counts.border.tolist() == [40, 20, 20]
    assert counts.chance == 6 / 20


def test_perfect_segments_and_no_segments() -> None:
    _, labels = halves()
    perfect = count_slice(labels.astype(np.uint16) + 1, labels, 1)
    assert perfect.best_union(1) == perfect.best_single(1) == perfect.boundary_recall(1) == 1
    assert perfect.achievable_accuracy == 1
    assert perfect.undersegmentation == 0
    none = count_slice(EMPTY, labels, 1)
    assert none.best_union(1) == none.best_single(1) == none.boundary_recall(1) == 0
    assert math.isnan(none.chance)
    assert math.isnan(none.achievable_accuracy)
    assert len(none.areas) == 0
    assert math.isnan(count_slice(EMPTY + 1, EMPTY, 1).undersegmentation)


def test_joined_slices_keep_their_segments_apart() -> None:
    segments, labels = halves()
    one, other = count_slice(segments, labels, 1), count_slice(labels.astype(np.uint16), labels, 1)
    both = join([one, other, count_slice(EMPTY, EMPTY, 1)])
    assert both.areas.tolist() == [32, 16, 16]
    assert both.pixels(1) == 32
    assert both.pairs[0].sum() == 16 + 48 + 64
    assert both.body == 48 + 16
    assert both.best_union(1) == 2 * 24 / 64  # the second slice's perfect segment and the first slice's better one


def test_borders_and_dilation() -> None:
    values = EMPTY.copy()
    values[3:5, 3:5] = 7
    edge = borders(values)
    assert edge[2:6, 2:6].sum() == edge.sum() == 12  # the four pixels and what touches them, without the corners
    point = np.zeros((9, 9), bool)
    point[1, 4] = True
    for reach in (0, 1, 2):
        square = ndimage.binary_dilation(point, np.ones((2 * reach + 1, 2 * reach + 1)))
        np.testing.assert_array_equal(dilate(point, reach), square)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(FedCoWProError, match="one shape"):
        count_slice(EMPTY, EMPTY[:4], 1)
    with pytest.raises(FedCoWProError, match="label 3"):
        count_slice(EMPTY, EMPTY + 3, 2)
