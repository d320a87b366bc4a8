"""Faults in download folders are named: the file, what was expected, what to do."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from downloads import Patient
from test_downloads import DATASETS

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import FoundScans, Options
from fedcowpro.data.datasets.registry import adapter_for
from fedcowpro.data.datasets.scan import Scan

# An image and its label map, below the folder.
FILES = {
    "btcv": ("RawData/Training/img/img0010.nii.gz", "RawData/Training/label/label0010.nii.gz"),
    "flare22": (
        "FLARE22Train/images/FLARE22_Tr_0001_0000.nii.gz",
        "FLARE22Train/labels/FLARE22_Tr_0001.nii.gz",
    ),
    "amos22": ("imagesTr/amos_0004.nii.gz", "labelsTr/amos_0004.nii.gz"),
    "mogambo": ("MOGaMB/images/P02.nii.gz", "MOGaMB/masks/P02.nii.gz"),
    "msd": ("Task09_Spleen/imagesTr/spleen_10.nii.gz", "Task09_Spleen/labelsTr/spleen_10.nii.gz"),
    "nnunet": ("Dataset001_Abdomen/imagesTr/case_9_0000.nii.gz", "Dataset001_Abdomen/labelsTr/case_9.nii.gz"),
    "alpnet": ("image_2.nii.gz", "label_2.nii.gz"),
}
COMPLETE = sorted(FILES.keys() - {"alpnet"})  # those that promise a label map for every training case
Root = Callable[[str], tuple[Path, Path, Path]]


@pytest.fixture
def written(tmp_path: Path, patient: Patient) -> Root:
    """Writes a dataset; gives its folder, an image and its label map."""

    def write(kind: str) -> tuple[Path, Path, Path]:
        DATASETS[kind][1](tmp_path, patient)
        image, labels = (tmp_path / name for name in FILES[kind])
        if kind == "mogambo":  # a second case, so that one is left
            for path in (image, labels):
                shutil.copy(path.with_name("P01.nii.gz"), path)
        return tmp_path, image, labels

    return write


def find(root: Path, **options: Any) -> FoundScans:
    return adapter_for(root, None).find(root, Options(**options))


def scan_of(root: Path, image: Path) -> Scan:
    (scan,) = (scan for scan in find(root).scans if image in scan.image.files)
    return scan


@pytest.mark.parametrize("kind", COMPLETE)
def test_a_missing_mask_is_named(written: Root, kind: str) -> None:
    root, image, labels = written(kind)
    labels.unlink()
    with pytest.raises(FedCoWProError) as caught:
        find(root)
    assert str(image) in caught.value.got
    assert "has no label map" in caught.value.got
    assert str(labels.parent) in caught.value.expected
    assert "complete the download" in caught.value.remedy
    assert any(image in scan.image.files for scan in find(root, labels="").scans)


@pytest.mark.parametrize("kind", COMPLETE)
def test_a_mask_without_image_is_named(written: Root, kind: str) -> None:
    root, image, labels = written(kind)
    image.unlink()
    with pytest.raises(FedCoWProError) as caught:
        find(root)
    assert caught.value.got == f"{labels} has no image"
    assert str(image.parent) in caught.value.expected


def test_label_maps_of_alpnet_are_optional(written: Root) -> None:
    root, image, labels = written("alpnet")
    shutil.copy(labels, root / "label_7.nii.gz")
    labels.unlink()
    assert scan_of(root, image).labels is None
    assert find(root).notes == (f"{root}: left out because their images are missing: label_7.nii.gz",)


@pytest.mark.parametrize("kind", FILES)
def test_extra_files_are_noted_but_documents_and_hidden_files(written: Root, kind: str) -> None:
    root, image, _ = written(kind)
    before = find(root)
    for name in ("copy of something.nii", "notes.txt", ".hidden.nii.gz"):
        (image.parent / name).write_bytes(b"")
    after = find(root)
    assert [scan.id for scan in after.scans] == [scan.id for scan in before.scans]
    (note,) = set(after.notes) - set(before.notes)
    assert note.startswith(f"{image.parent}: left out")
    assert note.endswith(": copy of something.nii")


@pytest.mark.parametrize("kind", FILES)
def test_a_truncated_file_is_named_when_it_is_read(written: Root, kind: str) -> None:
    root, image, labels = written(kind)
    for path in (image, labels):
        path.write_bytes(path.read_bytes()[:-100])
    scan = scan_of(root, image)
    with pytest.raises(FedCoWProError, match=f"{image.name}: not a whole gzip file"):
        scan.image.read()
    assert scan.labels is not None
    with pytest.raises(FedCoWProError, match=f"{labels.name}: not a whole gzip file"):
        scan.labels.read(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", COMPLETE)
def test_an_unknown_label_is_named(written: Root, kind: str) -> None:
    root, image, labels = written(kind)
    file = nib.load(labels)
    drawn = np.asanyarray(file.dataobj).copy()
    drawn[3, 4, 5] = 77
    nib.save(nib.Nifti1Image(drawn, file.affine), labels)
    scan = scan_of(root, image)
    assert scan.labels is not None
    with pytest.raises(
        FedCoWProError, match=rf"{labels.name}: label value\(s\) 77\n  expected: values of this dataset"
    ):
        scan.labels.read(scan.image.read())


@pytest.mark.parametrize("kind", FILES)
def test_image_and_mask_changed_over_are_told(written: Root, kind: str) -> None:
    root, image, labels = written(kind)
    like = scan_of(root, image).image.read()
    image.rename(root / "kept")
    labels.rename(image)
    (root / "kept").rename(labels)
    scan = scan_of(root, image)
    assert scan.labels is not None
    with pytest.raises(FedCoWProError, match=rf"{labels.name}: \d+ voxel\(s\) that are no label, for example"):
        scan.labels.read(like)
    with pytest.raises(FedCoWProError, match=rf"{image.name}: whole numbers, \d+ different ones, as a label map"):
        scan.labels.read(scan.image.read())


@pytest.mark.parametrize("kind", ["btcv", "msd"])
def test_masks_of_two_patients_changed_over_are_told(written: Root, kind: str) -> None:
    root, image, labels = written(kind)
    other = next(path for path in sorted(labels.parent.iterdir()) if path != labels)
    other.rename(root / "kept")
    labels.rename(other)
    (root / "kept").rename(labels)
    scan = scan_of(root, image)
    assert scan.labels is not None
    with pytest.raises(FedCoWProError, match=rf"{labels.name}: affine differs from the image's"):
        scan.labels.read(scan.image.read())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "*.nii.gz"}, "--images with the dataset 'btcv'"),
        ({"labels": "*.nii.gz"}, "--labels with the dataset 'btcv'"),
        ({"part": "ct"}, "--part with the dataset 'btcv'"),
        ({"reuse_superpixels": True}, "--reuse-superpixels with the dataset 'btcv'"),
    ],
)
def test_options_that_do_not_apply_are_refused(written: Root, options: dict[str, object], message: str) -> None:
    root, _, _ = written("btcv")
    with pytest.raises(FedCoWProError, match=message):
        find(root, **options)


@pytest.mark.parametrize("name", sorted(FILES.keys() | {"chaos"}))
def test_a_folder_without_the_layout_is_told_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "thesis.docx").touch()
    adapter = adapter_for(tmp_path, name)
    assert not adapter.recognises(tmp_path)
    with pytest.raises(FedCoWProError) as caught:
        adapter.find(tmp_path, Options())
    assert str(tmp_path) in caught.value.got
    assert name == "mogambo" or "seen: thesis.docx" in caught.value.got
    assert name == "mogambo" or all(line in caught.value.expected for line in adapter.about.layout)


def test_parts_that_are_not_there_are_told(written: Root) -> None:
    root, _, labels = written("flare22")
    shutil.rmtree(root / "FLARE22_UnlabeledCase1-1000")
    with pytest.raises(FedCoWProError, match=r"folder of unlabelled cases with Case_\*_0000"):
        find(root, part="unlabelled")
    assert labels.is_file()


def test_a_part_of_amos_that_is_not_there(written: Root) -> None:
    root, image, _ = written("amos22")
    for name in ("imagesVa", "imagesTs"):
        shutil.rmtree(root / name)
        shutil.rmtree(root / name.replace("images", "labels"), ignore_errors=True)
    assert [scan.image.files for scan in find(root, part="ct").scans] == [(image,)]
    with pytest.raises(FedCoWProError, match="no mr case"):
        find(root, part="mr")


# ------------------------------------------------------------------ dataset.json


def edited(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("msd", lambda said: said.update(labels={"1": "spleen", "2": "spleen"}), "two labels of one name"),
        ("msd", lambda said: said.update(labels={"1": "spleen", "x": "liver"}), "cannot be used"),
        ("msd", lambda said: said.update(modality=["CT"]), "cannot be used"),
        (
            "msd",
            lambda said: said["training"].append({"image": "imagesTr/a.nii.gz"}),
            r"'training' or 'test' \('label'",
        ),
        ("msd", lambda said: said["test"].append("../../a.nii.gz"), r"'\.\./\.\./a\.nii\.gz'"),
        (
            "msd",
            lambda said: said["training"].append({"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}),
            r"no file .*imagesTr/a\.nii\.gz\n  expected: every image that .*dataset\.json lists",
        ),
        ("nnunet", lambda said: said.update(file_ending=".png"), r"files that end with '\.png'"),
        (
            "nnunet",
            lambda said: said.update(channel_names={"2": "T2"}),
            r"has no image\n.* .*/imagesTr/case_9_0002\.nii\.gz",
        ),
    ],
)
def test_a_description_that_cannot_be_used(
    written: Root, kind: str, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    root, image, _ = written(kind)
    edited(image.parents[1] / "dataset.json", change)
    with pytest.raises(FedCoWProError, match=message):
        find(root)


def test_a_broken_description_is_named_rather_than_passed_over(written: Root) -> None:
    root, image, _ = written("nnunet")
    (image.parents[1] / "dataset.json").write_text("{")
    with pytest.raises(FedCoWProError, match=r"dataset\.json cannot be used \(JSONDecodeError"):
        find(root)


def test_a_test_set_may_be_absent_as_a_whole(written: Root) -> None:
    root, image, _ = written("msd")
    shutil.rmtree(image.parents[1] / "imagesTs")
    assert [scan.id for scan in find(root).scans] == ["spleen_2", "spleen_10"]


def test_regions_of_nnunet_name_each_value_once(written: Root) -> None:
    root, image, _ = written("nnunet")
    labels = {"background": 0, "organs": [1, 2, 3], "kidneys": [2, 3], "liver": [1], "ignore": 4}
    edited(image.parents[1] / "dataset.json", lambda said: said.update(labels=labels))
    assert find(root).organs == {1: "liver", 2: "kidneys-2", 3: "kidneys-3"}


def test_a_channel_that_a_file_lacks_is_named(tmp_path: Path, patient: Patient) -> None:
    DATASETS["msd, channels"][1](tmp_path, patient)
    file = tmp_path / "Task05_Prostate/imagesTr/prostate_00.nii.gz"
    whole = file.read_bytes()
    file.write_bytes(gzip.compress(gzip.decompress(whole)[:-1000]))
    with pytest.raises(FedCoWProError, match=r"prostate_00\.nii\.gz: fewer voxels than the header says"):
        find(tmp_path, part="ADC").scans[0].image.read()
    edited(file.parents[1] / "dataset.json", lambda said: said["modality"].update({"2": "T1"}))
    file.write_bytes(whole)
    with pytest.raises(FedCoWProError, match=r"prostate_00\.nii\.gz: 2 channel\(s\)\n  expected: channel 2"):
        find(tmp_path, part="T1").scans[0].image.read()
