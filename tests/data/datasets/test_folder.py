"""A folder of one's own: by patterns, or files paired by name and grid, and DICOM under pseudonyms."""

from __future__ import annotations

import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from downloads import CHAOS, Patient, numbered, pair, save

from fedcowpro.cli import main
from fedcowpro.config import PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import FoundScans, Options
from fedcowpro.data.datasets.registry import adapter_for
from fedcowpro.data.preparation.prepare import prepare

KEY = bytes(range(32))


def find(root: Path, **options: Any) -> FoundScans:
    adapter = adapter_for(root, None)
    assert adapter.about.name == "folder"
    return adapter.find(root, Options(key=lambda: KEY, **options))


def labels_of(found: FoundScans) -> dict[str, str | None]:
    return {scan.id: scan.labels.files[0].name if scan.labels is not None else None for scan in found.scans}


def empty(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


# ------------------------------------------------------------------ patterns


def test_patterns_name_images_and_labels(tmp_path: Path, patient: Patient) -> None:
    for name, seed in (("p 9", 1), ("p10", 2)):
        pair(tmp_path / name / "ct.nii.gz", tmp_path / name / "seg.nii.gz", patient("ct", seed), CHAOS)
    (tmp_path / "p10" / "seg.nii.gz").unlink()
    (tmp_path / "x").mkdir()
    shutil.copy(tmp_path / "p 9/seg.nii.gz", tmp_path / "x")
    found = find(tmp_path, images="*/ct.nii.gz", labels="*/seg.nii.gz")
    assert labels_of(found) == {"p-9": "seg.nii.gz", "p10": None}
    assert found.organs is None
    assert found.notes == (f"{tmp_path / 'x' / 'seg.nii.gz'}: left out, because no image has its id",)
    (scan,) = (scan for scan in found.scans if scan.id == "p-9")
    assert scan.labels is not None
    np.testing.assert_array_equal(scan.labels.read(scan.image.read()).voxels, numbered(patient("ct", 1), CHAOS))
    assert labels_of(find(tmp_path, images="*/ct.nii.gz", labels="")) == {"p-9": None, "p10": None}
    assert labels_of(find(tmp_path, images="*/ct.nii.gz")) == {"p-9": None, "p10": None}
    with pytest.raises(FedCoWProError, match=r"no file in .* matches '\*/mr\.nii\.gz' \(seen: p 9, p10, x\)"):
        find(tmp_path, images="*/mr.nii.gz")


def test_ids_that_become_the_same_are_refused(tmp_path: Path) -> None:
    empty(tmp_path / "a b.nii.gz", tmp_path / "a+b.nii.gz")
    with pytest.raises(FedCoWProError, match=r"a b\.nii\.gz and .*a\+b\.nii\.gz are both case 'a-b'"):
        find(tmp_path, images="*.nii.gz")


# ------------------------------------------------------------------ files by themselves


def test_label_maps_go_to_the_image_on_their_grid(tmp_path: Path, patient: Patient) -> None:
    pair(tmp_path / "example_ct.nii.gz", tmp_path / "example_seg.nii.gz", patient("ct", 1), CHAOS)
    pair(tmp_path / "example_mr.nii.gz", tmp_path / "Example-GroundTruth.nii", patient("t2", 1), CHAOS)
    found = find(tmp_path)
    assert labels_of(found) == {"example_ct": "example_seg.nii.gz", "example_mr": "Example-GroundTruth.nii"}
    assert found.notes == ()
    for scan, kind in zip(found.scans, ("ct", "t2"), strict=True):
        assert scan.labels is not None
        np.testing.assert_array_equal(scan.labels.read(scan.image.read()).voxels, numbered(patient(kind, 1), CHAOS))
    assert labels_of(find(tmp_path, labels="")) == {"example_ct": None, "example_mr": None}


def grids(root: Path, *names: str, shape: tuple[int, int, int] = (4, 5, 6), off: float = 0.0) -> None:
    """Small volumes on one grid."""
    for name in names:
        array = np.arange(np.prod(shape)).reshape(shape) % 7 + off
        save(root / name, array, (3.0, 1.0, 1.0))


PAIRED: dict[str, tuple[tuple[str, ...], dict[str, str | None], str]] = {
    "numbers": (
        ("case_1.nii.gz", "case_2.nii.gz", "seg_case_002.nii.gz", "seg_case_1.nii.gz"),
        {"case_1": "seg_case_1.nii.gz", "case_2": "seg_case_002.nii.gz"},
        "",
    ),
    "another number": (("case_1.nii.gz", "mask_2.nii.gz"), {"case_1": None}, "no image of a fitting name"),
    "one image": (("thorax.nii.gz", "mask.nii.gz"), {"thorax": "mask.nii.gz"}, ""),
    "two images": (("in.nii.gz", "out.nii.gz", "roi.nii.gz"), {"in": None, "out": None}, "fits in.nii.gz, out.nii.gz"),
    "a mask an organ": (
        ("ct.nii.gz", "liver_seg.nii.gz", "spleen_seg.nii.gz"),
        {"ct": None},
        "several fit equally well: liver_seg.nii.gz, spleen_seg.nii.gz; name one with --labels",
    ),
    "the nearer name": (
        ("a7.nii.gz", "a7_gt.nii.gz", "a7_liver_gt.nii.gz"),
        {"a7": "a7_gt.nii.gz"},
        "beside a7_gt.nii.gz: a7_liver_gt.nii.gz",
    ),
    "folders of kinds": (
        ("images/7.nii.gz", "images/8.nii.gz", "masks/7.nii.gz", "masks/8.nii.gz"),
        {"7": "7.nii.gz", "8": "8.nii.gz"},
        "",
    ),
    "folders of patients": (
        ("p1/T2.nii.gz", "p1/seg.nii.gz", "p2/T2.nii.gz", "p2/seg.nii.gz", "p3/image.nii.gz"),
        {"p1-T2": "seg.nii.gz", "p2-T2": "seg.nii.gz", "p3": None},
        "",
    ),
    "words for image": (
        ("image_1.nii", "volume-2.nii", "imagery.nii", "label_1.nii"),
        {"1": "label_1.nii", "2": None, "imagery": None},
        "",
    ),
    "folders of nnU-Net": (
        ("imagesTr/a_1.nii.gz", "imagesTr/a_2.nii.gz", "labelsTr/a_2.nii.gz", "labelsTr/a_1.nii.gz"),
        {"a_1": "a_1.nii.gz", "a_2": "a_2.nii.gz"},
        "",
    ),
    "same short names": (("image_1.nii", "img1.nii"), {"image_1": None, "img1": None}, ""),
}


@pytest.mark.parametrize("kind", PAIRED)
def test_pairs_by_name(tmp_path: Path, kind: str) -> None:
    names, expected, note = PAIRED[kind]
    grids(tmp_path, *names)
    adapter = adapter_for(tmp_path, "folder")
    found = adapter.find(tmp_path, Options())
    assert labels_of(found) == expected
    assert len(found.notes) == bool(note)
    assert all(note in said for said in found.notes)


def test_a_label_map_on_another_grid_is_left_out(tmp_path: Path) -> None:
    grids(tmp_path, "a.nii.gz", "b.nii.gz")
    grids(tmp_path, "a_seg.nii.gz", shape=(4, 5, 7))
    (tmp_path / "b_seg.nii.gz").write_bytes(b"damaged")
    found = find(tmp_path)
    assert labels_of(found) == {"a": None, "b": None}
    assert [note.partition(":")[0] for note in found.notes] == [str(tmp_path / f"{name}_seg.nii.gz") for name in "ab"]


def test_hidden_and_deeper_files_are_passed_over(tmp_path: Path) -> None:
    grids(tmp_path, "a.nii", ".b.nii", ".c/c.nii", "d/e/f.nii")
    assert labels_of(find(tmp_path)) == {"a": None}


def test_only_label_maps_are_no_case(tmp_path: Path) -> None:
    grids(tmp_path, "a_seg.nii")
    with pytest.raises(FedCoWProError, match=r"holds no image \(seen: a_seg\.nii\)") as caught:
        find(tmp_path)
    assert "count as label maps" in caught.value.remedy


def test_a_pattern_for_labels_alone(tmp_path: Path) -> None:
    grids(tmp_path, "img_1.nii", "img_2.nii", "drawn_1.nii", "drawn_3.nii", "old_mask.nii")
    found = find(tmp_path, labels="drawn_*.nii")
    assert labels_of(found) == {"1": "drawn_1.nii", "2": None}
    assert found.notes == (f"{tmp_path / 'drawn_3.nii'}: left out, because no image has the id '3'",)


def test_other_formats_are_paired_by_their_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sitk = pytest.importorskip("SimpleITK")
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    for name, size in (("a.mha", 1.0), ("b.mha", 2.0), ("b_seg.nrrd", 2.0)):
        image = sitk.GetImageFromArray(array % 5 if "seg" in name else array)
        image.SetSpacing((size, size, 3.0))
        sitk.WriteImage(image, str(tmp_path / name))
    found = find(tmp_path)
    assert labels_of(found) == {"a": None, "b": "b_seg.nrrd"}
    scan = found.scans[1]
    assert scan.labels is not None
    np.testing.assert_array_equal(np.unique(scan.labels.read(scan.image.read()).voxels), np.arange(5))
    # Without SimpleITK a label map beside a NIfTI image is not just left out.
    (tmp_path / "a.mha").unlink()
    (tmp_path / "b.mha").unlink()
    grids(tmp_path, "b.nii")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(FedCoWProError, match="no package 'SimpleITK'"):
        find(tmp_path)


# ------------------------------------------------------------------ DICOM

NAME, NUMBER = "Quux^Zebedee", "PID-74656"


@pytest.fixture
def archive(tmp_path: Path, patient: Patient) -> Callable[..., Any]:
    """Writes a series into a folder below `archive`."""
    pytest.importorskip("pydicom")
    from dicom_files import write_series

    def write(name: str, kind: Any = "ct", **options: Any) -> list[Path]:
        phantom = patient(kind, 1)
        folder = tmp_path / "archive" / name
        return write_series(folder, phantom.image, phantom.spacing, modality=phantom.modality, series=name, **options)

    return write


def test_series_become_cases_under_pseudonyms(tmp_path: Path, patient: Patient, archive: Callable[..., Any]) -> None:
    archive("ct")
    archive("deep/in/mr", "t2")
    root = tmp_path / "archive"
    found = pickle.loads(pickle.dumps(find(root)))
    assert {scan.modality for scan in found.scans} == {"ct", "mr"}
    for scan in found.scans:
        assert scan.id.startswith("p-")
        phantom = patient("ct" if scan.modality == "ct" else "t2", 1)
        np.testing.assert_allclose(scan.image.read().voxels, phantom.image, atol=0.6)
        assert len(scan.image.files) == 8
    ids = {scan.id for scan in found.scans}
    assert ids == {scan.id for scan in find(root).scans}
    other = adapter_for(root, None).find(root, Options(key=lambda: bytes(32)))
    assert not ids & {scan.id for scan in other.scans}
    assert NAME not in repr(found)
    assert NUMBER not in repr(found)
    with pytest.raises(FedCoWProError, match="no key for their pseudonyms"):
        adapter_for(root, None).find(root, Options())


def test_segmentations_are_the_labels_of_their_series(
    tmp_path: Path, patient: Patient, archive: Callable[..., Any]
) -> None:
    pytest.importorskip("highdicom")
    from fedcowpro.volume.dicom import find_series
    from fedcowpro.volume.dicom.seg_reader import write_segmentation

    archive("ct")
    archive("mr", "t2")
    root = tmp_path / "archive"
    drawn = numbered(patient("ct", 1), CHAOS)
    organs = {value: name for name, value in CHAOS.items()}
    write_segmentation(root / "seg" / "one.dcm", drawn, find_series(root / "ct")[0], organs)
    found = pickle.loads(pickle.dumps(find(root)))
    assert found.organs == organs
    labelled = {scan.modality: scan for scan in found.scans}
    assert labelled["mr"].labels is None
    scan = labelled["ct"]
    np.testing.assert_array_equal(scan.labels.read(scan.image.read()).voxels, drawn)
    assert all(scan.labels is None for scan in find(root, labels="").scans)

    # Another naming elsewhere: one for both.
    mr = numbered(patient("t2", 1), {"spleen": 1, "liver": 2})
    write_segmentation(root / "seg" / "two.dcm", mr, find_series(root / "mr")[0], {1: "Spleen", 2: "Liver"})
    found = find(root)
    assert found.organs == {1: "left kidney", 2: "liver", 3: "right kidney", 4: "spleen"}
    for scan in found.scans:
        assert scan.labels is not None
        phantom = patient("ct" if scan.modality == "ct" else "t2", 1)
        wanted = {
            name: value for value, name in found.organs.items() if scan.modality == "ct" or name in ("liver", "spleen")
        }
        np.testing.assert_array_equal(scan.labels.read(scan.image.read()).voxels, numbered(phantom, wanted))

    # Two for one series, and one whose series is gone: none of them is guessed.
    write_segmentation(root / "seg" / "three.dcm", mr, find_series(root / "mr")[0], {1: "spleen", 2: "liver"})
    shutil.rmtree(root / "ct")
    found = find(root)
    assert [scan.labels for scan in found.scans] == [None]
    assert any("one.dcm: segmentation left out, because the series it refers to is not there" in n for n in found.notes)
    assert any("two.dcm" in note and "three.dcm" in note and "belong to one volume" in note for note in found.notes)


def test_folders_with_a_series_each_may_be_matched(
    tmp_path: Path, patient: Patient, archive: Callable[..., Any]
) -> None:
    pytest.importorskip("highdicom")
    from fedcowpro.volume.dicom import find_series
    from fedcowpro.volume.dicom.seg_reader import write_segmentation

    root = tmp_path / "archive"
    for name in ("a/DICOM", "b/DICOM"):
        archive(name)
    drawn = numbered(patient("ct", 1), CHAOS)
    write_segmentation(
        root / "a/SEG/x.dcm", drawn, find_series(root / "a/DICOM")[0], {1: "liver"} | dict.fromkeys((2, 3, 4), "x")
    )
    for labels in ("*/SEG", "*/SEG/x.dcm"):
        found = find(root, images="*/DICOM", labels=labels)
        assert labels_of(found) == {"a": "x.dcm", "b": None}
        assert [scan.modality for scan in found.scans] == ["ct", "ct"]
        assert "rename folders that say who the patient is" in found.notes[0]
        scan = found.scans[0]
        assert scan.labels is not None
        np.testing.assert_array_equal(scan.labels.read(scan.image.read()).voxels, drawn)
    shutil.copytree(root / "a/DICOM", root / "b/DICOM/again", copy_function=shutil.copy)
    with pytest.raises(FedCoWProError, match=r"b/DICOM: 2 DICOM volumes \("):
        find(root, images="*/DICOM")
    (root / "c/DICOM").mkdir(parents=True)
    shutil.rmtree(root / "b")
    with pytest.raises(FedCoWProError, match=r"c/DICOM: 0 DICOM volumes \(none\)"):
        find(root, images="*/DICOM")
    (root / "a/SEG/x.dcm").unlink()
    with pytest.raises(FedCoWProError, match="a/SEG: 0 DICOM segmentations"):
        find(root, images="*/DICOM", labels="*/SEG")


def test_folders_named_by_their_patients_go_by_pseudonyms(
    tmp_path: Path, patient: Patient, archive: Callable[..., Any]
) -> None:
    """Label maps are still found by the folder's name, and errors about them do not say it."""
    root = tmp_path / "archive"
    for name in (f"{NUMBER}/DICOM", "b/DICOM"):
        archive(name)
        pair(tmp_path / "image.nii.gz", root / Path(name).with_name("seg.nii.gz"), patient("ct", 1), CHAOS)
    found = find(root, images="*/DICOM", labels="*/seg.nii.gz")
    first, second = found.scans
    assert (first.id, second.id.startswith("p-")) == ("b", True)
    assert second.id in {scan.id for scan in find(root).scans}
    assert second.labels is not None
    assert any("folders named by their patients: 1;" in note for note in found.notes)
    assert not any(NUMBER in note for note in found.notes)

    (root / NUMBER / "seg.nii.gz").write_bytes(b"broken")
    shutil.rmtree(root / "b")
    options = Options(images="*/DICOM", labels="*/seg.nii.gz", key=lambda: KEY)
    with pytest.raises(FedCoWProError, match=r"archive/\*\*\*/seg\.nii\.gz: not a whole gzip file") as caught:
        prepare(root, tmp_path / "site", PrepareConfig(size=64), options=options, workers=1, progress=False)
    assert NUMBER not in str(caught.value)


def test_the_patient_stays_in_the_archive(
    tmp_path: Path, patient: Patient, archive: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """By the command line, with the patient's name in folders and files: neither site, page nor screen has it."""
    named = NAME.replace("^", "_")
    archive(f"{named}/ct", prefix=named)
    for file in archive(f"{named}/gap", "t2", prefix=named)[3:4]:
        file.unlink()
    root, out = tmp_path / "archive", tmp_path / "out" / "site"
    with pytest.raises(SystemExit):
        main(["prepare", str(root), "--out", str(out), "--size", "64", "--workers", "1"])
    said = capfd.readouterr()
    assert re.search(r"\*{3}/gap .*: missing slices: 1 between \*{3}\S+ \(", said.err)
    for file in (root / named / "gap").iterdir():
        file.unlink()
    for command in (["prepare", str(root), "--size", "64", "--workers", "1"], ["inspect", str(out)]):
        with pytest.raises(SystemExit) as end:
            main([*command, "--out", str(out if command[0] == "prepare" else out / "page.html")])
        assert end.value.code == 0
    said_later = capfd.readouterr()
    everything = [said.out, said.err, said_later.out, said_later.err, *(str(path) for path in out.rglob("*"))]
    everything += [path.read_bytes().decode("latin-1") for path in out.rglob("*") if path.is_file()]
    for word in (*NAME.split("^"), NUMBER):
        assert not [text for text in everything if word.lower() in text.lower()]
    assert out.with_name("site.key").is_file()
    with pytest.raises(SystemExit):
        main(["prepare", str(root), "--out", str(out), "--list"])  # on request: which case is which
    (case,) = [path.name for path in (out / "cases").iterdir()]
    assert re.search(rf"{case}  CT  -  .*archive/{named}/ct \(8 files\)", capfd.readouterr().out)


def test_files_beside_dicom_are_cases_too(tmp_path: Path, patient: Patient, archive: Callable[..., Any]) -> None:
    archive("ct")
    root = tmp_path / "archive"
    pair(root / "mr.nii.gz", root / "mr_seg.nii.gz", patient("t2", 1), CHAOS)
    found = find(root)
    assert sorted(scan.id.startswith("p-") for scan in found.scans) == [False, True]
    assert any("as DICOM: take care" in note for note in found.notes)
    assert found.organs is None


def test_a_folder_without_volumes_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "IM-0001").write_bytes(b"no DICOM" * 40)
    assert not adapter_for(tmp_path, "folder").recognises(tmp_path)
    with pytest.raises(FedCoWProError, match="holds no image"):
        adapter_for(tmp_path, "folder").find(tmp_path, Options())
