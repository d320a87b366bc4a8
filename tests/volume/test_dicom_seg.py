"""DICOM segmentations: a mask comes back to the voxel, and other readers see the same."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest

from dicom_files import NAME, NUMBER, grid_for, write_enhanced, write_series
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume import nifti
from fedcowpro.volume.dicom import Series, find, find_series, read_image
from fedcowpro.volume.dicom.organ_codes import ORGAN, TERMS, code_of
from fedcowpro.volume.dicom.seg_reader import (
    SegmentationLabels,
    find_segmentations,
    organs_of,
    read_segmentation,
    write_segmentation,
)
from fedcowpro.volume.read import read_labels
from fedcowpro.volume.volume import Grid, Volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

hd = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")

RNG = np.random.default_rng(7)
SPACING = (4.0, 1.1, 0.9)
SHAPE = (5, 7, 9)  # 63 pixels a slice: frames end within a byte
VOXELS = RNG.integers(-900, 1200, SHAPE).astype(np.float32)
ORGANS = {2: "liver", 5: "right kidney", 200: "portal and splenic vein"}
LABELS = RNG.choice(np.array([0, 2, 5, 200], np.uint8), SHAPE)
LABELS[1] = 0  # a slice without any organ has no frame


@pytest.fixture
def series(tmp_path: Path) -> Series:
    write_series(tmp_path / "series", VOXELS, SPACING, axes="LIA")
    return find_series(tmp_path / "series")[0]


@pytest.mark.parametrize("axes", ["LPS", "LIA", "PIR", "RAS"])
def test_a_mask_comes_back_identical(tmp_path: Path, axes: str) -> None:
    write_series(tmp_path / "series", VOXELS, SPACING, axes=axes)
    series = find_series(tmp_path / "series")[0]
    path = tmp_path / "new" / "seg.dcm"
    organs = {**ORGANS, 7: "spleen"}  # which is nowhere
    write_segmentation(path, LABELS, series, organs, description="test")
    image = series.read()
    back = read_segmentation(path, image)
    np.testing.assert_array_equal(back.voxels, LABELS)
    assert back.voxels.dtype == np.uint8
    assert organs_of(path) == organs
    np.testing.assert_array_equal(read_labels(path, image).voxels, LABELS)
    source = pickle.loads(pickle.dumps(SegmentationLabels(path)))
    np.testing.assert_array_equal(source.read(image).voxels, LABELS)
    assert source.files == (path,)
    assert [entry.name for entry in path.parent.iterdir()] == ["seg.dcm"]


def test_another_reader_sees_the_same_on_each_source_image(tmp_path: Path, series: Series) -> None:
    write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    uids = [pydicom.dcmread(file).SOPInstanceUID for file in series.files]
    stacked = seg.get_pixels_by_source_instance(uids, combine_segments=True)  # (slices, rows, columns), 1, 2, 3
    native = np.array([0, *ORGANS], np.uint8)[stacked].transpose(2, 1, 0)
    np.testing.assert_array_equal(series.read().grid.to_internal(native), LABELS)
    descriptions = [seg.get_segment_description(number) for number in (1, 2, 3)]
    assert [one.segment_label for one in descriptions] == list(ORGANS.values())
    kidney = descriptions[1].segmented_property_type
    assert (kidney.value, kidney.scheme_designator) == ("64033007", "SCT")
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert {one.algorithm_identification.name for one in descriptions} == {"FedCoWPro"}
    assert {one.algorithm_type.value for one in descriptions} == {"AUTOMATIC"}


def test_it_belongs_to_the_patient_and_refers_to_the_series(tmp_path: Path, series: Series) -> None:
    write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    image, made = pydicom.dcmread(series.files[0]), pydicom.dcmread(tmp_path / "seg.dcm")
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert made[name].value == image[name].value
    assert made.SeriesInstanceUID not in (image.SeriesInstanceUID, image.StudyInstanceUID)
    (found,) = find_segmentations(tmp_path)
    assert (found.path, found.series) == (tmp_path / "seg.dcm", (series.uid,))
    assert len(find(tmp_path).series) == 1
    assert NUMBER not in repr(found)


def test_equal_masks_get_equal_uids(tmp_path: Path, series: Series) -> None:
    other = LABELS.copy()
    other[0, 0, 0] = 5 if LABELS[0, 0, 0] != 5 else 2
    uids = []
    for name, labels in (("a", LABELS), ("b", LABELS), ("c", other)):
        write_segmentation(tmp_path / name, labels, series, ORGANS)
        made = pydicom.dcmread(tmp_path / name)
        uids.append((made.SOPInstanceUID, made.SeriesInstanceUID))
    assert uids[0] == uids[1]
    assert len({*uids[0], *uids[2]}) == 4


def test_a_mask_without_an_organ_comes_back_empty(tmp_path: Path, series: Series) -> None:
    write_segmentation(tmp_path / "seg.dcm", np.zeros_like(LABELS), series, ORGANS)
    assert not read_segmentation(tmp_path / "seg.dcm", series.read()).voxels.any()


@pytest.mark.parametrize("number", [0, 1])
def test_on_one_of_two_echoes_of_a_multi_frame_file(tmp_path: Path, number: int) -> None:
    write_enhanced(tmp_path / "file.dcm", [VOXELS, VOXELS + 3], SPACING, axes="PSL")
    series = find_series(tmp_path)[number]
    write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm", series.read()).voxels, LABELS)


@pytest.mark.filterwarnings("ignore:.*(oblique|tilted)")
def test_on_slices_of_a_tilted_gantry(tmp_path: Path) -> None:
    write_series(tmp_path / "series", VOXELS, SPACING, slant=(0, 1.0, 0))
    series = find_series(tmp_path / "series")[0]
    write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm", series.read()).voxels, LABELS)


def test_copies_of_slices_do_not_matter(tmp_path: Path, series: Series) -> None:
    (series.files[2].parent / "again").write_bytes(series.files[2].read_bytes())
    (series,) = find_series(series.files[0].parent)
    write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    with pytest.warns(UserWarning, match="more than once"):
        image = series.read()
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm", image).voxels, LABELS)


def test_on_the_same_image_as_nifti(tmp_path: Path, series: Series) -> None:
    """Another order and direction of axes, the same places."""
    write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    grid = grid_for(SHAPE, SPACING, "RAS")
    corner = np.array([0, 0, 0, 1])
    image = series.read()
    last = image.grid.affine @ [*(np.array(image.grid.shape) - 1), 1]
    grid.affine[:3, 3] = np.minimum((image.grid.affine @ corner)[:3], last[:3])
    nib.save(nib.Nifti1Image(grid.to_native(VOXELS), grid.affine), tmp_path / "image.nii.gz")
    other = nifti.read_image(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(other.voxels, image.voxels)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm", other).voxels, LABELS)


def test_segments_are_chosen_by_name(tmp_path: Path, series: Series) -> None:
    write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    labels = SegmentationLabels(tmp_path / "seg.dcm", {1: "Right Kidney", 9: "spleen"}).read(series.read())
    np.testing.assert_array_equal(labels.voxels, (LABELS == 5).astype(np.uint8))


def _foreign(series: Series, kind: str, pixels: np.ndarray, path: Path) -> None:
    """A segmentation of two segments as another program may write it: (slices, rows, columns[, segments])."""
    code = hd.sr.CodedConcept("10200004", "SCT", "Liver")
    segments = [hd.seg.SegmentDescription(n, f"organ {n}", code, code, "MANUAL") for n in (1, 2)]
    sources = [pydicom.dcmread(file) for file in series.files]
    hd.seg.Segmentation(
        sources, pixels, kind, segments, "1.2.3", 1, "1.2.3.4", 1, "maker", "model", "1", "1", omit_empty_frames=False
    ).save_as(path)


def _pixels(series: Series, labels: np.ndarray) -> np.ndarray:
    return series.read().grid.to_native(labels).transpose(2, 1, 0)


@pytest.mark.parametrize("kind", ["LABELMAP", "FRACTIONAL", "BINARY"])
def test_segmentations_of_other_programs(tmp_path: Path, series: Series, kind: str) -> None:
    labels = RNG.integers(0, 3, SHAPE).astype(np.uint8)
    _foreign(series, kind, _pixels(series, labels), tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm", series.read()).voxels, labels)
    assert organs_of(tmp_path / "seg.dcm") == {1: "organ 1", 2: "organ 2"}
    assert find_segmentations(tmp_path)[0].series == (series.uid,)


def test_overlap_and_probabilities_are_refused(tmp_path: Path, series: Series) -> None:
    image = series.read()
    both = np.zeros((*_pixels(series, LABELS).shape, 2), np.uint8)
    both[:, 2:4, 2:4] = 1
    _foreign(series, "BINARY", both, tmp_path / "overlap.dcm")
    with pytest.raises(FedCoWProError, match=r"overlap\.dcm: segments overlap"):
        read_segmentation(tmp_path / "overlap.dcm", image)
    one = read_segmentation(tmp_path / "overlap.dcm", image, {1: "organ 2"})
    assert one.voxels.sum() == both[..., 1].sum()
    _foreign(series, "FRACTIONAL", both * 0.5, tmp_path / "fractional.dcm")
    with pytest.raises(FedCoWProError, match=r"fractional\.dcm: fractional segments"):
        read_segmentation(tmp_path / "fractional.dcm", image)


def _volume(grid: Grid) -> Volume:
    return Volume(np.zeros(grid.internal_shape, np.float32), grid.spacing, grid, "other image")


def test_segments_off_the_grid_are_refused(tmp_path: Path, series: Series) -> None:
    write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    image = series.read()

    def moved(millimetres: float) -> np.ndarray:
        affine = image.grid.affine.copy()
        affine[0, 3] += millimetres
        return affine

    smaller = tuple(n - 2 for n in image.grid.shape)
    for grid, message in (
        (Grid(image.grid.shape, moved(0.45)), "on another grid"),
        (Grid(image.grid.shape, image.grid.affine @ np.diag([2, 1, 1, 1])), "on another grid"),
        (Grid(image.grid.shape, moved(9.0)), "beyond the image"),
        (Grid((smaller[0], smaller[1], smaller[2]), image.grid.affine), "beyond the image"),
    ):
        with pytest.raises(FedCoWProError, match=message) as caught:
            read_segmentation(tmp_path / "seg.dcm", _volume(grid))
        assert "seg.dcm" in caught.value.got
    np.testing.assert_array_equal(
        read_segmentation(tmp_path / "seg.dcm", _volume(Grid(image.grid.shape, moved(1e-3)))).voxels, LABELS
    )


def test_what_is_no_segmentation_is_refused(tmp_path: Path, series: Series) -> None:
    image = series.read()
    (tmp_path / "text.dcm").write_text("text")
    write_segmentation(tmp_path / "cut.dcm", LABELS, series, ORGANS)
    whole = (tmp_path / "cut.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-20])
    (tmp_path / "header.dcm").write_bytes(whole[:250])
    for path, message in (
        (series.files[0], "not a DICOM segmentation"),
        (tmp_path / "gone.dcm", "no file"),
        (tmp_path / "text.dcm", "not a DICOM file"),
        (tmp_path / "header.dcm", "damaged or incomplete"),
        (tmp_path / "cut.dcm", "cannot be decoded"),
    ):
        with pytest.raises(FedCoWProError, match=message) as caught:
            read_segmentation(path, image)
        assert str(path) in caught.value.got
    with pytest.raises(FedCoWProError, match="a segmentation"):
        read_image(tmp_path / "cut.dcm")


def test_labels_that_do_not_fit_are_refused(tmp_path: Path, series: Series) -> None:
    bad: list[tuple[np.ndarray, dict[int, str], str]] = [
        (LABELS.astype(np.int32), ORGANS, "int32"),
        (LABELS[1:], ORGANS, "labels of shape"),
        (LABELS, {2: "liver"}, r"label value\(s\) 5, 200 without a name"),
        (LABELS, {**ORGANS, 0: "air"}, "organs"),
        (LABELS, {**ORGANS, 7: " "}, "organs"),
    ]
    for labels, organs, message in bad:
        with pytest.raises(FedCoWProError, match=message):
            write_segmentation(tmp_path / "seg.dcm", labels, series, organs)
    assert not (tmp_path / "seg.dcm").exists()


def _without(*names: str) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, index: int) -> None:
        for name in names:
            delattr(dataset, name)

    return edit


def test_what_anonymisers_remove_is_not_needed(tmp_path: Path) -> None:
    names = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate")
    write_series(tmp_path / "series", VOXELS, SPACING, edit=_without(*names, "StudyTime", "ReferringPhysicianName"))
    series = find_series(tmp_path / "series")[0]
    write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm", series.read()).voxels, LABELS)


@pytest.mark.parametrize("name", ["FrameOfReferenceUID", "SOPInstanceUID", "StudyInstanceUID"])
def test_what_must_be_there_is_named(tmp_path: Path, name: str) -> None:
    write_series(tmp_path / "series", VOXELS, SPACING, edit=_without(name))
    series = find_series(tmp_path / "series")[0]
    with pytest.raises(FedCoWProError, match=f"no {name}") as caught:
        write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    assert not any(part in str(caught.value) for part in (*NAME.split("^"), NUMBER))
    assert "NIfTI" in caught.value.remedy
    assert list(tmp_path.iterdir()) == [tmp_path / "series"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    before = (tmp_path / "seg.dcm").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    assert (tmp_path / "seg.dcm").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix == ".tmp"] == []


def test_without_highdicom_the_remedy_is_named(tmp_path: Path, series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(FedCoWProError, match=r"package 'highdicom' \S+ has no usable 'highdicom'") as caught:
        write_segmentation(tmp_path / "seg.dcm", LABELS, series, ORGANS)
    assert "fedcowpro[dicom]" in caught.value.remedy


@pytest.mark.parametrize(
    ("organ", "code", "side"),
    [
        ("liver", "10200004", None),
        ("Left_Kidney", "64033007", "Left"),
        ("kidney right", "64033007", "Right"),
        ("Oesophagus", "32849002", None),
        ("right adrenal gland", "23451007", "Right"),
        ("femoral heads", "2812003", None),
        ("urinary bladder", "89837001", None),
        ("left atrium", "82471001", None),
        ("iliac_artery_left", "73634005", "Left"),
        ("tumour of nobody", "91772007", None),
    ],
)
def test_codes_of_organs(organ: str, code: str, side: str | None) -> None:
    (value, meaning), where = code_of(organ)
    assert value == code
    assert (where and where[1]) == side
    assert meaning


def test_codes_are_those_of_the_standard() -> None:
    """pydicom carries the standard's tables."""
    from pydicom.sr.codedict import codes

    from fedcowpro.volume.dicom import organ_codes

    ours = [*organ_codes._CODES.values(), organ_codes.ORGAN, organ_codes.CATEGORY, *organ_codes.SIDES.values()]
    for value, meaning in ours:
        assert getattr(codes.SCT, "".join(word.capitalize() for word in meaning.split())).value == value


def test_terms_to_choose_from_have_codes_of_their_own() -> None:
    found = [code_of(term) for term in TERMS]
    assert len({(value, side) for (value, _), side in found}) == len(TERMS) > 70
    assert not any(value == ORGAN[0] for (value, _), _ in found)
    assert {"liver", "left kidney", "right kidney", "left atrium"} <= set(TERMS)


@pytest.mark.slow
def test_a_real_ct_and_its_mask_as_dicom_equal_their_nifti(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "chaos_ct"
    if not folder.is_dir():
        pytest.skip("chaos_ct is not among the real volumes")
    original = nifti.read_image(folder / "image_chaosct.nii.gz")
    labels = nifti.read_labels(folder / "label_chaosct.nii.gz", original).voxels
    write_series(tmp_path / "series", original.voxels, original.spacing)
    (series,) = find_series(tmp_path / "series")
    image = series.read()
    np.testing.assert_allclose(image.voxels, original.voxels, atol=0.5)
    np.testing.assert_allclose(image.spacing, original.spacing, rtol=1e-5)

    write_segmentation(tmp_path / "seg.dcm", labels, series, {1: "liver"})
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm", image).voxels, labels)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    uids = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in series.files]
    native = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)[..., 0].transpose(2, 1, 0)
    np.testing.assert_array_equal(image.grid.to_internal(native.astype(np.uint8)), labels)
