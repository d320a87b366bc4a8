"""Refining: a network learns the painted slices and all open volumes; the masks of before stay to be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.oneshot import fine_tuning
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.serve.engine import Engine
from fedcowpro.serve.jobs import Cancelled, Job
from fedcowpro.serve.opened import OpenVolume
from fedcowpro.training.recipe import Recipe
from fedcowpro.volume.nifti import read_image
from fedcowpro.volume.read import read_labels
from serve_pages import Page

pytestmark = pytest.mark.slow

RECIPE = Recipe(window=(64, 64), widths=(16, 8, 8), batch=2, steps=(3, 2), spacing=4.0)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(fine_tuning, "Recipe", lambda distortion: RECIPE)
    loaded = load_predictor(None)
    return Engine(loaded.predictor, loaded.prepare, "test")


@pytest.fixture
def volumes(phantoms: Path) -> list[OpenVolume]:
    """Two volumes; the liver is painted on a slice of the first."""
    found = [OpenVolume(read_image(phantoms / "ct" / f"image_{case}.nii.gz")) for case in (1, 2)]
    labels = read_labels(phantoms / "ct" / "label_1.nii.gz", found[0].volume).voxels == 1
    found[0].drawn[5] = labels[5].astype(np.uint8)
    return found


def test_all_volumes_get_masks_and_keep_those_of_before(engine: Engine, volumes: list[OpenVolume]) -> None:
    engine.segment(volumes, Job())
    first = [volume.labels().copy() for volume in volumes]
    job = Job()
    engine.refine(volumes, job, steps=5)
    assert (job.stage, job.done) == ("finished", 2)
    assert [volume.to_json()["refined"] for volume in volumes] == [True, True]
    np.testing.assert_array_equal(volumes[0].labels()[5], volumes[0].drawn[5])
    after = volumes[1].labels().copy()
    volumes[1].exchange()
    np.testing.assert_array_equal(volumes[1].labels(), first[1])
    volumes[1].exchange()
    np.testing.assert_array_equal(volumes[1].labels(), after)
    engine.segment(volumes, Job())
    assert not volumes[1].to_json()["refined"]


def test_cancelled_refining_leaves_the_masks_as_they_were(engine: Engine, volumes: list[OpenVolume]) -> None:
    engine.segment(volumes, Job())
    first = [volume.result for volume in volumes]

    class Stopping(Job):
        def report(self, stage: str, done: int, total: int) -> None:
            super().report(stage, done, total)
            if stage.startswith("learning") and done == 2:
                self.cancel()

    with pytest.raises(Cancelled):
        engine.refine(volumes, Stopping(), steps=5)
    assert [volume.result for volume in volumes] == first


def test_without_a_painted_organ_there_is_nothing_to_refine(engine: Engine, volumes: list[OpenVolume]) -> None:
    volumes[0].drawn.clear()
    with pytest.raises(FedCoWProError, match="no painted slice"):
        engine.refine(volumes, Job(), steps=5)


def test_the_page_says_why_it_cannot(page: Page) -> None:
    key = page.open("ct/image_1.nii.gz")["id"]
    assert page.post(f"/api/volumes/{key}/exchange").status_code == 409
    ended = page.wait(page.post("/api/refine").json()["id"])
    assert ended["state"] == "failed"
    assert ended["error"]["got"] == "no painted slice"
