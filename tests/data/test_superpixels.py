"""Superpixels of a slice: agreement with the reference's segmentation, and the defects that are mended."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage
from skimage.segmentation import felzenszwalb

from common import SHARED
from fedcowpro.config import Modality, SuperpixelConfig
from fedcowpro.data.superpixels.superpixels import FOREGROUND, body_mask, segment_areas, superpixels

SMALL = SuperpixelConfig(method="felzenszwalb", min_size=30)
MERGING = SuperpixelConfig(method="merging", min_size=30)


def phantom(seed: int, size: int = 64) -> np.ndarray:
    """A body with organs of random grey on air, grey levels 0..255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    image = np.where((y / 0.35) ** 2 + (x / 0.45) ** 2 < 1, 100.0, 0)
    for _ in range(6):
        cy, cx, r = *rng.uniform(-0.2, 0.2, 2), rng.uniform(0.04, 0.12)
        image[(y - cy) ** 2 + (x - cx) ** 2 < r**2] = rng.uniform(40, 250)
    return np.clip(image + rng.normal(0, 4, image.shape) * (image > 0), 0, 255).astype(np.float32)


def golden() -> dict[str, np.ndarray]:
    beside = SHARED / "golden"
    path = Path(os.environ.get("FEDCOWPRO_GOLDEN", beside)) / "superpixel_slice.npz"
    if not path.is_file():
        pytest.skip(f"golden data absent: {path} (set FEDCOWPRO_GOLDEN to its folder)")
    with np.load(path) as data:
        return dict(data)


def test_body_is_the_references() -> None:
    data = golden()
    np.testing.assert_array_equal(body_mask(data["image"], FOREGROUND["ct"]), data["fg_mask"].astype(bool))


def test_segments_are_the_references_within_the_body() -> None:
    if not skimage.__version__.startswith("0.26."):
        pytest.skip(f"golden segments were made by scikit-image 0.26, this is {skimage.__version__}")
    data = golden()
    body = data["fg_mask"].astype(bool)
    ours = superpixels(data["image"], SuperpixelConfig(method="felzenszwalb"), "ct")
    np.testing.assert_array_equal(ours > 0, body)
    # The same partition: ids correspond one to one.
    pairs = np.unique(np.stack([data["felzenszwalb_raw"][body], ours[body]]), axis=1)
    assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1])) > 5
    # The reference loses raw id 0 and leaves a gap; wherever it kept a segment, so do we.
    kept = data["processed"] > 0
    pairs = np.unique(np.stack([data["processed"][kept], ours[kept]]), axis=1)
    assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))


@pytest.mark.parametrize("config", [SMALL, MERGING], ids=["felzenszwalb", "merging"])
@pytest.mark.parametrize("modality", ["ct", "mr"])
@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_ids_are_contiguous_and_partition_the_body(modality: Modality, config: SuperpixelConfig, seed: int) -> None:
    grey = phantom(seed)
    segments = superpixels(grey, config, modality)
    assert segments.dtype == np.uint16
    np.testing.assert_array_equal(np.unique(segments), np.arange(segments.max() + 1))
    np.testing.assert_array_equal(segments > 0, body_mask(grey, FOREGROUND[modality]))
    areas = segment_areas(segments)
    assert len(areas) == segments.max() > 0
    assert areas.min() > 0
    assert areas.sum() == np.count_nonzero(segments)


def test_the_segment_numbered_zero_is_kept() -> None:
    """A body that fills the slice: the first segment has raw id 0 and must not become background."""
    grey = np.full((64, 64), 60, np.float32)
    grey[32:] = 200
    segments = superpixels(grey, SMALL, "ct")
    raw = felzenszwalb(grey, scale=SMALL.scale, sigma=SMALL.sigma, min_size=SMALL.min_size)
    assert raw[0, 0] == 0
    np.testing.assert_array_equal(segments, raw + 1)


def test_body_is_the_largest_component_with_holes_filled() -> None:
    grey = np.zeros((64, 64), np.float32)
    grey[8:40, 8:40] = 100
    grey[20:25, 20:25] = 0  # a hole belongs to the body
    grey[50:60, 50:60] = 100  # the table does not
    grey[40, 40] = 100  # touches the body at a corner only: 8-connected
    expected = np.zeros((64, 64), bool)
    expected[8:40, 8:40] = expected[40, 40] = True
    np.testing.assert_array_equal(superpixels(grey, SMALL, "ct") > 0, expected)


@pytest.mark.parametrize("config", [SMALL, MERGING], ids=["felzenszwalb", "merging"])
def test_empty_slices_have_no_segment(config: SuperpixelConfig) -> None:
    segments = superpixels(np.zeros((64, 64), np.float32), config, "mr")
    assert segments.max() == 0
    assert len(segment_areas(segments)) == 0


def test_threshold_follows_modality_unless_it_is_set() -> None:
    grey = phantom(3)
    grey[grey == 0] = 5  # noise around the patient, as in MR
    assert superpixels(grey, SMALL, "ct").min() > 0
    outside = superpixels(grey, SMALL, "mr") == 0
    assert outside.mean() > 0.3
    chosen = superpixels(grey, SuperpixelConfig(method="felzenszwalb", min_size=30, foreground=80.0), "ct") > 0
    assert not chosen[outside].any()


@pytest.mark.parametrize("config", [SMALL, MERGING], ids=["felzenszwalb", "merging"])
def test_distinct_organs_are_not_merged(config: SuperpixelConfig) -> None:
    """Segments follow strong edges: at least nine tenths of each lie on one side of one."""
    grey = np.full((64, 64), 50, np.float32)
    grey[16:48, 16:48] = 180
    segments = superpixels(grey, config, "ct")
    inner = grey == 180
    share = ndimage.mean(inner, segments, np.arange(1, segments.max() + 1))
    assert (np.minimum(share, 1 - share) < 0.1).all()


def test_the_published_method_has_its_own_constants_which_are_written_down() -> None:
    chosen = SuperpixelConfig(method="felzenszwalb")
    assert (chosen.scale, chosen.sigma, chosen.min_size) == (1.0, 1.0, 400)
    assert SuperpixelConfig(method="felzenszwalb", scale=7.0).scale == 7.0
    assert SuperpixelConfig.model_validate(chosen.model_dump()) == chosen
    with pytest.raises(ValidationError, match="sigma: above 0"):
        SuperpixelConfig(method="merging", sigma=0.0)
    assert SuperpixelConfig() == SuperpixelConfig(method="merging", scale=1500.0, sigma=1.5, min_size=200)


def test_merging_sees_dark_organs_of_mr_as_it_sees_bright_ones() -> None:
    """Two discs a third brighter than what surrounds them, one in bright and one in dark tissue."""
    y, x = np.mgrid[:64, :128]
    grey = np.where(x < 64, 40.0, 180.0) * np.where(
        np.minimum((x - 32) ** 2, (x - 96) ** 2) + (y - 32) ** 2 < 225, 4 / 3, 1
    )
    config = SuperpixelConfig(method="merging", scale=1050.0)
    assert superpixels(grey.astype(np.float32), config, "ct").max() == 3  # the dark disc is lost
    assert superpixels(grey.astype(np.float32), config, "mr").max() == 4
