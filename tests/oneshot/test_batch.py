"""From files to files: masks lie on each query's own grid, whatever its axes, and show the same anatomy."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from common import PLAIN
from dicom_files import write_series
from fedcowpro.config import ModelConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.model.checkpoint import save_checkpoint
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.batch import ByExample, Segmented, Support, load_support, segment_files
from fedcowpro.oneshot.batch_record import write_run
from fedcowpro.oneshot.loading import Loaded, load_predictor
from fedcowpro.reports.preview import write_preview
from fedcowpro.volume.dicom import find_series
from fedcowpro.volume.dicom.seg_reader import organs_of, write_segmentation
from fedcowpro.volume.find import output_names
from fedcowpro.volume.nifti import read_image
from fedcowpro.volume.preprocess import guess_modality
from fedcowpro.volume.read import read_labels, read_volume

# All 48 ways in which a file's axes can lie in the patient.
AXES = st.tuples(st.permutations(("RL", "AP", "SI")), st.tuples(*[st.integers(0, 1)] * 3)).map(
    lambda drawn: "".join(ends[way] for ends, way in zip(*drawn, strict=True))
)


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> Loaded:
    return load_predictor(tiny_checkpoint, PLAIN.model_dump())


@pytest.fixture(scope="module")
def support(loaded: Loaded, phantoms: Path) -> Support:
    return load_support(loaded.predictor, [pair(phantoms, "1")], loaded.prepare)


def pair(phantoms: Path, case: str) -> tuple[Path, Path]:
    return phantoms / "ct" / f"image_{case}.nii.gz", phantoms / "ct" / f"label_{case}.nii.gz"


def segment(loaded: Loaded, support: Support, queries: Sequence[Path], out: Path, **options: Any) -> list[Segmented]:
    return segment_files(ByExample(loaded.predictor, support, loaded.prepare), queries, out, **options)


def reorient(path: Path, axes: str, target: Path) -> Path:
    """The same anatomy with other voxel axes."""
    image = nib.load(path)
    change = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(axes))
    )
    nib.save(image.as_reoriented(change), target)
    assert "".join(nib.aff2axcodes(nib.load(target).affine)) == axes
    return target


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def in_ras(path: Path) -> np.ndarray:
    return np.asanyarray(nib.as_closest_canonical(nib.load(path)).dataobj)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(axes=AXES)
def test_masks_lie_on_the_querys_own_grid(
    loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path, axes: str
) -> None:
    """Any permutation and flip of the file's axes."""
    original = phantoms / "ct" / "image_3.nii.gz"
    query = reorient(original, axes, tmp_path / "turned.nii.gz")
    plain, turned = segment(loaded, support, [original, query], tmp_path / "out")
    assert turned.mask == tmp_path / "out" / "turned_mask.nii.gz"
    image, mask = nib.load(query), nib.load(turned.mask)
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
    assert mask.get_data_dtype() == np.uint8
    assert set(np.unique(voxels(turned.mask))) <= {0, *support.organs}
    expected, found = in_ras(plain.mask), in_ras(turned.mask)
    assert expected.any()
    assert (expected != found).mean() < 1e-3  # a header's rounding may move a border
    assert turned.voxels == pytest.approx(plain.voxels, rel=0.02)


@pytest.mark.parametrize("axes", ["LPS", "SPL"])
def test_the_supports_axes_do_not_matter(
    loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path, axes: str
) -> None:
    image, mask = pair(phantoms, "1")
    turned = load_support(
        loaded.predictor,
        [(reorient(image, axes, tmp_path / "i.nii.gz"), reorient(mask, axes, tmp_path / "m.nii.gz"))],
        loaded.prepare,
    )
    query = [phantoms / "ct" / "image_3.nii.gz"]
    (one,), (two,) = (segment(loaded, s, query, tmp_path / name) for s, name in ((support, "a"), (turned, "b")))
    assert (voxels(one.mask) != voxels(two.mask)).mean() < 1e-3


def test_counts_and_millilitres(loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path) -> None:
    query = phantoms / "ct" / "image_3.nii.gz"
    (result,) = segment(loaded, support, [query], tmp_path)
    found = voxels(result.mask)
    voxel = float(np.prod(nib.load(query).header.get_zooms()))
    assert set(result.voxels) == set(support.organs)
    for organ in support.organs:
        assert result.voxels[organ] == (found == organ).sum()
        assert result.millilitres[organ] == pytest.approx((found == organ).sum() * voxel / 1000, rel=1e-4)
    assert result.modality == "ct"
    assert result.query == query


def test_probabilities_are_written_on_request(loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path) -> None:
    query = phantoms / "ct" / "image_2.nii.gz"
    (plain,) = segment(loaded, support, [query], tmp_path / "plain")
    assert [path.name for path in plain.mask.parent.iterdir()] == ["image_2_mask.nii.gz"]
    (result,) = segment(loaded, support, [query], tmp_path / "both", probabilities=True)
    stored = nib.load(tmp_path / "both" / "image_2_probabilities.nii.gz")
    scores, labels = np.asanyarray(stored.dataobj), voxels(result.mask)
    assert scores.shape == (*nib.load(query).shape, len(support.organs))
    assert scores.dtype == np.float32
    assert scores.min() >= 0
    assert scores.max() <= 1 + 1e-6
    np.testing.assert_allclose(stored.affine, nib.load(query).affine, atol=1e-5)
    np.testing.assert_array_equal(labels, voxels(plain.mask))
    likeliest = np.array(support.organs)[scores.argmax(-1)]
    np.testing.assert_array_equal(labels, np.where(scores.max(-1) > loaded.predictor.config.threshold, likeliest, 0))


def test_several_supports(loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path) -> None:
    query = [phantoms / "ct" / "image_3.nii.gz"]
    pairs = [pair(phantoms, case) for case in ("1", "2")]
    both = load_support(loaded.predictor, pairs, loaded.prepare)
    twice = load_support(loaded.predictor, [pairs[0], pairs[0]], loaded.prepare)
    masks = {}
    for name, chosen in (("one", support), ("both", both), ("twice", twice)):
        assert chosen.organs == tuple(range(1, 10))
        masks[name] = voxels(segment(loaded, chosen, query, tmp_path / name)[0].mask)
    assert (masks["one"] != masks["twice"]).mean() < 1e-3  # the same example twice adds nothing
    assert (masks["one"] != masks["both"]).mean() > 1e-3


def test_organs_of_supports_are_joined(loaded: Loaded, phantoms: Path, tmp_path: Path) -> None:
    """One support shows only the liver, the other only the spleen."""
    pairs = []
    for case, organ in (("1", 1), ("2", 4)):
        image, mask = pair(phantoms, case)
        stored = nib.load(mask)
        alone = np.where(np.asanyarray(stored.dataobj) == organ, organ, 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(alone, stored.affine), tmp_path / f"only_{case}.nii.gz")
        pairs.append((image, tmp_path / f"only_{case}.nii.gz"))
    joined = load_support(loaded.predictor, pairs, loaded.prepare)
    assert joined.organs == (1, 4)
    (result,) = segment(loaded, joined, [phantoms / "ct" / "image_3.nii.gz"], tmp_path / "out")
    assert set(result.voxels) == {1, 4}


def test_every_distinct_slice_is_encoded_once(phantoms: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    fresh = load_predictor(tiny_checkpoint, {"support_slices": "all"})
    _, mask = pair(phantoms, "1")
    shown = int((in_ras(mask) > 0).any((0, 1)).sum())
    example = load_support(fresh.predictor, [pair(phantoms, "1")], fresh.prepare)
    assert fresh.predictor.encoded_slices == shown
    segment(fresh, example, [phantoms / "ct" / f"image_{case}.nii.gz" for case in ("2", "3")], tmp_path)
    assert fresh.predictor.encoded_slices == shown + 20


def test_an_mr_volume_can_be_asked_by_a_ct_example(
    loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path
) -> None:
    query = phantoms / "t2" / "image_1.nii.gz"
    (guessed,), (forced,) = (
        segment(loaded, support, [query], tmp_path / str(kind), modality=kind) for kind in (None, "mr")
    )
    assert guessed.modality == forced.modality == "mr"
    np.testing.assert_array_equal(voxels(guessed.mask), voxels(forced.mask))


def test_modalities_are_told_by_their_values(phantoms: Path, tmp_path: Path) -> None:
    assert guess_modality(read_image(phantoms / "ct" / "image_1.nii.gz")) == "ct"
    stored = nib.load(phantoms / "t2" / "image_1.nii.gz")
    assert guess_modality(read_image(phantoms / "t2" / "image_1.nii.gz")) == "mr"
    ringing = np.asanyarray(stored.dataobj).copy()
    ringing[3, 3, :5] = -60  # interpolation leaves a few negative values
    nib.save(nib.Nifti1Image(ringing, stored.affine), tmp_path / "mr.nii.gz")
    assert guess_modality(read_image(tmp_path / "mr.nii.gz")) == "mr"


def test_components_are_kept_on_request(phantoms: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    query = [phantoms / "ct" / "image_3.nii.gz"]
    masks = {}
    for keep in (False, True):
        chosen = load_predictor(tiny_checkpoint, {**PLAIN.model_dump(), "keep_components": keep})
        example = load_support(chosen.predictor, [pair(phantoms, "1")], chosen.prepare)
        masks[keep] = voxels(segment(chosen, example, query, tmp_path / str(keep))[0].mask)
    spleen = [ndimage.label(masks[keep] == 4)[1] for keep in (False, True)]
    assert spleen[0] > spleen[1] == 1
    assert not ((masks[True] > 0) & (masks[True] != masks[False])).any()


def test_queries_of_one_name_keep_their_folders(
    loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path
) -> None:
    """`*/ct.nii.gz`: results lie as their queries do, and a second call has nothing to do."""
    for patient, case in (("ward/p1", "1"), ("ward/p2", "2"), ("p3", "3")):
        (tmp_path / patient).mkdir(parents=True)
        shutil.copy(phantoms / "ct" / f"image_{case}.nii.gz", tmp_path / patient / "ct.nii.gz")
    queries = [tmp_path / name / "ct.nii.gz" for name in ("ward/p1", "ward/p2", "p3")]
    options = {"settings": "0", "probabilities": True, "preview": write_preview}
    results = segment(loaded, support, queries, tmp_path / "out", **options)
    names = ("ward/p1", "ward/p2", "p3")
    assert [result.mask for result in results] == [tmp_path / "out" / name / "ct_mask.nii.gz" for name in names]
    for name in names:
        beside = {path.name for path in (tmp_path / "out" / name).iterdir()}
        assert beside == {"ct_mask.nii.gz", "ct_mask.json", "ct_probabilities.nii.gz", "ct_preview.png"}
    (alone,) = segment(loaded, support, queries[1:2], tmp_path / "alone")
    assert alone.mask == tmp_path / "alone" / "ct_mask.nii.gz"
    np.testing.assert_array_equal(voxels(alone.mask), voxels(results[1].mask))
    again = segment(loaded, support, queries, tmp_path / "out", **options)
    assert [result.kept for result in again] == [True] * 3
    (tmp_path / "out" / "ward" / "p2" / "ct_preview.png").unlink()
    again = segment(loaded, support, queries, tmp_path / "out", **options)
    assert [result.kept for result in again] == [True, False, True]


def test_names_of_results_do_not_leave_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert output_names([Path("../a/x.nii.gz"), Path("y.nii")]) == [Path("x"), Path("y")]
    assert output_names([Path("../a/x.nii.gz"), Path("x.nii"), Path("y.nii")]) == [
        Path("a/x"),
        Path("here/x"),
        Path("here/y"),
    ]
    assert output_names([Path("x.nii.gz"), Path("deep/x.nii.gz")]) == [Path("x"), Path("deep/x")]


def test_two_queries_of_one_name_and_folder_are_refused_before_anything_is_written(
    loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    queries = [tmp_path / "image_1.nii.gz", tmp_path / "image_1.nii"]
    shutil.copy(phantoms / "ct" / "image_1.nii.gz", queries[0])
    nib.save(nib.load(queries[0]), queries[1])
    with pytest.raises(FedCoWProError, match="would both be written") as caught:
        segment(loaded, support, queries, out)
    assert str(queries[0]) in caught.value.got
    assert str(queries[1]) in caught.value.got
    assert not out.exists()


def test_a_missing_query_is_refused_before_anything_is_written(
    loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(FedCoWProError, match="no file"):
        segment(loaded, support, [phantoms / "ct" / "image_1.nii.gz", tmp_path / "none.nii.gz"], out)
    assert not out.exists()


def test_a_finished_result_stays_when_a_later_query_fails(
    loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path
) -> None:
    stored = nib.load(phantoms / "ct" / "image_1.nii.gz")
    broken = np.asanyarray(stored.dataobj).astype(np.float32)
    broken[4, 4, 4] = np.nan
    nib.save(nib.Nifti1Image(broken, stored.affine), tmp_path / "broken.nii.gz")
    out, told = tmp_path / "out", []
    queries = [phantoms / "ct" / "image_2.nii.gz", tmp_path / "broken.nii.gz"]
    with pytest.raises(FedCoWProError, match=r"broken\.nii\.gz: 1 voxels are NaN"):
        segment(loaded, support, queries, out, on_query=told.append)
    assert [path.name for path in out.iterdir()] == ["image_2_mask.nii.gz"]
    assert [result.mask.name for result in told] == ["image_2_mask.nii.gz"]


def test_only_the_organs_asked_for_are_segmented(loaded: Loaded, phantoms: Path, tmp_path: Path) -> None:
    some = load_support(loaded.predictor, [pair(phantoms, "1")], loaded.prepare, organs=[1, 4])
    assert some.organs == (1, 4)
    (result,) = segment(loaded, some, [phantoms / "ct" / "image_3.nii.gz"], tmp_path)
    assert set(np.unique(voxels(result.mask))) <= {0, 1, 4}
    with pytest.raises(FedCoWProError, match="no voxel of label 99; its labels"):
        load_support(loaded.predictor, [pair(phantoms, "1")], loaded.prepare, organs=[99])


def test_supports_that_cannot_be_used(loaded: Loaded, phantoms: Path, tmp_path: Path) -> None:
    image, mask = pair(phantoms, "1")
    stored = nib.load(mask)
    nib.save(nib.Nifti1Image(np.zeros(stored.shape, np.uint8), stored.affine), tmp_path / "empty.nii.gz")
    with pytest.raises(FedCoWProError, match="no support"):
        load_support(loaded.predictor, [], loaded.prepare)
    with pytest.raises(FedCoWProError, match=r"empty\.nii\.gz: the mask is empty"):
        load_support(loaded.predictor, [(image, tmp_path / "empty.nii.gz")], loaded.prepare)
    nib.save(stored.slicer[:, :, 1:], tmp_path / "short.nii.gz")
    with pytest.raises(FedCoWProError, match="shape"):
        load_support(loaded.predictor, [(image, tmp_path / "short.nii.gz")], loaded.prepare)


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The default encoder before training, as a checkpoint."""
    config, path = ModelConfig(encoder="lite0"), tmp_path_factory.mktemp("lite0") / "model.safetensors"
    save_checkpoint(path, build_model(config, 0).state_dict(), {"model": config.model_dump(mode="json"), "seed": 0})
    return load_predictor(path)


@pytest.mark.parametrize(
    ("image", "mask", "organs", "modality"),
    [("example_ct_sm", "example_seg", (1, 2, 3, 5), "ct"), ("example_mr_sm", "example_seg_mr", (1, 2, 3, 5), "mr")],
)
def test_real_volumes_segment_themselves(
    lite0: Loaded, real_data: Path, tmp_path: Path, image: str, mask: str, organs: tuple[int, ...], modality: str
) -> None:
    """CT in RAS and MR in LPS of 3 mm, as their owners exported them; spleen, kidneys and liver."""
    folder = real_data / "totalseg"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name} among the real volumes")
    query, stored = folder / f"{image}.nii.gz", nib.load(folder / f"{mask}.nii.gz")
    labels = np.asanyarray(stored.dataobj)
    labels = np.where(np.isin(labels, organs), labels, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, stored.affine), tmp_path / "mask.nii.gz")
    example = load_support(lite0.predictor, [(query, tmp_path / "mask.nii.gz")], lite0.prepare)
    (result,) = segment(lite0, example, [query], tmp_path / "out")
    assert result.modality == modality
    opened = nib.load(result.mask)
    assert opened.shape == nib.load(query).shape
    np.testing.assert_allclose(opened.affine, nib.load(query).affine, atol=1e-4)
    assert nib.aff2axcodes(opened.affine) == nib.aff2axcodes(nib.load(query).affine)
    assert opened.get_data_dtype() == np.uint8
    found = voxels(result.mask)
    assert set(np.unique(found)) == {0, *organs}
    liver, truth = found == 5, labels == 5
    assert 2 * (liver & truth).sum() / (liver.sum() + truth.sum()) > 0.6


# ---------------------------------------------------------------- DICOM


def dicom_of(image: Path, folder: Path) -> Path:
    volume = read_image(image)
    write_series(folder, np.round(volume.voxels), volume.spacing)
    return folder


def test_a_dicom_series_is_segmented_like_its_nifti_file(
    loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path
) -> None:
    """Masks as NIfTI and as DICOM-SEG lie on the series, and show what the NIfTI file's mask shows."""
    image, _ = pair(phantoms, "3")
    series = dicom_of(image, tmp_path / "scan 3")
    (plain,) = segment(loaded, support, [image], tmp_path / "plain")
    (nifti,) = segment(loaded, support, [series], tmp_path / "nifti")
    assert nifti.mask == tmp_path / "nifti" / "scan 3_mask.nii.gz"
    assert (in_ras(nifti.mask) != in_ras(plain.mask)).mean() < 1e-3
    names = {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
    (seg,) = segment(loaded, support, [series], tmp_path / "seg", file_format="dicom-seg", organs=names)
    assert seg.mask == tmp_path / "seg" / "scan 3_mask.dcm"
    like = read_volume(series)
    np.testing.assert_array_equal(read_labels(seg.mask, like).voxels, read_labels(nifti.mask, like).voxels)
    assert names.items() <= organs_of(seg.mask).items()


def test_a_dicom_series_and_segmentation_may_be_the_example(loaded: Loaded, phantoms: Path, tmp_path: Path) -> None:
    image, mask = pair(phantoms, "1")
    series = dicom_of(image, tmp_path / "scan")
    (one,) = find_series(series)
    labels = read_labels(mask, read_image(image)).voxels
    write_segmentation(tmp_path / "seg.dcm", labels, one, {v: f"organ {v}" for v in range(1, 10)})
    plain = load_support(loaded.predictor, [(image, mask)], loaded.prepare)
    dicom = load_support(loaded.predictor, [(series, tmp_path / "seg.dcm")], loaded.prepare)
    assert dicom.organs == plain.organs
    for organ in plain.organs:
        assert (dicom.masks(organ) != plain.masks(organ)).mean() < 1e-3


def test_dicom_seg_needs_a_dicom_series(loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="DICOM-SEG of"):
        segment(loaded, support, [pair(phantoms, "3")[0]], tmp_path / "out", file_format="dicom-seg")
    assert not (tmp_path / "out").exists()


def test_a_mask_that_somebody_changed_is_never_replaced(
    loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path
) -> None:
    query = phantoms / "ct" / "image_2.nii.gz"
    (made,) = segment(loaded, support, [query], tmp_path, settings="0")
    stored = nib.load(made.mask)
    corrected = np.asanyarray(stored.dataobj).copy()
    corrected[:4, :4, :4] = 77
    nib.save(nib.Nifti1Image(corrected, stored.affine), made.mask)
    content = made.mask.read_bytes()
    for options in ({"settings": "0"}, {"settings": "1"}, {"settings": "1", "resume": False, "overwrite": True}):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            (kept,) = segment(loaded, support, [query], tmp_path, **options)
        assert made.mask.read_bytes() == content
        assert (kept.kept, kept.changed) == (True, True)
        assert kept.organs[77].voxels == 64
        assert any("was changed since it was written" in str(one.message) for one in said)
    made.mask.rename(tmp_path / "mine.nii.gz")
    (again,) = segment(loaded, support, [query], tmp_path, settings="1")
    assert not again.kept


def test_other_options_replace_a_mask_only_on_request(
    loaded: Loaded, support: Support, phantoms: Path, tmp_path: Path
) -> None:
    query = phantoms / "ct" / "image_2.nii.gz"
    (made,) = segment(loaded, support, [query], tmp_path, settings="0")
    content = made.mask.read_bytes()
    with pytest.raises(FedCoWProError, match="made with other options"):
        segment(loaded, support, [query], tmp_path, settings="1")
    assert made.mask.read_bytes() == content
    (again,) = segment(loaded, support, [query], tmp_path, settings="1", overwrite=True)
    assert not again.kept


def test_a_table_with_other_columns_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "summary.csv").write_text("query,organ,judged by\na.nii.gz,1,me\n")
    with pytest.warns(UserWarning, match="summary-earlier1.csv"):
        write_run(tmp_path, [], {Path("b.nii.gz"): "broken"}, {}, {}, "segment")
    assert (tmp_path / "summary-earlier1.csv").read_text() == "query,organ,judged by\na.nii.gz,1,me\n"
    assert "b.nii.gz" in (tmp_path / "summary.csv").read_text()
