"""First and last slice of an organ: read in any axes and units, empty beyond for that organ alone, masks cut."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common import PLAIN
from fedcowpro import FedCoWProError, OneShotSegmenter
from fedcowpro.config import PrepareConfig
from fedcowpro.oneshot.annotation import Annotation, read_example
from fedcowpro.oneshot.encoded import EncodedVolume, encode_volume
from fedcowpro.oneshot.extent import Extent, read_extents
from fedcowpro.oneshot.interpolation import interpolate_shapes
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.support import build_support
from fedcowpro.volume.accept import as_volume
from fedcowpro.volume.read import read_labels, read_volume

CT = PrepareConfig(modality="ct", size=64)
LIVER, SPLEEN = 1, 4


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> OneShotPredictor:
    return load_predictor(tiny_checkpoint, PLAIN.model_dump()).predictor


@pytest.fixture(scope="module")
def scan(predictor: OneShotPredictor, phantoms: Path) -> tuple[EncodedVolume, np.ndarray]:
    volume = read_volume(phantoms / "ct" / "image_1.nii.gz")
    labels = read_labels(phantoms / "ct" / "label_1.nii.gz", volume).voxels
    return encode_volume(predictor, volume, CT), labels


def one_slice(labels: np.ndarray, z: int, **extents: tuple[int, int]) -> Annotation:
    painted = np.arange(len(labels)) == z
    return Annotation(labels, painted, extents={int(key[1:]): ends for key, ends in extents.items()})


@pytest.mark.parametrize("axes", ["LAS", "RPI", "SPL", "AIR"])
def test_numbers_count_along_the_files_own_axis_and_mm_to_the_head(axes: str) -> None:
    affine = np.array([[2.0, 0, 0, -30], [0, 2, 0, -20], [0, 0, 5, -25], [0, 0, 0, 1]])  # slices at -25, -20, ... mm
    canonical = nib.Nifti1Image(np.random.default_rng(0).normal(size=(6, 7, 10)).astype(np.float32), affine)
    change = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(axes)))
    volume = as_volume(canonical.as_reoriented(change))
    own = (2, 4) if "S" in axes else (5, 7)  # 0 is the lowest slice, or the highest
    assert read_extents({LIVER: own}, volume) == {LIVER: (2, 4)}
    assert read_extents({"1": own[::-1]}, volume) == {LIVER: (2, 4)}
    assert read_extents({LIVER: ("-15mm", "-5 mm")}, volume) == {LIVER: (2, 4)}
    assert read_extents({LIVER: ("-4.9mm", "-16mm")}, volume) == {LIVER: (2, 4)}
    assert read_extents({"liver": (None, "-5mm")}, volume, {1: "liver", 2: "kidney"}) == {LIVER: (0, 4)}
    assert read_extents(None, volume) == {}


@pytest.mark.parametrize(
    ("key", "extent", "said"),
    [
        ("spleen", (1, 2), "'spleen'"),
        (1, (1, 10), "extent of 1: 10"),
        (1, (1.5, 3), "1.5"),
        (1, ("1", "3"), "'1'"),
        (1, ("-3mm", 4), "'4'"),
        (1, ("nanmm", None), "nanmm"),
        (1, ("900mm", None), "no slice"),
        (1, (1, 2, 3), "(1, 2, 3)"),
        (1, "12", "12"),
    ],
)
def test_what_is_no_extent_is_refused(key: int | str, extent: Extent, said: str) -> None:
    volume = as_volume(np.random.default_rng(0).normal(size=(10, 8, 8)), (5, 2, 2))
    with pytest.raises(FedCoWProError) as caught:
        read_extents({key: extent}, volume, {1: "liver"})
    assert said in caught.value.got


def test_a_slice_beyond_an_end_is_empty_for_that_organ_alone(
    predictor: OneShotPredictor, scan: tuple[EncodedVolume, np.ndarray]
) -> None:
    encoded, labels = scan
    alone = build_support(predictor, [(encoded, one_slice(labels, 5))], [LIVER, SPLEEN])
    ends = build_support(predictor, [(encoded, one_slice(labels, 5, o1=(3, 7)))], [LIVER, SPLEEN])
    (example,) = ends.examples
    assert example.numbers == [2, 5, 8]
    assert (example.without(LIVER), example.without(SPLEEN)) == ([2, 8], [])
    assert not example.labels[[0, 2]].any()  # whatever the arrays hold in slices that are not painted
    more = ends.prototypes.member[0].sum(0) - alone.prototypes.member[0].sum(0)
    assert more[0] > 0  # background of the liver
    assert more[1:].tolist() == [0, 0, 0]  # the liver itself, and the spleen's two
    at_the_edge = build_support(predictor, [(encoded, one_slice(labels, 5, o1=(0, 9)))], [LIVER])
    assert at_the_edge.examples[0].numbers == [5]


def test_masks_are_cut_and_other_organs_take_the_place(
    predictor: OneShotPredictor, scan: tuple[EncodedVolume, np.ndarray]
) -> None:
    encoded, labels = scan
    support = build_support(predictor, [(encoded, one_slice(labels, 5))], [LIVER, SPLEEN])
    free = segment_encoded(predictor, support, encoded, probabilities=True)
    cut = segment_encoded(predictor, support, encoded, extents={LIVER: (4, 6)}, probabilities=True)
    beyond = ~np.isin(np.arange(10), [4, 5, 6])
    assert (free.labels[beyond] == LIVER).any()
    assert not (cut.labels[beyond] == LIVER).any()
    assert free.probability is not None
    assert cut.probability is not None
    row, other = free.organs.index(LIVER), free.organs.index(SPLEEN)
    np.testing.assert_array_equal(cut.probability[other], free.probability[other])
    assert not cut.probability[row][beyond].any()
    likely = beyond[:, None, None] & (free.probability[other] > predictor.config.threshold)
    assert (cut.labels[likely] == SPLEEN).all()
    assert np.isnan(cut.slice_confidence[row][beyond]).all()
    own = build_support(predictor, [(encoded, one_slice(labels, 5, o1=(4, 6)))], [LIVER])
    assert not segment_encoded(predictor, own, encoded).labels[beyond].any()  # what the annotation knows is not asked


def test_a_label_beyond_its_own_end_is_a_contradiction(scan: tuple[EncodedVolume, np.ndarray]) -> None:
    with pytest.raises(FedCoWProError, match="label 1 on slice 5"):
        one_slice(scan[1], 5, o1=(6, 8))


def test_python_takes_ends_of_example_and_query(tiny_checkpoint: Path, phantoms: Path) -> None:
    """A mask of a few slices with ends says nothing of the slices between."""
    image, mask = phantoms / "ct" / "image_1.nii.gz", phantoms / "ct" / "label_1.nii.gz"
    stored = nib.load(mask)
    drawn = np.asanyarray(stored.dataobj).copy()
    drawn[..., np.delete(np.arange(10), [4, 6])] = 0
    drawing = nib.Nifti1Image(drawn, stored.affine)
    volume, annotation = read_example(image, drawing, extent={"liver": (3, 7)}, names={LIVER: "liver"})
    assert annotation.painted.nonzero()[0].tolist() == [4, 6]
    assert annotation.extents == {LIVER: (3, 7)}
    segmenter = OneShotSegmenter.load(tiny_checkpoint, organs=[LIVER], inference=PLAIN.model_dump())
    own = segmenter.set_support(image, drawing, extent={LIVER: (3, 7)}).predict(image).labels
    assert own.any(axis=(0, 1)).nonzero()[0].tolist() == list(range(3, 8))
    query = phantoms / "ct" / "image_2.nii.gz"
    free, cut = (segmenter.predict(query, extent=ends).labels for ends in (None, {LIVER: (4, None)}))
    assert free[..., :4].any()
    assert not cut[..., :4].any()
    np.testing.assert_array_equal(cut[..., 4:], free[..., 4:])
    assert volume.voxels.shape == (10, 64, 64)


def ball(radius: float, centre: float, depth: int = 31, side: int = 40) -> np.ndarray:
    z, y, x = np.ogrid[:depth, :side, :side]
    return (z - centre) ** 2 + (y - side / 2) ** 2 + (x - side / 2) ** 2 <= radius**2


def test_shapes_are_interpolated_between_slices_and_end_at_their_ends() -> None:
    truth = ball(12, 15).astype(np.uint8)
    painted = np.isin(np.arange(31), [8, 15, 22])
    found = interpolate_shapes(Annotation(truth, painted), (1, 1, 1))
    np.testing.assert_array_equal(found[painted], truth[painted])
    assert not found[[*range(8), *range(23, 31)]].any()  # nothing is known there
    within = slice(8, 23)
    assert 2 * (found & truth)[within].sum() / (found[within].sum() + truth[within].sum()) > 0.95
    ended = interpolate_shapes(Annotation(truth, painted, extents={1: (3, 27)}), (1, 1, 1))
    assert ended[[4, 26]].any(axis=(1, 2)).all()
    assert not ended[[*range(3), *range(28, 31)]].any()
    assert 2 * (ended & truth).sum() / (ended.sum() + truth.sum()) > 0.93


def test_shapes_that_meet_do_not_overwrite_what_is_painted() -> None:
    labels = np.zeros((9, 20, 20), np.uint8)
    labels[0, :, :12], labels[8, :, 8:] = 1, 2
    labels[8, :, :6], labels[0, :, 14:] = 1, 2
    painted = np.isin(np.arange(9), [0, 8])
    found = interpolate_shapes(Annotation(labels, painted), (5, 1, 1))
    assert set(np.unique(found[4])) == {0, 1, 2}
    np.testing.assert_array_equal(found[painted], labels[painted])
    with pytest.raises(FedCoWProError, match="no painted slice"):
        interpolate_shapes(Annotation(labels, np.arange(9) == 4), (1, 1, 1))
