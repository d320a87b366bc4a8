"""Raw volume to prepared slices and back: intensities, geometry, round trips."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcowpro.config import PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.preprocess import Placement, grey_levels, preprocess
from fedcowpro.volume.volume import Grid, Volume

CT = PrepareConfig(modality="ct", size=64)
MR = PrepareConfig(modality="mr", size=64)


def volume(voxels: np.ndarray, spacing: tuple[float, float, float] = (5.0, 1.0, 1.0)) -> Volume:
    """A volume that is stored in the internal frame already."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = spacing[0], -spacing[1], -spacing[2], 1
    return Volume(voxels.astype(np.float32), spacing, Grid(voxels.shape, affine), "scan.nii.gz")


def placement(height: int, width: int, size: int = 64, mm: tuple[float, float] = (1, 1), pixel: float = 1) -> Placement:
    return Placement((3, height, width), (5.0, *mm), size, pixel)


def blob(height: int, width: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    """A disc in three slices; coordinates as fractions of the slice, so any spacing draws the same disc."""
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    disc = (y[:, None] - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    return np.repeat(disc[None], 3, axis=0)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_ct_window_is_fixed() -> None:
    voxels = np.full((3, 64, 64), 75.0)
    voxels[0, 0, :3] = (-1000, 275, 3000)
    grey, _ = grey_levels(volume(voxels), CT)
    np.testing.assert_allclose(grey[0, 0, :4], (0, 255, 255, 127.5))
    voxels[0, 0, :3] = 0  # the window's ends are not reached, yet the scale stays
    grey, _ = grey_levels(volume(voxels), CT)
    np.testing.assert_allclose((grey.min(), grey.max()), (255 * 125 / 400, 127.5), rtol=1e-6)


def test_mr_is_clipped_above_only_and_independent_of_scanner_scale() -> None:
    voxels = np.random.default_rng(0).uniform(20, 900, (3, 64, 64))
    voxels[1, 5, 5] = 1e6
    grey, _ = grey_levels(volume(voxels), MR)
    assert grey.max() == 255
    assert grey.min() == 0
    assert np.count_nonzero(grey == 255) == pytest.approx(0.005 * grey.size, abs=1.5)
    other, _ = grey_levels(volume(3.7 * voxels + 11), MR)
    np.testing.assert_allclose(other, grey, atol=2e-2)


@pytest.mark.parametrize("config", [CT, MR])
def test_input_is_zero_mean_unit_variance_over_the_prepared_volume(config: PrepareConfig) -> None:
    voxels = np.random.default_rng(1).normal(50, 60, (4, 50, 90))
    image, place = preprocess(volume(voxels), config)
    assert image.shape == (4, 64, 64)
    assert image.dtype == np.float32
    assert abs(image.mean(dtype=np.float64)) < 1e-5
    assert abs(image.std(dtype=np.float64) - 1) < 1e-5
    assert place.spacing_prepared[0] == 5.0


@pytest.mark.parametrize(("config", "message"), [(CT, "constant after clipping"), (MR, "constant after clipping")])
def test_a_volume_without_contrast_is_refused(config: PrepareConfig, message: str) -> None:
    voxels = np.full((3, 64, 64), 1000.0)
    voxels[0, 0, 0] = 2000.0
    with pytest.raises(FedCoWProError, match=message) as caught:
        grey_levels(volume(voxels), config)
    assert "scan.nii.gz" in caught.value.got


def test_contrast_only_outside_the_crop_is_refused() -> None:
    voxels = np.zeros((3, 200, 200))
    voxels[:, :20] = np.random.default_rng(0).uniform(0, 100, (3, 20, 200))
    with pytest.raises(FedCoWProError, match="central 64 x 64 pixels are constant"):
        grey_levels(volume(voxels), MR.model_copy(update={"spacing": 1.0}))


@given(st.integers(40, 70), st.integers(40, 70))
@settings(max_examples=25, deadline=None)
def test_same_spacing_crops_and_pads_exactly(height: int, width: int) -> None:
    image = np.random.default_rng(height * width).uniform(1, 2, (3, height, width)).astype(np.float32)
    place = Placement.choose(volume(image), MR)
    prepared = place.to_prepared_image(image, fill=-7)
    # The reference: centred crop or pad, the odd pixel cut from the end.
    pad = [(0, 0), *((max(0, (65 - n) // 2), max(0, 64 - n - (65 - n) // 2)) for n in (height, width))]
    top, left = max(0, (height - 64) // 2), max(0, (width - 64) // 2)
    expected = np.pad(image[:, top : top + 64, left : left + 64], pad, constant_values=-7)
    np.testing.assert_array_equal(prepared, expected)
    back = place.to_native_scores(prepared[None], outside=-9)[0]
    inside = back != -9
    np.testing.assert_array_equal(back[inside], image[inside])
    assert inside.sum() == 3 * min(height, 64) * min(width, 64)


def test_own_spacing_is_kept_made_square_or_made_to_fit() -> None:
    def pixel(height: int, width: int, mm: tuple[float, float], config: PrepareConfig) -> float:
        return Placement.choose(volume(np.zeros((3, height, width)), (5.0, *mm)), config).pixel

    full = PrepareConfig(modality="ct", size=256)
    assert pixel(256, 256, (1.25, 1.25), full) == 1.25
    assert pixel(257, 257, (1.5, 1.5), full) == 1.5  # slightly larger: cropped
    assert pixel(512, 512, (0.7, 0.7), full) == pytest.approx(0.7 * 1.75)  # 512 -> 448 -> 256
    assert pixel(100, 200, (2.0, 1.0), full) == 1.0  # square, by the finer one
    assert pixel(512, 512, (0.7, 0.7), full.model_copy(update={"spacing": 1.1})) == 1.1


def test_resampling_keeps_ramps_and_centres() -> None:
    """Linear interpolation is exact on a linear image, whatever the scale; the centre stays the centre."""
    place = placement(40, 60, size=64, mm=(1.0, 1.0), pixel=0.5)
    y, x = np.arange(40, dtype=np.float32)[:, None], np.arange(60, dtype=np.float32)
    ramp = np.broadcast_to(2 * (y - 19.5) - 3 * (x - 29.5), (3, 40, 60))
    prepared = place.to_prepared_image(ramp, fill=0)
    grid = (np.arange(64) - 31.5) * 0.5
    np.testing.assert_allclose(prepared[1], 2 * grid[:, None] - 3 * grid, atol=1e-4)


def test_shrinking_does_not_alias() -> None:
    """Stripes finer than the prepared pixels become grey instead of coarse stripes."""
    stripes = np.broadcast_to((np.arange(255) % 2).astype(np.float32), (3, 255, 255))
    prepared = placement(255, 255, size=64, pixel=3.0).to_prepared_image(stripes, fill=0)
    np.testing.assert_allclose(prepared, 0.5, atol=0.06)


def test_labels_compete_instead_of_overwriting() -> None:
    labels = np.random.default_rng(2).choice(np.array([0, 1, 9], np.uint8), (3, 64, 64))
    labels[0] = 0
    labels[0, :, 29:31], labels[0, :, 31] = 1, 9  # half, three eighths, one eighth background
    place = placement(64, 64, size=32, pixel=2.0)
    prepared = place.to_prepared_labels(labels)
    shares = [place.to_prepared_image((labels == value).astype(np.float32), 0) for value in (0, 1, 9)]
    expected = np.array([0, 1, 9])[np.argmax(shares, axis=0)]
    inner = np.s_[:, 1:-1, 1:-1]  # at the edge, weights are no binary fractions, so ties are not exact
    np.testing.assert_array_equal(prepared[inner], expected[inner])
    assert (prepared[0, :, 15] == 1).all()


@given(
    st.floats(0.35, 0.65),
    st.floats(0.35, 0.65),
    st.floats(0.12, 0.2),
    st.sampled_from([(128, 128), (256, 256), (200, 160), (110, 230)]),
)
@settings(max_examples=15, deadline=None)
def test_blobs_survive_the_way_there_and_back(y: float, x: float, radius: float, shape: tuple[int, int]) -> None:
    mask = blob(*shape, (y, x), radius)
    place = Placement.choose(volume(mask, (5.0, 200 / shape[0], 200 / shape[1])), CT.model_copy(update={"size": 128}))
    prepared = place.to_prepared_labels(3 * mask.astype(np.uint8))
    scores = np.stack([prepared != 3, prepared == 3]).astype(np.float32)
    back = place.to_native_scores(scores).argmax(axis=0) == 1
    assert dice(mask, back) > 0.97


def test_lost_fraction_counts_what_the_crop_cuts() -> None:
    place = placement(100, 64)
    labels = np.zeros((3, 100, 64), np.uint8)
    labels[0, 10:20] = 1  # the crop begins at row 18
    assert place.lost_fraction(labels) == pytest.approx(0.8)
    assert place.lost_fraction(place.to_native_scores(np.ones((1, 3, 64, 64)))[0]) == 0
    assert place.lost_fraction(np.zeros_like(labels)) == 0


def test_placement_goes_through_json() -> None:
    place = Placement((3, 512, 400), (2.5, 0.71, 0.71), 256, 1.3)
    assert Placement.from_json(json.loads(json.dumps(place.to_json()))) == place


def test_scores_of_a_few_slices_can_be_placed() -> None:
    place = placement(64, 64)
    assert place.to_native_scores(np.zeros((2, 1, 64, 64), np.float32)).shape == (2, 1, 64, 64)
