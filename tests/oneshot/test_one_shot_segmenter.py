"""`OneShotSegmenter`: every form of input, scikit-learn's manners, and the page that shows it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from common import PLAIN, TINY
from dicom_files import write_series
from fedcowpro import OneShotSegmenter
from fedcowpro.config import AugmentConfig
from fedcowpro.core.errors import FedCoWProError, NotFittedError
from fedcowpro.data.episodes.sampler import EpisodeSampler
from fedcowpro.data.preparation.site import Site
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.loading import default_model, load_predictor
from fedcowpro.training.adapt import adapt
from fedcowpro.volume.read import read_labels, read_volume

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture
def ours(tiny_checkpoint: Path) -> OneShotSegmenter:
    return OneShotSegmenter.load(tiny_checkpoint, inference=PLAIN.model_dump())


def files(phantoms: Path, case: str) -> tuple[Path, Path]:
    return phantoms / "ct" / f"image_{case}.nii.gz", phantoms / "ct" / f"label_{case}.nii.gz"


def test_all_forms_of_input_give_the_same_mask(ours: OneShotSegmenter, phantoms: Path, tmp_path: Path) -> None:
    example, query = files(phantoms, "1"), files(phantoms, "3")[0]
    ours.set_support(*example)
    by_path = ours.predict(query)
    image = nib.load(query)
    by_image = ours.predict(image)
    assert np.array_equal(by_path.labels, by_image.labels)
    assert by_path.labels.shape == image.shape
    assert by_path.probability is not None
    assert by_path.probability[1].shape == image.shape
    np.testing.assert_allclose(by_image.to_nibabel().affine, image.affine)
    saved = nib.load(by_path.save(tmp_path / "mask.nii.gz"))
    assert np.array_equal(np.asanyarray(saved.dataobj), by_path.labels)

    turned = image.as_reoriented(nib.orientations.axcodes2ornt(("P", "I", "R")))
    by_turned = ours.predict(turned)
    assert by_turned.labels.shape == turned.shape
    canonical = (nib.as_closest_canonical(found.to_nibabel()) for found in (by_turned, by_path))
    one, two = (np.asanyarray(found.dataobj) for found in canonical)
    assert (one != two).mean() < 1e-3

    volume, drawn = read_volume(example[0]), read_volume(query)
    mask = read_labels(example[1], volume)
    ours.set_support(volume.voxels, mask.voxels, spacing=volume.spacing)
    by_array = ours.predict(drawn.voxels, spacing=drawn.spacing)
    assert by_array.labels.shape == drawn.voxels.shape
    assert (by_array.labels != drawn.grid.to_internal(by_path.labels)).mean() < 1e-3
    assert by_array.millilitres == pytest.approx(by_path.millilitres, rel=0.02)

    write_series(tmp_path / "series", np.round(drawn.voxels), drawn.spacing)
    by_series = ours.predict(tmp_path / "series")
    assert by_series.labels.sum() == pytest.approx(int(by_path.labels.sum()), rel=0.02)


def test_painted_slices_come_back_and_corrections_replace(ours: OneShotSegmenter, phantoms: Path) -> None:
    image, mask = files(phantoms, "1")
    truth = np.asanyarray(nib.load(mask).dataobj).astype(np.uint8)
    ours.set_params(organs=[1]).set_support(image, truth, painted=[5])
    found = ours.predict(image).labels
    assert np.array_equal(found[:, :, 5], np.where(truth[:, :, 5] == 1, 1, 0))
    assert found[:, :, 4].any()
    ours.add_support(image, truth, painted=[4, 5])
    assert len(ours.support_.examples) == 1
    assert np.array_equal(ours.predict(image).labels[:, :, 4], np.where(truth[:, :, 4] == 1, 1, 0))
    ours.add_support(*files(phantoms, "2"))
    assert len(ours.support_.examples) == 2
    drawn = np.zeros_like(truth)
    drawn[:, :, 6] = truth[:, :, 6]
    ours.set_support(image, drawn, painted="labelled")
    assert ours.support_.examples[0].annotation.painted.sum() == 1
    with pytest.raises(FedCoWProError, match="slice 10"):
        ours.set_support(image, truth, painted=[10])


def test_scikit_learn_manners(tiny_checkpoint: Path, phantoms: Path) -> None:
    plain = OneShotSegmenter(tiny_checkpoint, modality="ct")
    assert vars(plain) == plain.get_params()
    assert OneShotSegmenter(**plain.get_params()).get_params() == plain.get_params()
    assert repr(plain) == f"OneShotSegmenter(model={tiny_checkpoint!r}, modality='ct')"
    with pytest.raises(NotFittedError, match="call set_support"):
        plain.predict(files(phantoms, "3")[0])
    with pytest.raises(FedCoWProError, match="parameter 'depth'"):
        plain.set_params(depth=3)
    plain.set_support(*files(phantoms, "1"))
    assert vars(plain.set_params(modality=None)) == plain.get_params()
    with pytest.raises(FedCoWProError, match="no readable file"):
        OneShotSegmenter.load(tiny_checkpoint / "none.safetensors")


def test_inputs_that_cannot_be_used(ours: OneShotSegmenter, phantoms: Path) -> None:
    image, mask = files(phantoms, "1")
    array = read_volume(image).voxels
    for given, options, message in (
        (array, {}, "an array with spacing None"),
        (array, {"spacing": (1, 2)}, "three lengths in mm"),
        (array[0], {"spacing": (1, 1, 1)}, "an array of shape"),
        (array.astype(complex), {"spacing": (1, 1, 1)}, "complex"),
        (str(image), {"spacing": (1, 1, 1)}, "spacing and order with arrays only"),
        (7, {}, "int"),
    ):
        with pytest.raises(FedCoWProError, match=message.replace("(", r"\(")):
            ours.set_support(given, mask, **options)  # type: ignore[arg-type]
    with pytest.raises(FedCoWProError, match="shape"):
        ours.set_support(image, np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(FedCoWProError, match="mask is empty"):
        ours.set_support(image, np.zeros(nib.load(image).shape, np.uint8))


def test_fit_changes_the_model_and_save_keeps_it(ours: OneShotSegmenter, phantoms: Path, tmp_path: Path) -> None:
    ours.set_support(*files(phantoms, "1"))
    before = ours.predict(files(phantoms, "3")[0]).probability
    scans = [files(phantoms, "2")[0], nib.load(files(phantoms, "3")[0])]
    ours.fit(scans, steps=2, seed=3, progress=False)
    assert ours.n_steps_ == 2
    after = ours.predict(files(phantoms, "3")[0]).probability  # the support is there, encoded anew
    assert before is not None
    assert after is not None
    assert not np.array_equal(before[1], after[1])
    saved = ours.save(tmp_path / "mine.safetensors")
    again = OneShotSegmenter.load(saved).set_support(*files(phantoms, "1"))
    assert again.loaded_.card["adapted"] == [{"steps": 2, "asked": 2, "seed": 3}]
    same = again.predict(files(phantoms, "3")[0]).probability
    assert same is not None
    assert np.array_equal(same[1], after[1])
    with pytest.raises(FedCoWProError, match="list with at least one image"):
        ours.fit([], progress=False)
    with pytest.raises(FedCoWProError, match="steps=0"):
        ours.fit(scans, steps=0)


def test_ctrl_c_ends_training_after_the_step(ct_site: Site) -> None:
    source = EpisodeSampler(ct_site, AugmentConfig())

    def interrupt(step: int, losses: dict[str, float]) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    model = build_model(TINY, 0)
    assert adapt(model, source, steps=50, seed=0, on_step=interrupt) == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert not model.training
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_adaptation_is_repeatable(ct_site: Site) -> None:
    states = []
    for _ in range(2):
        model = build_model(TINY, 0)
        adapt(model, EpisodeSampler(ct_site, AugmentConfig()), steps=2, seed=1)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_shipped_model_is_small_and_says_what_it_is() -> None:
    assert default_model().stat().st_size <= 4e6
    card = load_predictor(None).card
    assert "Apache-2.0" in card["licence"]
    assert "no patient data" in card["training"]["on"]


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python blocks, in order, in one namespace."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), space)
    assert (tmp_path / "image_2_mask.nii.gz").is_file()
    assert (tmp_path / "mine.safetensors").is_file()
