"""Episodes come from usable superpixels of training cases only, and never from labels."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedcowpro.config import AugmentConfig, EpisodeConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.episodes.sampler import EpisodeBatch, EpisodeSampler
from fedcowpro.data.preparation.site import Site

STILL = AugmentConfig(rotation=0, translation=0, shear=0, zoom=(1, 1), elastic_alpha=0, gamma=(1, 1))
# Segments of each slice of the training case as (row, column, height, width); ids count from 1.
BOXES = (
    ((0, 0, 10, 10), (0, 16, 4, 4), (16, 0, 12, 12)),  # the second is smaller than the minimum area of 100
    ((2, 2, 5, 5),),  # nothing usable
    ((4, 4, 11, 11),),
)
SLICES = len(BOXES)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A training case whose pixels tell slice and segment, a support case, and labels that nobody may open."""
    root, records = tmp_path / "site", []
    for case, role in (("a", "train"), ("b", "support")):
        segments, image = np.zeros((SLICES, 32, 32), np.uint16), np.zeros((SLICES, 32, 32), np.float16)
        for z, boxes in enumerate(BOXES):
            image[z] = -z
            for number, (row, column, height, width) in enumerate(boxes, 1):
                segments[z, row : row + height, column : column + width] = number
        image += segments * (1 if case == "a" else 100)
        folder = root / "cases" / case
        folder.mkdir(parents=True)
        np.save(folder / "image.npy", image)
        np.save(folder / "superpixels.npy", segments)
        areas = [[int((plane == i).sum()) for i in range(1, plane.max() + 1)] for plane in segments]
        record = {
            "id": case,
            "modality": "mr",
            "guessed": "mr",
            "depth": SLICES,
            "spacing": (5.0, 1.0, 1.0),
            "source": "0" * 64,
            "areas": areas,
        }
        records.append({**record, "role": role})
    settings = {"modality": "mr", "size": 32}
    manifest = {"version": 2, "fedcowpro": "0", "dataset": "folder", "settings": settings, "cases": records}
    (root / "manifest.json").write_text(json.dumps(manifest))
    (root / "labels").write_text("a file: opening this folder fails")
    return root


def sample(site: Path, count: int, seed: int = 0, progress: float = 1.0, **episodes: Any) -> EpisodeBatch:
    sampler = EpisodeSampler(Site.open(site), STILL, EpisodeConfig.model_validate(episodes))
    return sampler.sample(count, torch.Generator().manual_seed(seed), progress)


def draw(site: Path, count: int, seed: int = 0, progress: float = 1.0, **episodes: Any) -> list[tuple[int, int]]:
    """(slice, segment) of episodes, read off the pixels."""
    batch = sample(site, count, seed, progress, **episodes)
    return shown(batch.support, batch.support_mask)


def shown(images: Tensor, masks: Tensor) -> list[tuple[int, int]]:
    drawn = []
    for image, mask in zip(images, masks, strict=True):
        slice_number = round(-float(image.min()))
        segment = {round(float(value)) + slice_number for value in image[0][mask > 0]}
        assert len(segment) == 1
        drawn.append((slice_number, segment.pop()))
    return drawn


def test_all_usable_superpixels_are_drawn_and_no_other(site: Path) -> None:
    drawn = Counter(draw(site, 400))
    assert set(drawn) == {(0, 1), (0, 3), (2, 1)}  # the last id of a slice too, which the reference never draws


def test_slices_are_uniform_and_then_their_segments(site: Path) -> None:
    drawn = Counter(draw(site, 1000))
    assert drawn[2, 1] / 1000 == pytest.approx(0.5, abs=0.05)
    assert drawn[0, 1] / 1000 == pytest.approx(0.25, abs=0.05)
    assert drawn[0, 3] / 1000 == pytest.approx(0.25, abs=0.05)


def test_masks_are_whole_superpixels(site: Path) -> None:
    batch = EpisodeSampler(Site.open(site), STILL).sample(50, torch.Generator().manual_seed(0))
    assert batch.support.shape == batch.query.shape == (50, 1, 32, 32)
    assert batch.support_mask.dtype == batch.query_mask.dtype == torch.int64
    assert torch.equal(batch.support_mask, batch.query_mask)  # the same superpixel, here without deformation
    assert torch.equal(batch.support, batch.query)
    assert set(batch.support_mask.sum((1, 2)).tolist()) == {100, 144, 121}


def test_support_and_query_are_views_of_their_own(site: Path) -> None:
    batch = EpisodeSampler(Site.open(site), AugmentConfig()).sample(4, torch.Generator().manual_seed(0))
    for index in range(4):
        assert not torch.equal(batch.support[index], batch.query[index])
        assert not torch.equal(batch.support_mask[index], batch.query_mask[index])
        shared = (batch.support_mask[index] * batch.query_mask[index]).sum()
        assert shared > 0.2 * batch.support_mask[index].sum()


def test_the_generator_decides_everything(site: Path) -> None:
    sampler = EpisodeSampler(Site.open(site), AugmentConfig(random_convolution=0.5))
    torch.manual_seed(1)
    one = sampler.sample(3, torch.Generator().manual_seed(7))
    np.random.seed(5)
    torch.manual_seed(2)
    two = sampler.sample(3, torch.Generator().manual_seed(7))
    other = sampler.sample(3, torch.Generator().manual_seed(8))
    assert torch.equal(one.support, two.support)
    assert torch.equal(one.query, two.query)
    assert torch.equal(one.query_mask, two.query_mask)
    assert not torch.equal(one.query, other.query)


def test_labels_are_not_needed(site: Path) -> None:
    before = draw(site, 20)
    (site / "labels").unlink()
    assert draw(site, 20) == before


def test_held_out_cases_are_not_opened(site: Path) -> None:
    opened = Site.open(site)
    sampler = EpisodeSampler(opened, STILL)
    shutil.rmtree(site / "cases" / "b")
    sampler.sample(30, torch.Generator().manual_seed(0))


def test_a_site_without_usable_superpixels_is_refused(site: Path) -> None:
    manifest = json.loads((site / "manifest.json").read_text())
    manifest["settings"]["superpixels"] = {"min_area": 1000}
    (site / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FedCoWProError, match="no training slice with a usable superpixel"):
        EpisodeSampler(Site.open(site), STILL)


# ---------------------------------------------------------------- options


def test_larger_superpixels_are_drawn_more_often_by_the_root_of_their_area(site: Path) -> None:
    drawn = Counter(draw(site, 1500, draw="area"))
    assert drawn[2, 1] / 1500 == pytest.approx(0.5, abs=0.04)  # slices stay uniform
    assert drawn[0, 3] / (drawn[0, 1] + drawn[0, 3]) == pytest.approx(12 / 22, abs=0.04)


def test_a_curriculum_begins_with_the_largest(site: Path) -> None:
    """Areas 144, 121 and 100: a quarter of three is the largest, half of them the larger two."""
    assert set(draw(site, 50, progress=0.0, curriculum=True)) == {(0, 3)}
    half = Counter(draw(site, 400, progress=0.4, curriculum=True))
    assert set(half) == {(0, 3), (2, 1)}
    assert half[2, 1] / 400 == pytest.approx(0.5, abs=0.08)
    for progress in (0.75, 1.0):
        assert draw(site, 50, progress=progress, curriculum=True) == draw(site, 50)
    assert draw(site, 50, progress=0.0) == draw(site, 50)


def near_site(site: Path, shift: int, **changes: object) -> Path:
    """Three slices with one superpixel of 12 x 12, moved by `shift` from slice to slice."""
    folder = site / "cases" / "a"
    segments = np.zeros((SLICES, 32, 32), np.uint16)
    for z in range(SLICES):
        segments[z, 8:20, 4 + shift * z : 16 + shift * z] = 1
    np.save(folder / "superpixels.npy", segments)
    np.save(folder / "image.npy", (segments - np.arange(SLICES)[:, None, None]).astype(np.float16))
    manifest = json.loads((site / "manifest.json").read_text())
    manifest["cases"][0] |= {"areas": [[144]] * SLICES, **changes}
    (site / "manifest.json").write_text(json.dumps(manifest))
    return site


def test_the_query_comes_from_a_neighbour_with_its_own_superpixel(site: Path) -> None:
    batch = sample(near_site(site, 2), 300, neighbour=1)
    support = [z for z, _ in shown(batch.support, batch.support_mask)]
    query = [z for z, _ in shown(batch.query, batch.query_mask)]
    assert set(zip(support, query, strict=True)) == {(0, 1), (1, 0), (1, 2), (2, 1)}
    for z, mask in zip(query, batch.query_mask, strict=True):
        assert mask[8:20, 4 + 2 * z : 16 + 2 * z].all()
        assert int(mask.sum()) == 144
    both = Counter(zip(support, query, strict=True))
    assert both[1, 0] / (both[1, 0] + both[1, 2]) == pytest.approx(0.5, abs=0.15)
    farther = sample(site, 100, neighbour=2)
    slices = [shown(farther.support, farther.support_mask), shown(farther.query, farther.query_mask)]
    assert ((0, 1), (2, 1)) in set(zip(*slices, strict=True))


def test_where_superpixels_do_not_fit_the_query_stays(site: Path) -> None:
    """Moved by 2 of 12 columns, the IoU is 10/14; by 5, 7/17; by 7, less than half of the one lies in the other."""
    for shift, least, moved in ((2, 0.7, True), (2, 0.72, False), (5, 0.4, True), (7, 0.1, False)):
        batch = sample(near_site(site, shift), 30, neighbour=1, neighbour_overlap=least)
        same = [torch.equal(a, b) for a, b in zip(batch.support, batch.query, strict=True)]
        assert any(same) is not moved
        assert all(same) is not moved


def test_a_slice_that_is_left_out_is_no_neighbour(site: Path) -> None:
    batch = sample(near_site(site, 1, left_out=[1]), 60, neighbour=1)
    for images, masks in ((batch.support, batch.support_mask), (batch.query, batch.query_mask)):
        assert {z for z, _ in shown(images, masks)} == {0, 2}
    assert torch.equal(batch.support, batch.query)


def test_support_views_are_views_of_the_query_s_slice(site: Path) -> None:
    sampler = EpisodeSampler(Site.open(site), AugmentConfig(), EpisodeConfig(support_views=3))
    batch = sampler.sample(4, torch.Generator().manual_seed(0))
    assert batch.support.shape == (12, 1, 32, 32)
    assert batch.support_mask.shape == (12, 32, 32)
    assert batch.query.shape == (4, 1, 32, 32)
    still = sample(site, 8, support_views=3)
    assert torch.equal(still.support, still.query.repeat_interleave(3, 0))
    assert torch.equal(still.support_mask, still.query_mask.repeat_interleave(3, 0))
    assert len({tuple(mask.flatten().tolist()) for mask in batch.support_mask[:3]}) == 3  # views of their own
