"""Episodes come from usable superpixels of training cases only, and never from labels."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from fedcowpro.config import AugmentConfig
from fedcowpro.data.episodes import EpisodeSampler
from fedcowpro.data.site import Site
from fedcowpro.errors import FedCoWProError

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


def draw(site: Path, count: int, seed: int = 0) -> list[tuple[int, int]]:
    """(slice, segment) of episodes, read off the pixels."""
    sampler = EpisodeSampler(Site.open(site), STILL)
    batch = sampler.sample(count, torch.Generator().manual_seed(seed))
    drawn = []
    for image, mask in zip(batch.support, batch.support_mask, strict=True):
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
