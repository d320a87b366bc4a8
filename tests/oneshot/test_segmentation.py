"""Encode once, paint some slices, get the rest: what is painted is kept, what is not painted is unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common import PLAIN
from fedcowpro.config import InferConfig, PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.oneshot.annotation import Annotation
from fedcowpro.oneshot.batch import ByExample, load_support
from fedcowpro.oneshot.encoded import Cancelled, EncodedVolume, encode_volume, following
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.support import build_support, encode_example
from fedcowpro.volume.accept import as_volume
from fedcowpro.volume.preprocess import Placement
from fedcowpro.volume.read import read_labels, read_volume
from fedcowpro.volume.volume import Volume

CT = PrepareConfig(modality="ct", size=64)


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> OneShotPredictor:
    return load_predictor(tiny_checkpoint, PLAIN.model_dump()).predictor


def scan(phantoms: Path, case: str) -> tuple[Volume, np.ndarray]:
    volume = read_volume(phantoms / "ct" / f"image_{case}.nii.gz")
    return volume, read_labels(phantoms / "ct" / f"label_{case}.nii.gz", volume).voxels


@pytest.fixture(scope="module")
def first(predictor: OneShotPredictor, phantoms: Path) -> tuple[EncodedVolume, np.ndarray]:
    volume, labels = scan(phantoms, "1")
    return encode_volume(predictor, volume, CT), labels


@pytest.fixture(scope="module")
def third(predictor: OneShotPredictor, phantoms: Path, first: tuple[EncodedVolume, np.ndarray]) -> EncodedVolume:
    return encode_volume(predictor, scan(phantoms, "3")[0], CT, pixel=first[0].placement.pixel)


def some(labels: np.ndarray, *numbers: int) -> Annotation:
    painted = np.zeros(len(labels), bool)
    painted[list(numbers)] = True
    return Annotation(labels, painted)


def test_files_and_encoded_volumes_take_one_way(
    predictor: OneShotPredictor, phantoms: Path, first: tuple[EncodedVolume, np.ndarray], third: EncodedVolume
) -> None:
    encoded, labels = first
    files = load_support(
        predictor, [(phantoms / "ct" / "image_1.nii.gz", phantoms / "ct" / "label_1.nii.gz")], {"ct": CT, "mr": CT}
    )
    ours = build_support(predictor, [(encoded, Annotation.whole(labels))])
    one = ByExample(predictor, files, {"ct": CT}).segment(third.volume, "ct")
    two = segment_encoded(predictor, ours, third)
    assert one.labels.any()
    assert np.array_equal(one.labels, two.labels)
    assert one.confidence == pytest.approx(two.confidence, nan_ok=True)


def test_the_encoder_is_not_used_again(
    predictor: OneShotPredictor, first: tuple[EncodedVolume, np.ndarray], third: EncodedVolume
) -> None:
    before = predictor.encoded_slices
    support = build_support(predictor, [(first[0], some(first[1], 3, 5))])
    segment_encoded(predictor, support, third)
    segment_encoded(predictor, support, first[0])
    assert predictor.encoded_slices == before


@pytest.mark.parametrize("spacing", [None, 7.0])
def test_labels_are_the_likeliest_organs_above_the_threshold(
    predictor: OneShotPredictor, phantoms: Path, spacing: float | None
) -> None:
    """Only a window of the native grid is computed; the result is that of the whole grid."""
    config = CT.model_copy(update={"spacing": spacing})
    volumes = [scan(phantoms, case) for case in ("1", "3")]
    encoded = [encode_volume(predictor, volume, config) for volume, _ in volumes]
    support = build_support(predictor, [(encoded[0], Annotation.whole(volumes[0][1]))])
    found = segment_encoded(predictor, support, encoded[1], probabilities=True)
    assert found.probability is not None
    best = found.probability.argmax(0)
    above = found.probability.max(0) > predictor.config.threshold
    expected = np.where(above, np.array(support.organs, np.uint8)[best], 0)
    assert len(np.unique(expected)) > 2
    assert np.array_equal(found.labels, expected)
    assert np.array_equal(segment_encoded(predictor, support, encoded[1]).labels, expected)


def test_painted_slices_are_kept_and_the_rest_is_unknown(
    predictor: OneShotPredictor, first: tuple[EncodedVolume, np.ndarray]
) -> None:
    encoded, labels = first
    support = build_support(predictor, [(encoded, some(labels, 4, 6))])
    result = segment_encoded(predictor, support, encoded)
    found, sure = result.labels, result.slice_confidence
    assert np.array_equal(found[[4, 6]], labels[[4, 6]])
    assert found[5].any()
    for row, organ in enumerate(result.organs):
        shown = (found == organ).any(axis=(1, 2))
        assert np.array_equal(np.isnan(sure[row]), ~shown)
        assert (sure[row][shown & np.isin(np.arange(10), [4, 6])] == 1).all()
        assert (sure[row][shown & ~np.isin(np.arange(10), [4, 6])] < 1).all()
    painted = build_support(predictor, [(encoded, Annotation.whole(labels))])
    alone = segment_encoded(predictor, painted, encoded)
    assert np.array_equal(alone.labels, labels)
    assert all(np.isnan(value) for value in alone.confidence.values())  # nothing was guessed
    spoiled = labels.copy()
    spoiled[[0, 1, 2, 3, 5, 7, 8, 9]] = 77
    again = build_support(predictor, [(encoded, some(spoiled, 4, 6))])
    assert again.organs == support.organs
    assert np.array_equal(segment_encoded(predictor, again, encoded).labels, found)


def test_a_correction_joins_the_support(predictor: OneShotPredictor, first: tuple[EncodedVolume, np.ndarray]) -> None:
    encoded, labels = first
    truth = labels == 1
    one, two = (
        segment_encoded(predictor, build_support(predictor, [(encoded, some(labels, *zs))], [1]), encoded).labels == 1
        for zs in ((5,), (3, 5, 7))
    )
    assert (two & truth).sum() * 2 / (two.sum() + truth.sum()) > (one & truth).sum() * 2 / (one.sum() + truth.sum())


def test_empty_slices_are_background_of_every_organ(
    predictor: OneShotPredictor, first: tuple[EncodedVolume, np.ndarray]
) -> None:
    """A slice with another organ is not: who paints one organ a slice does not say that the others are missing."""
    encoded, labels = first
    blank = labels.copy()
    blank[0] = 0
    blank[4][blank[4] != 1] = 0
    blank[6][blank[6] != 4] = 0
    support = build_support(predictor, [(encoded, some(blank, 0, 4, 6))])
    assert support.shows == {1: (1,), 4: (2,)}
    assert support.examples[0].empty == (0,)
    fewer = build_support(predictor, [(encoded, some(blank, 4, 6))])
    own = support.prototypes.member[0].sum(0) - fewer.prototypes.member[0].sum(0)
    assert own[0] > 0  # background of the first organ
    assert own[1] == 0  # its foreground
    other = segment_encoded(predictor, support, encoded).labels
    assert not other[0].any()


def test_the_extent_of_a_partly_painted_organ_is_open(
    predictor: OneShotPredictor, phantoms: Path, first: tuple[EncodedVolume, np.ndarray]
) -> None:
    guided = OneShotPredictor(predictor.model, InferConfig(**{**PLAIN.model_dump(), "axial_prior": 4.0}))
    volume, labels = scan(phantoms, "1")
    labels = np.where(labels == 1, labels, 0).astype(np.uint8)
    labels[[0, 9]] = 0
    encoded, step = encode_volume(guided, volume, CT), volume.spacing[0]

    def extent(annotation: Annotation) -> tuple[float, float]:
        (prior,) = build_support(guided, [(encoded, annotation)]).priors
        return prior.extents[1]

    assert extent(some(labels, 4, 5)) == (-np.inf, np.inf)
    assert extent(some(labels, 4, 5, 9)) == pytest.approx((-np.inf, 9 * step))
    assert extent(some(labels, 0, 4, 5)) == pytest.approx((0, np.inf))
    assert np.isfinite(extent(Annotation.whole(labels))).all()
    found = segment_encoded(guided, build_support(guided, [(encoded, some(labels, 4, 5))]), encoded)
    assert np.isfinite(found.confidence[1])


def test_components_with_paint_are_kept(phantoms: Path, tiny_checkpoint: Path) -> None:
    chosen = load_predictor(tiny_checkpoint, {**PLAIN.model_dump(), "keep_components": True}).predictor
    volume, labels = scan(phantoms, "1")
    labels = np.where(labels == 4, labels, 0).astype(np.uint8)
    labels[5, 2:4, 2:4] = 4  # a second part, far from the organ
    encoded = encode_volume(chosen, volume, CT)
    found = segment_encoded(chosen, build_support(chosen, [(encoded, some(labels, 5))]), encoded).labels
    assert np.array_equal(found[5], labels[5])


def test_only_what_a_whole_annotation_needs_is_encoded(predictor: OneShotPredictor, phantoms: Path) -> None:
    volume, labels = scan(phantoms, "1")
    example = encode_example(predictor, volume, Annotation.whole(labels), CT, organs=[1])
    empty = {int(z) for z in np.flatnonzero(~(labels == 1).any(axis=(1, 2)))}
    assert empty
    assert example.empty == tuple(sorted(empty))  # fewer than `background_slices`
    assert set(example.encoded.numbers) == empty | set(example.shows[1])
    assert len(example.shows[1]) == 3
    with pytest.raises(FedCoWProError, match=f"{3 + len(empty)} of 10 slices are encoded"):
        segment_encoded(predictor, build_support(predictor, [(example.encoded, example.annotation)]), example.encoded)


def test_progress_and_cancelling(predictor: OneShotPredictor, phantoms: Path) -> None:
    volume, told = scan(phantoms, "1")[0], []
    encode_volume(predictor, volume, CT, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 10), (8, 10), (10, 10)]
    with pytest.raises(Cancelled):
        encode_volume(predictor, volume, CT, cancelled=lambda: True)
    before = predictor.encoded_slices
    with pytest.raises(Cancelled):
        encode_volume(predictor, volume, CT, cancelled=lambda: predictor.encoded_slices > before)
    assert predictor.encoded_slices == before + 8


def test_what_cannot_be_used(
    predictor: OneShotPredictor, phantoms: Path, first: tuple[EncodedVolume, np.ndarray], third: EncodedVolume
) -> None:
    encoded, labels = first
    with pytest.raises(FedCoWProError, match="no support"):
        build_support(predictor, [])
    with pytest.raises(FedCoWProError, match="without a labelled voxel"):
        build_support(predictor, [(encoded, some(np.zeros_like(labels), 2))])
    with pytest.raises(FedCoWProError, match="labels of shape"):
        build_support(predictor, [(encoded, Annotation.whole(labels[1:]))])
    with pytest.raises(FedCoWProError, match="uint8"):
        Annotation.whole(labels.astype(np.int64))
    support = build_support(predictor, [(encoded, Annotation.whole(labels))])
    small = encode_volume(predictor, third.volume, CT, size=32)
    with pytest.raises(FedCoWProError, match="slices of 32 pixels"):
        segment_encoded(predictor, support, small)
    with pytest.raises(FedCoWProError, match="32 and 64 pixels"):
        build_support(predictor, [(encoded, Annotation.whole(labels)), (small, some(labels, 2))])


@pytest.mark.parametrize(("spacing", "expected"), [(1.2, 1.2), (0.8, 1.6)])
def test_only_scans_of_another_field_of_view_follow_the_examples_pixels(spacing: float, expected: float) -> None:
    """A smaller patient's scan keeps its pixels; a small field of view is brought to the example's."""
    volume = as_volume(
        np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32), (5.0, spacing, spacing), "scan"
    )
    config = following(volume, CT.model_copy(update={"modality": "ct"}), pixel=1.6, size=64)
    assert Placement.choose(volume, config).pixel == pytest.approx(expected)
