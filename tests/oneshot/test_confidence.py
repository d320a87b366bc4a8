"""Confidence: high where a mask leads back to the annotation, low where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common import PLAIN
from fedcowpro.config import PrepareConfig
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.confidence import (
    compared_confidence,
    compared_cues,
    mask_confidence,
    reverse_dice,
    slice_confidence,
    slice_margins,
)
from fedcowpro.oneshot.doubts import OrganFacts
from fedcowpro.oneshot.encoded import EncodedVolume, encode_volume
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.oneshot.support import Support, build_support
from fedcowpro.volume.read import read_labels, read_volume

ORGAN = 1


@pytest.fixture(scope="module")
def setting(tiny_checkpoint: Path, phantoms: Path) -> tuple[OneShotPredictor, EncodedVolume, Support, np.ndarray]:
    predictor = load_predictor(tiny_checkpoint, PLAIN.model_dump()).predictor
    volume = read_volume(phantoms / "ct" / "image_1.nii.gz")
    labels = read_labels(phantoms / "ct" / "label_1.nii.gz", volume).voxels
    encoded = encode_volume(predictor, volume, PrepareConfig(modality="ct", size=64))
    return predictor, encoded, build_support(predictor, [(encoded, Annotation.whole(labels))], [ORGAN, 4]), labels


def test_a_right_mask_leads_back_and_a_wrong_one_does_not(
    setting: tuple[OneShotPredictor, EncodedVolume, Support, np.ndarray],
) -> None:
    predictor, encoded, support, labels = setting
    right = np.where(np.isin(labels, [ORGAN, 4]), labels, 0).astype(np.uint8)
    wrong = np.where(labels == ORGAN, 4, np.where(labels == 4, ORGAN, 0)).astype(np.uint8)  # organs exchanged
    scores = [
        reverse_dice(predictor, support, encoded.features, encoded.placement, mask)[ORGAN] for mask in (right, wrong)
    ]
    assert scores[0] > scores[1] + 0.1
    assert all(0 <= score <= 1 for score in scores)


def test_an_organ_that_was_not_found_has_none(
    setting: tuple[OneShotPredictor, EncodedVolume, Support, np.ndarray],
) -> None:
    predictor, encoded, support, labels = setting
    alone = np.where(labels == 4, labels, 0).astype(np.uint8)
    found = reverse_dice(predictor, support, encoded.features, encoded.placement, alone)
    assert np.isnan(found[ORGAN])
    assert found[4] > 0
    nothing = reverse_dice(predictor, support, encoded.features, encoded.placement, np.zeros_like(labels))
    assert all(np.isnan(value) for value in nothing.values())


def test_margins_of_slices() -> None:
    soft = np.zeros((1, 3, 2, 2), np.float32)
    soft[0, 0, 0] = (0.7, 1.0)
    soft[0, 1, 0, 0] = 0.4  # not above the threshold
    soft[0, 2] = 1.0
    np.testing.assert_allclose(slice_margins(soft, 0.4), [[0.75, np.nan, 1.0]], atol=1e-6)


def test_confidence_of_a_mask() -> None:
    margins = np.array([np.nan, 0.5, 0.3], np.float32)
    assert mask_confidence(0.9, margins) == pytest.approx(1 / (1 + np.exp(2.42 - 4.99 * 0.4 - 2.12 * 0.9)))
    assert mask_confidence(0.9, margins) > max(mask_confidence(0.5, margins), mask_confidence(0.9, margins / 2))
    assert np.isnan(mask_confidence(np.nan, margins))
    assert np.isnan(mask_confidence(0.9, margins[:1]))


def organ(height: float, steadiness: float = 0.9, slices: int = 8) -> OrganFacts:
    return OrganFacts(100.0, height, slices, 0.0, steadiness, (False, False))


def test_cues_that_compare_with_a_whole_example() -> None:
    margins, areas = np.array([np.nan, 0.2, 0.6, np.nan], np.float32), np.array([0, 100, 300, 0])
    mask = organ(60.0, 0.7, slices=2)
    found = compared_cues(margins, areas, mask, [organ(30.0), organ(200.0)])
    assert found == pytest.approx([1, 0.4, 0.5, np.log(2), 0, 0.2, 0.5])
    shorter = compared_cues(margins, areas, mask, [organ(120.0)])
    assert shorter is not None
    assert shorter[3:5] == pytest.approx([0, np.log(2)])
    painted = organ(np.nan, np.nan)  # of such an example the height is not known
    assert compared_cues(margins, areas, mask, [painted]) is None
    assert compared_cues(margins * np.nan, areas, mask, [organ(30.0)]) is None


def test_a_mask_like_the_example_is_trusted_more() -> None:
    margins, areas = np.full(20, np.nan, np.float32), np.zeros(20, np.int64)
    margins[6:14], areas[6:14] = 0.5, 100

    def trust(mask: OrganFacts) -> float:
        cues = compared_cues(margins, areas, mask, [organ(40.0)])
        assert cues is not None
        return compared_confidence(cues)

    good = trust(organ(40.0))
    assert 0.6 < good < 1
    for odd in (organ(90.0), organ(15.0), organ(40.0, steadiness=0.5)):
        assert trust(odd) < good - 0.02


def test_one_painted_slice_is_not_trusted_to_say_much_of_a_long_organ() -> None:
    short, long = np.full(3, 0.8, np.float32), np.full(30, 0.8, np.float32)
    assert mask_confidence(0.95, long, 1) < 0.8
    assert mask_confidence(0.95, long, 1) < mask_confidence(0.95, long, 5) - 0.1 < mask_confidence(0.95, short, 1) - 0.1


def test_confidence_of_slices_falls_with_distance() -> None:
    margins = np.array([0.6, 0.6, np.nan, 0.6], np.float32)
    found = slice_confidence(0.9, margins, np.array([4.0, 30.0, 30.0, 120.0]))
    assert found[0] > 0.9 > found[1] > found[3]
    assert found[3] < 0.35
    assert np.isnan(found[2])
    elsewhere = slice_confidence(0.9, np.array([0.2, 0.9], np.float32))
    assert elsewhere[0] < 0.6 < elsewhere[1]
    assert np.isfinite(slice_confidence(np.nan, margins[:2])).all()
