"""From an annotated example to a network that needs none: same inputs, same network; nothing is lost on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common import ORGANS
from fedcowpro import OneShotSegmenter
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.overlap import dice
from fedcowpro.data.phantom import write_site
from fedcowpro.model.checkpoint import state_digest
from fedcowpro.oneshot import fine_tuning
from fedcowpro.oneshot.annotation import Annotation, read_example
from fedcowpro.oneshot.encoded import encode_volume
from fedcowpro.oneshot.fine_tuning import fine_tune
from fedcowpro.oneshot.loading import Loaded, load_predictor
from fedcowpro.oneshot.organ_model import OrganModel, is_organ_model
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.oneshot.segmentation import segment_encoded
from fedcowpro.oneshot.support import build_support
from fedcowpro.training.finetuning import FineTuning, Progress
from fedcowpro.training.pool import IGNORE, Unlabelled
from fedcowpro.training.recipe import Recipe
from fedcowpro.volume.nifti import write_labels
from fedcowpro.volume.preprocess import Placement
from fedcowpro.volume.read import read_labels, read_volume
from fedcowpro.volume.volume import Volume

pytestmark = pytest.mark.slow

RECIPE = Recipe(window=(64, 64), widths=(16, 8, 8, 8), batch=2, steps=(8, 4), spacing=4.0)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    write_site(root, "ct", (1, 2, 3), size=64, depth=8)
    return root


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_predictor(None)


def volume(scans: Path, case: int) -> Volume:
    return read_volume(scans / f"image_{case}.nii.gz")


def example(scans: Path, painted: tuple[int, ...] | None = None) -> tuple[Volume, Annotation]:
    image = volume(scans, 1)
    labels = read_labels(scans / "label_1.nii.gz", image).voxels
    known = np.ones(len(labels), bool) if painted is None else np.isin(np.arange(len(labels)), painted)
    return image, Annotation(labels, known)


def digest(model: OrganModel) -> str:
    return state_digest(model.net.state_dict())


def test_an_interrupted_fine_tuning_goes_on_to_the_same_network(scans: Path, loaded: Loaded, tmp_path: Path) -> None:
    given = loaded, [example(scans)], [volume(scans, 2)]
    unlike = (np.zeros((3, 64, 64), np.float32) + np.arange(64, dtype=np.float32), 4.0, "mr")  # prototypes pass it over
    options = {"prepared": [unlike], "organs": ORGANS, "recipe": RECIPE}
    whole = fine_tune(*given, **options, seed=3)  # type: ignore[arg-type]
    assert whole.organs == tuple(ORGANS)
    assert whole.card["steps"] == {"done": 12, "of": [8, 4]}
    assert digest(fine_tune(*given, **options, seed=4)) != digest(whole)  # type: ignore[arg-type]
    resume = tmp_path / "organs.resume"
    seen: list[int] = [0]
    compared: list[int] = []  # steps that were done when prototypes labelled the volume

    def go_on(stop_at: int | None) -> OrganModel:
        return fine_tune(
            *given, **options, seed=3, resume=resume, stop=lambda: seen[-1] == stop_at,  # type: ignore[arg-type]
            on_step=lambda progress: seen.append(progress.step), on_volume=lambda *_: compared.append(seen[-1]),
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        go_on(0)
    assert not resume.exists()
    for stop_at in (5, 8, 10):  # 8: between the rounds
        assert go_on(stop_at).card["steps"]["done"] == stop_at
        assert resume.is_file()
    last = go_on(None)
    assert seen == list(range(13))
    assert compared == [0, 5, 8]  # not after an end at once, nor in a later round
    assert digest(last) == digest(whole)


@pytest.mark.parametrize("stop_at", [3, 9])
def test_the_time_is_kept_to_after_an_interruption_at_any_step(scans: Path, stop_at: int) -> None:
    def tuning() -> FineTuning:
        encoder = load_predictor(None).predictor.model.encoder.state_dict()
        prepared = fine_tuning._example(load_predictor(None), *example(scans), "ct", tuple(ORGANS))
        return FineTuning(encoder, [prepared], len(ORGANS), recipe=replace(RECIPE, steps=(400,)))

    first, second = tuning(), tuning()
    first.run(minutes=1e-3, stop=lambda: first.step == stop_at)
    second.load_state_dict(first.state_dict())
    second.run(minutes=1e-3)
    assert second.steps == (20,)


def test_more_time_than_the_schedule_needs_is_not_used(scans: Path, loaded: Loaded) -> None:
    given = loaded, [example(scans)], [volume(scans, 2)]
    recipe = replace(RECIPE, steps=(12, 4))
    ample = fine_tune(*given, recipe=recipe, minutes=60)
    assert ample.card["steps"] == {"done": 16, "of": [12, 4]}
    assert digest(ample) == digest(fine_tune(*given, recipe=recipe))


def test_other_pixels_names_and_settings_are_other_inputs(scans: Path, loaded: Loaded) -> None:
    image, annotation = example(scans)
    wider = replace(image, spacing=(image.spacing[0], 2 * image.spacing[1], 2 * image.spacing[2]))
    config = loaded.predictor.config.model_copy(update={"threshold": 0.9})
    other = replace(loaded, predictor=OneShotPredictor(loaded.predictor.model, config))

    def inputs(*given: object, names: dict[int, str] = ORGANS) -> str:
        begun: list[Progress] = []
        model = fine_tune(
            *given, organs=names, recipe=RECIPE, on_step=begun.append, stop=lambda: bool(begun),  # type: ignore[arg-type]
        )  # fmt: skip
        return str(model.card["inputs"])

    found = [
        inputs(loaded, [(image, annotation)], [volume(scans, 2)]),
        inputs(loaded, [(wider, annotation)], [volume(scans, 2)]),
        inputs(loaded, [(image, annotation)], [replace(volume(scans, 2), spacing=wider.spacing)]),
        inputs(loaded, [(image, annotation)], [volume(scans, 2)], names=ORGANS | {1: "spleen", 4: "liver"}),
        inputs(other, [(image, annotation)], [volume(scans, 2)]),
    ]
    assert len(set(found)) == len(found)
    assert inputs(loaded, [(image, annotation)], [volume(scans, 2)]) == found[0]


def test_label_values_beyond_nine_keep_their_organs(scans: Path, loaded: Loaded, tmp_path: Path) -> None:
    """A card's keys are sorted as text: "1", "10", "2"."""
    image, annotation = example(scans)
    labels = annotation.labels.copy()
    labels[labels == 4] = 10
    names = {1: "liver", 2: "right kidney", 10: "spleen"}
    model = fine_tune(loaded, [(image, Annotation(labels, annotation.painted))], recipe=RECIPE, organs=names)
    again = OrganModel.load(model.save(tmp_path / "organs.safetensors"))
    assert (again.organs, again.names) == ((1, 2, 10), names)
    np.testing.assert_array_equal(again.segment(image).labels, model.segment(image).labels)


def test_what_is_left_of_other_inputs_is_not_gone_on_with(scans: Path, loaded: Loaded, tmp_path: Path) -> None:
    resume = tmp_path / "organs.resume"
    fine_tune(loaded, [example(scans)], recipe=RECIPE, seed=1, resume=resume, stop=lambda: True)
    assert resume.is_file()
    other = fine_tune(loaded, [example(scans)], recipe=RECIPE, seed=2, resume=resume)
    assert digest(other) == digest(fine_tune(loaded, [example(scans)], recipe=RECIPE, seed=2))
    resume.write_bytes(b"broken")
    assert digest(fine_tune(loaded, [example(scans)], recipe=RECIPE, seed=2, resume=resume)) == digest(other)


def test_masks_lie_on_the_volumes_own_grid(scans: Path, loaded: Loaded, tmp_path: Path) -> None:
    model = fine_tune(loaded, [example(scans)], recipe=RECIPE, organs={1: "liver", 4: "spleen"})
    assert model.organs == (1, 4)
    path = model.save(tmp_path / "organs.safetensors")
    assert is_organ_model(path)
    again = OrganModel.load(path)
    assert again.names == {1: "liver", 4: "spleen"}
    image = volume(scans, 3)
    found, same = model.segment(image, probabilities=True), again.segment(image)
    np.testing.assert_array_equal(found.labels, same.labels)
    assert found.labels.shape == image.voxels.shape
    assert set(np.unique(found.labels)) <= {0, 1, 4}
    assert found.probability is not None
    assert found.probability.shape == (2, *image.voxels.shape)
    assert all(np.isnan(value) or 0 <= value <= 1 for value in found.confidence.values())
    with pytest.raises(FedCoWProError, match="format"):
        load_predictor(path)


def test_a_trained_network_finds_the_organ_of_the_example(scans: Path, loaded: Loaded) -> None:
    """It learns at all, and what stands in slices that are not painted does not matter."""
    recipe = Recipe(window=(64, 64), widths=(16, 16, 16, 16), batch=4, steps=(60,), spacing=4.0)
    image, annotation = example(scans)
    truth = annotation.labels == 1
    shown = [int(z) for z in np.flatnonzero(truth.any(axis=(1, 2)))]
    wrong = annotation.labels.copy()
    wrong[[z for z in range(len(wrong)) if z not in shown]] = 1
    painted = Annotation(wrong, example(scans, tuple(shown))[1].painted)
    found = fine_tune(loaded, [(image, painted)], recipe=recipe, organs={1: "liver"}).segment(image).labels == 1
    dice = 2 * (found & truth)[shown].sum() / (found[shown].sum() + truth.sum())
    assert dice > 0.6


def test_unknown_voxels_of_a_data_set_are_not_learnt_from(scans: Path, loaded: Loaded, tmp_path: Path) -> None:
    """The same reader for the shell and Python: what nnU-Net's `ignore` marks is neither organ nor background."""
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "ignore": 9}}))
    image = volume(scans, 1)
    labels = (read_labels(scans / "label_1.nii.gz", image).voxels == 1).astype(np.uint8)
    labels[4, :8] = 9
    mask = tmp_path / "labelsTr" / "p1.nii.gz"
    write_labels(mask, labels, image.grid)
    read, annotation = read_example(scans / "image_1.nii.gz", mask)
    np.testing.assert_array_equal(annotation.hidden, labels == 9)
    prepared = fine_tuning._example(loaded, read, annotation, "ct", (1,))
    assert set(np.unique(prepared.labels)) == {0, 1, IGNORE}
    assert (prepared.labels == IGNORE).any(axis=(1, 2)).nonzero()[0].tolist() == [4]
    assert prepared.organs == {1}
    assert fine_tuning._values([(read, annotation)], None) == (1,)


def test_without_an_example_there_is_nothing_to_learn(loaded: Loaded) -> None:
    with pytest.raises(FedCoWProError, match="no annotated volume"):
        fine_tune(loaded, [], recipe=RECIPE)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"minutes": -1.0}, {"minutes": float("inf")}])
def test_no_time_and_no_steps_are_refused(scans: Path, loaded: Loaded, wrong: dict[str, float]) -> None:
    with pytest.raises(FedCoWProError, match=r"minutes|steps"):
        fine_tune(loaded, [example(scans)], recipe=RECIPE, **wrong)  # type: ignore[arg-type]


def test_each_example_is_prepared_as_its_own_modality(scans: Path, loaded: Loaded) -> None:
    given = [example(scans), example(scans)]
    model = fine_tune(loaded, given, recipe=RECIPE, modality=["ct", "mr"], stop=lambda: True)
    assert [one["modality"] for one in model.card["examples"]] == ["ct", "mr"]


def test_other_encoders_and_empty_annotations_are_refused(scans: Path, loaded: Loaded, tiny_checkpoint: Path) -> None:
    with pytest.raises(FedCoWProError, match="tiny"):
        fine_tune(load_predictor(tiny_checkpoint), [example(scans)])
    with pytest.raises(FedCoWProError, match="labels"):
        fine_tune(loaded, [example(scans)], organs={250: "nothing"})


def test_the_class_goes_the_whole_way(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning, "Recipe", lambda distortion: RECIPE)
    segmenter = OneShotSegmenter(organs=[1]).set_support(scans / "image_1.nii.gz", scans / "label_1.nii.gz")
    segmenter.finetune(str(scans / "image_*.nii.gz"), steps=6, progress=False)
    assert segmenter.organ_model_.card["unlabelled"] == {"ct": 2, "mr": 0}  # the example is none of them
    found = segmenter.predict(scans / "image_3.nii.gz")
    path = segmenter.save(tmp_path / "organs.safetensors")
    fresh = OneShotSegmenter.load(path)
    np.testing.assert_array_equal(fresh.predict(scans / "image_3.nii.gz").labels, found.labels)
    with pytest.raises(FedCoWProError, match="its own organs"):
        fresh.set_support(scans / "image_1.nii.gz", scans / "label_1.nii.gz")
    for parameters in ({"organs": [2]}, {"spacing": 2.0}, {"inference": {"refine": 3}}):
        with pytest.raises(FedCoWProError):
            OneShotSegmenter.load(path, **parameters)
    segmenter.fit([scans / "image_2.nii.gz"], steps=1, progress=False)
    assert not hasattr(segmenter, "organ_model_")  # it began with another encoder
    segmenter.finetune(scans / "image_2.nii.gz", steps=1, progress=False)
    segmenter.set_support(scans / "image_1.nii.gz", scans / "label_1.nii.gz")
    assert not hasattr(segmenter, "organ_model_")
    for wrong in (scans, None, iter(())):
        with pytest.raises(FedCoWProError):
            segmenter.finetune(wrong, steps=1, progress=False)  # type: ignore[arg-type]


def test_prototypes_label_volumes_of_the_examples_modality_for_the_first_round(
    scans: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Unlabelled] = []

    class Kept(FineTuning):
        def __init__(self, encoder, examples, organs, unlabelled, recipe, seed, device):  # type: ignore[no-untyped-def]
            given.extend(unlabelled)
            super().__init__(encoder, examples, organs, unlabelled, recipe, seed, device)

    monkeypatch.setattr(fine_tuning, "FineTuning", Kept)
    told: list[tuple[int, int]] = []
    own = volume(scans, 2)
    other = (np.zeros((3, 64, 64), np.float32) + np.arange(64, dtype=np.float32), 4.0, "mr")
    fine_tune(
        loaded, [example(scans)], [own], prepared=[other], organs={1: "liver", 4: "spleen"},  # type: ignore[list-item]
        recipe=RECIPE, on_volume=lambda done, of: told.append((done, of)), stop=lambda: bool(told),
    )  # fmt: skip
    guessed, unguessed = given
    assert unguessed.guess is None
    assert told == [(0, 1)]
    assert guessed.guess is not None
    labels, sure = guessed.guess
    # The same masks as the pipeline's, before its parts are sorted out: liver is 1, spleen 2.
    image, annotation = example(scans)
    config = loaded.predictor.config.model_copy(update={"keep_components": False})
    predictor = OneShotPredictor(loaded.predictor.model, config)
    support = build_support(predictor, [(encode_volume(predictor, image, loaded.prepare["ct"]), annotation)], (1, 4))
    masks = segment_encoded(
        predictor, support,
        encode_volume(predictor, own, loaded.prepare["ct"]),
    )  # fmt: skip
    found = Placement.choose(own, loaded.prepare["ct"]).to_prepared_labels(masks.labels)
    assert dice(labels == 1, found == 1) > 0.98
    assert dice(labels == 2, found == 4) > 0.98
    assert sure[labels > 0].min() >= round(255 * loaded.predictor.config.threshold) - 1
