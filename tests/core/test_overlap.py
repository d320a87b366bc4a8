"""Dice on its edge cases and against the reference's example."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import SHARED
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.overlap import Overlap, counts, dice, dice_from_counts, overlap, overlap_from_counts

GOLDEN = SHARED / "golden" / "eval_protocol.json"


def test_dice_of_equal_masks_is_one_and_of_disjoint_masks_zero() -> None:
    mask = np.zeros((4, 5, 6), dtype=bool)
    mask[1:3, 2, 3:] = True
    assert dice(mask, mask) == 1.0
    assert dice(mask, ~mask) == 0.0


def test_dice_of_a_half_overlap() -> None:
    assert dice(np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)) == 0.5


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), ()])
def test_two_empty_masks_have_no_dice(shape: tuple[int, ...]) -> None:
    assert math.isnan(dice(np.zeros(shape, bool), np.zeros(shape, bool)))


def test_one_empty_mask_gives_zero() -> None:
    assert dice(np.zeros(3, bool), np.ones(3, bool)) == 0.0
    assert dice(np.ones(3, bool), np.zeros(3, bool)) == 0.0


def test_counts() -> None:
    prediction, truth = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    assert counts(prediction, truth) == (2, 1, 1)


def test_scan_dice_takes_counts_summed_over_slices() -> None:
    tp, fp, fn = [[30, 10], [0, 5]], [[4, 2], [3, 0]], [[6, 1], [9, 2]]
    scans = [dice_from_counts(sum(a), sum(b), sum(c)) for a, b, c in zip(tp, fp, fn, strict=True)]
    assert scans == pytest.approx([0.8602150537634409, 0.4166666666666667], abs=1e-15)
    assert np.mean(scans) == pytest.approx(0.6384408602150538, abs=1e-15)


def test_scan_dice_equals_the_golden_file() -> None:
    if not GOLDEN.exists():
        pytest.skip("shared/golden/eval_protocol.json is not beside this checkout")
    example = json.loads(GOLDEN.read_text())["dice_example"]
    summed = zip(example["per_scan_slice_tp"], example["fp"], example["fn"], strict=True)
    scans = [dice_from_counts(sum(a), sum(b), sum(c)) for a, b, c in summed]
    assert scans == pytest.approx(example["per_scan"], abs=1e-15)


def test_volume_dice_is_that_of_its_summed_slices() -> None:
    rng = np.random.default_rng(0)
    prediction, truth = rng.random((2, 7, 9, 9)) < 0.3
    per_slice = np.array([counts(p, t) for p, t in zip(prediction, truth, strict=True)])
    assert dice(prediction, truth) == dice_from_counts(*per_slice.sum(axis=0).tolist())


def test_shapes_and_label_maps_are_refused() -> None:
    with pytest.raises(FedCoWProError, match=r"\(2,\).*\(3,\)"):
        dice(np.ones(2, bool), np.ones(3, bool))
    with pytest.raises(FedCoWProError, match="truth of type uint8"):
        dice(np.ones(3, bool), np.array([0, 1, 2], np.uint8))


def test_all_overlaps_of_a_pair_worked_out_by_hand() -> None:
    prediction, truth = np.array([1, 1, 1, 0, 0, 0], bool), np.array([0, 1, 1, 1, 1, 0], bool)
    assert overlap(prediction, truth) == Overlap(
        dice=4 / 7, iou=2 / 5, precision=2 / 3, recall=2 / 4, relative_volume_error=-1 / 4
    )


def test_overlaps_of_empty_masks() -> None:
    some, none = np.ones(3, bool), np.zeros(3, bool)
    assert all(math.isnan(value) for value in vars(overlap(none, none)).values())
    assert overlap(none, some) == Overlap(0.0, 0.0, 0.0, 0.0, -1.0)
    invented = overlap(some, none)
    assert (invented.dice, invented.iou, invented.precision, invented.recall) == (0.0, 0.0, 0.0, 0.0)
    assert math.isnan(invented.relative_volume_error)


def test_volume_error_counts_voxels_not_their_places() -> None:
    truth = np.array([1, 1, 0, 0, 0, 0], bool)
    assert overlap(~truth, truth).relative_volume_error == 1.0
    assert overlap(truth[::-1], truth).relative_volume_error == 0.0


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_overlaps_follow_from_each_other(tp: int, fp: int, fn: int) -> None:
    found = overlap_from_counts(tp, fp, fn)
    if tp:
        assert found.dice == pytest.approx(2 * found.iou / (1 + found.iou))
        assert found.dice == pytest.approx(2 / (1 / found.precision + 1 / found.recall))
        assert found.relative_volume_error == pytest.approx(found.recall / found.precision - 1)
    elif fp or fn:
        assert (found.dice, found.iou, found.precision, found.recall) == (0.0, 0.0, 0.0, 0.0)
