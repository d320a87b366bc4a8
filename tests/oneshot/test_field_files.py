"""Files from the field through segment and Python alike: what is said, kept and unknown."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedcowpro import OneShotSegmenter
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.oneshot.annotation import read_example
from fedcowpro.oneshot.batch import ByExample, load_support, segment_files
from fedcowpro.oneshot.batch_record import Segmented, write_run
from fedcowpro.oneshot.loading import Loaded, load_predictor
from fedcowpro.volume.read import read_labels, read_volume

LIVER = 1


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """The model of the package."""
    return load_predictor(None)


@pytest.fixture
def by_example(tiny_checkpoint: Path, phantoms: Path) -> ByExample:
    tiny = load_predictor(tiny_checkpoint)
    example = load_support(
        tiny.predictor, [(phantoms / "ct/image_1.nii.gz", phantoms / "ct/label_1.nii.gz")], tiny.prepare
    )
    return ByExample(tiny.predictor, example, tiny.prepare)


def liver_only(phantoms: Path, case: str, target: Path, known: slice, value: int) -> Path:
    """The liver in the slices that are known (from the foot), and another value in all voxels of the others."""
    stored = nib.load(phantoms / "ct" / f"label_{case}.nii.gz")
    labels = nib.as_closest_canonical(stored)
    whole = (np.asanyarray(labels.dataobj) == LIVER).astype(np.uint8)
    drawn = np.full_like(whole, value)
    drawn[:, :, known] = whole[:, :, known]
    back = nib.orientations.ornt_transform(nib.io_orientation(labels.affine), nib.io_orientation(stored.affine))
    target.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(drawn, labels.affine).as_reoriented(back), target)
    return target


def dice(labels: np.ndarray, phantoms: Path, case: str) -> float:
    truth = np.asanyarray(nib.load(phantoms / "ct" / f"label_{case}.nii.gz").dataobj) == LIVER
    return float(2 * ((labels == LIVER) & truth).sum() / ((labels == LIVER).sum() + truth.sum()))


# ---------------------------------------------------------------- unknown voxels


def test_unknown_voxels_of_an_example_are_neither_background_nor_an_organ(
    loaded: Loaded, phantoms: Path, tmp_path: Path
) -> None:
    image = phantoms / "ct" / "image_1.nii.gz"
    query, known = phantoms / "ct" / "image_2.nii.gz", slice(4, 6)
    data = tmp_path / "Dataset501"
    unknown = liver_only(phantoms, "1", data / "labelsTr" / "case1.nii.gz", known, 7)
    (data / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": LIVER, "ignore": 7}}))
    empty = liver_only(phantoms, "1", tmp_path / "empty.nii.gz", known, 0)
    _, annotation = read_example(image, unknown)
    assert annotation.hidden.mean() == pytest.approx(0.8)
    found: dict[str, float] = {}
    for name, mask in (("unknown", unknown), ("background", empty)):
        support = load_support(loaded.predictor, [(image, mask)], loaded.prepare)
        assert support.organs == (LIVER,)
        (result,) = segment_files(ByExample(loaded.predictor, support, loaded.prepare), [query], tmp_path / name)
        found[name] = dice(np.asanyarray(nib.load(result.mask).dataobj), phantoms, "2")
        if name == "unknown":
            prediction = OneShotSegmenter.load().set_support(image, mask).predict(query, probabilities=False)
            np.testing.assert_array_equal(prediction.labels, np.asanyarray(nib.load(result.mask).dataobj))
    assert found["unknown"] > found["background"] + 0.1


# ---------------------------------------------------------------- DICOM


def dicom(folder: Path, image: Path, **options: Any) -> Path:
    pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
    from dicom_files import write_series

    volume = read_volume(image)
    write_series(folder, np.round(volume.voxels), volume.spacing, **options)
    return folder


def test_slices_that_are_left_out_are_said_and_recorded(by_example: ByExample, phantoms: Path, tmp_path: Path) -> None:
    def other_pixels(dataset: Any, number: int) -> None:
        if number < 2:
            dataset.PixelSpacing = ["9", "9"]

    query = dicom(tmp_path / "series", phantoms / "ct" / "image_2.nii.gz", edit=other_pixels)
    said = r"left out .* and 1 more: fewer than 3 parallel slices"
    for kept in (False, True):
        with pytest.warns(UserWarning, match=said):
            (result,) = segment_files(by_example, [query], tmp_path / "out", settings="0")
        assert result.kept == kept
        assert len(result.notes) == 1
    record = json.loads((tmp_path / "out" / "series_mask.json").read_text())
    assert record["notes"] == list(result.notes)
    write_run(tmp_path / "out", [result], {}, {}, {}, "fedcowpro segment")
    (listed,) = json.loads((tmp_path / "out" / "segment.json").read_text())["queries"]
    assert listed["notes"] == list(result.notes)
    segmenter = OneShotSegmenter.load()
    segmenter.set_support(phantoms / "ct" / "image_1.nii.gz", phantoms / "ct" / "label_1.nii.gz")
    with pytest.warns(UserWarning, match=said):
        assert segmenter.predict(query, probabilities=False).labels.shape[2] == 8


def test_the_header_of_dicom_files_says_the_modality(by_example: ByExample, phantoms: Path, tmp_path: Path) -> None:
    """MR with values as a CT has them, and a CT without RescaleIntercept."""
    from dicom_files import write_series

    ct = phantoms / "ct" / "image_2.nii.gz"
    hounsfield = read_volume(ct)
    write_series(tmp_path / "mr", np.round(hounsfield.voxels), hounsfield.spacing, modality="mr")
    with pytest.warns(UserWarning, match="taken for MR, but its values"):
        (as_mr,) = segment_files(by_example, [tmp_path / "mr"], tmp_path / "out")
    assert as_mr.modality == "mr"

    def stored_only(dataset: Any, _: int) -> None:
        del dataset.RescaleIntercept, dataset.RescaleSlope

    bare = dicom(tmp_path / "bare", ct, edit=stored_only)
    with pytest.warns(UserWarning, match="a CT without RescaleIntercept"):
        volume = read_volume(bare)
    assert volume.modality == "ct"
    np.testing.assert_allclose(volume.voxels, np.round(hounsfield.voxels))


def test_dicom_seg_of_a_multi_frame_file(by_example: ByExample, phantoms: Path, tmp_path: Path) -> None:
    """Named by its UID, as archives export it."""
    pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
    from dicom_files import write_enhanced

    volume = read_volume(phantoms / "ct" / "image_2.nii.gz")
    query = tmp_path / "2.25.4711.17"
    write_enhanced(query, [np.round(volume.voxels)], volume.spacing, modality="ct")
    (seg,) = segment_files(by_example, [query], tmp_path / "seg", file_format="dicom-seg")
    (outlined,) = segment_files(by_example, [query], tmp_path / "rt", file_format="rtstruct")
    (plain,) = segment_files(by_example, [query], tmp_path / "nifti")
    assert (seg.mask.name, plain.mask.name) == ("2.25.4711.17_mask.dcm", "2.25.4711.17_mask.nii.gz")
    like = read_volume(query)
    for other in (seg, outlined):
        np.testing.assert_array_equal(read_labels(other.mask, like).voxels, read_labels(plain.mask, like).voxels)


# ---------------------------------------------------------------- results of earlier calls


def segmented(out: Path, name: str) -> Segmented:
    (out / f"{name}_mask.nii.gz").write_bytes(b"mask")
    (out / name).write_bytes(b"image")
    return Segmented(out / name, out / f"{name}_mask.nii.gz", "ct", {})


def test_rows_of_earlier_runs_stay(tmp_path: Path) -> None:
    """A later call into the same folder replaces the rows of its own queries alone."""
    write_run(tmp_path, [segmented(tmp_path, "a")], {tmp_path / "b": "broken"}, {}, {}, "first")
    write_run(tmp_path, [segmented(tmp_path, "b")], {tmp_path / "c": "broken"}, {}, {}, "second")
    record = json.loads((tmp_path / "segment.json").read_text())
    became = [(Path(one["query"]).name, one["status"]) for one in record["queries"]]
    assert became == [("a", "made"), ("b", "made"), ("c", "failed")]
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert [Path(row["query"]).name for row in csv.DictReader(file)] == ["c"]  # the others have no organ


def test_a_result_in_another_format_is_somebodys_too(by_example: ByExample, phantoms: Path, tmp_path: Path) -> None:
    """Its record stands beside both forms of the name."""
    first, second = (tmp_path / name for name in ("p1", "p2"))
    dicom(first / "ct", phantoms / "ct" / "image_2.nii.gz")
    dicom(second / "ct", phantoms / "ct" / "image_3.nii.gz")
    segment_files(by_example, [first / "ct"], tmp_path / "out", settings="0")
    before = (tmp_path / "out" / "ct_mask.json").read_bytes()
    with pytest.raises(FedCoWProError, match="another query"):
        segment_files(by_example, [second / "ct"], tmp_path / "out", settings="1", file_format="dicom-seg")
    assert (tmp_path / "out" / "ct_mask.json").read_bytes() == before


def test_a_full_disk_leaves_nothing_half_written(
    by_example: ByExample, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        segment_files(by_example, [phantoms / "ct" / "image_2.nii.gz"], tmp_path / "out", settings="0")
    assert list((tmp_path / "out").iterdir()) == []


def test_plain_volumes_get_no_note(by_example: ByExample, phantoms: Path, tmp_path: Path) -> None:
    """CT as scanned, and clipped to a window of soft tissue as published ones are."""
    stored = nib.load(phantoms / "ct" / "image_2.nii.gz")
    clipped = np.clip(np.asanyarray(stored.dataobj), -125, 275)
    nib.save(nib.Nifti1Image(clipped, stored.affine), tmp_path / "clipped.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = segment_files(
            by_example, [phantoms / "ct" / "image_2.nii.gz", tmp_path / "clipped.nii.gz"], tmp_path / "out"
        )
    assert [result.modality for result in results] == ["ct", "ct"]
