"""Masks of CHAOS: each belongs to its slice, and what cannot be right is said."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from downloads import CHAOS, Patient, chaos, chaos_case, numbered

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import Options
from fedcowpro.data.datasets.borders import better_way_round
from fedcowpro.data.datasets.registry import adapter_for
from fedcowpro.data.datasets.scan import Scan
from fedcowpro.data.phantom import Phantom, make_phantom
from fedcowpro.volume.nifti import read_image, read_labels

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("pydicom")
T2 = "Train_Sets/MR/5/T2SPIR"


@pytest.fixture
def root(tmp_path: Path, patient: Patient) -> Path:
    """One T2 case."""
    chaos_case(tmp_path / T2 / "DICOM_anon", tmp_path / T2 / "Ground", patient("t2", 1), CHAOS, ordered=True)
    return tmp_path


def the_case(root: Path) -> Scan:
    (scan,) = adapter_for(root, "chaos").find(root, Options()).scans
    return scan


def masks(root: Path) -> list[Path]:
    return sorted((root / T2 / "Ground").iterdir())


def redraw(file: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(change(np.array(Image.open(file)))).save(file)


def reverse(root: Path) -> None:
    files = masks(root)
    for file, other in zip(files, reversed(files), strict=True):
        file.rename(other.with_suffix(".new"))
    for file in (root / T2 / "Ground").iterdir():
        file.rename(file.with_suffix(".png"))


@pytest.mark.filterwarnings("error")
def test_greys_are_told_by_band(root: Path, patient: Patient) -> None:
    """All greys of a band mean the same organ, and CT takes any of the two ways in which a mask is stored."""
    rng = np.random.default_rng(3)
    bands = {63: (55, 70), 126: (110, 135), 189: (175, 200), 252: (240, 255)}

    def shift(drawn: np.ndarray) -> np.ndarray:
        for grey, (low, high) in bands.items():
            drawn = np.where(drawn == grey, rng.choice([low, high, grey]), drawn)
        return drawn.astype(np.uint8)

    for file in masks(root):
        redraw(file, shift)
    scan = the_case(root)
    assert scan.labels is not None
    drawn = scan.labels.read(scan.image.read()).voxels
    np.testing.assert_array_equal(drawn, numbered(patient("t2", 1), CHAOS))


def test_a_case_that_lacks_organs_keeps_the_numbers_of_the_others(root: Path, patient: Patient) -> None:
    """By band, not by rank: without liver and right kidney, the left kidney is still 3 and the spleen 4."""
    for file in masks(root):
        redraw(file, lambda drawn: np.where(drawn < 175, 0, drawn).astype(np.uint8))
    scan = the_case(root)
    assert scan.labels is not None
    whole = numbered(patient("t2", 1), CHAOS)
    np.testing.assert_array_equal(scan.labels.read(scan.image.read()).voxels, np.where(whole < 3, 0, whole))


def test_ct_masks_may_hold_one_bit(tmp_path: Path, patient: Patient) -> None:
    folder = tmp_path / "Train_Sets/CT/9"
    expected = chaos_case(folder / "DICOM_anon", folder / "Ground", patient("ct", 1), {"liver": 1})
    for file in (folder / "Ground").iterdir():
        Image.open(file).convert("1").save(file)
    scan = the_case(tmp_path)
    assert scan.labels is not None
    np.testing.assert_array_equal(scan.labels.read(scan.image.read()).voxels, expected.labels)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (reverse, "the slices in reverse order"),
        (lambda root: [redraw(file, np.flipud) for file in masks(root)], "rows upside down"),
        (lambda root: [redraw(file, np.fliplr) for file in masks(root)], "columns mirrored"),
        (
            lambda root: [reverse(root), *(redraw(file, np.fliplr) for file in masks(root))],
            "the slices in reverse order and columns mirrored",
        ),
    ],
)
def test_masks_that_lie_the_wrong_way_round_are_warned_of(
    root: Path, way: Callable[[Path], object], words: str
) -> None:
    way(root)
    scan = the_case(root)
    assert scan.labels is not None
    image = scan.image.read()
    with pytest.warns(UserWarning, match=f"case t2-5: .* clearly better with {words}; check"):
        scan.labels.read(image)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "grey": (
        lambda root: redraw(masks(root)[4], lambda drawn: np.where(drawn == 63, 90, drawn)),
        r"liver_GT_004\.png: grey value\(s\) 90\n  expected: 0 or one of 55\.\.70, 110\.\.135, 175\.\.200, 240\.\.255",
    ),
    "size": (lambda root: redraw(masks(root)[0], lambda drawn: drawn[:-1]), r"GT_000\.png: 47 rows and 48 columns"),
    "cut": (lambda root: cut(masks(root)[1]), r"GT_001\.png: damaged"),
    "text": (lambda root: masks(root)[1].write_text("no image"), r"GT_001\.png: damaged"),
    "colour": (
        lambda root: redraw(masks(root)[0], lambda drawn: np.stack([drawn] * 3, -1)),
        r"GT_000\.png: no image of 8-bit greys",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mask_that_cannot_be_used_is_named(root: Path, fault: str) -> None:
    make, message = FAULTS[fault]
    make(root)
    scan = the_case(root)
    assert scan.labels is not None
    with pytest.raises(FedCoWProError, match=message):
        scan.labels.read(scan.image.read())


def test_masks_and_slices_must_be_as_many(root: Path) -> None:
    masks(root)[0].unlink()
    with pytest.raises(FedCoWProError, match=r"case t2-5: 7 masks for 8 DICOM files in .*DICOM_anon") as caught:
        the_case(root)
    assert str(root / T2 / "Ground") in caught.value.expected
    shutil.rmtree(root / T2 / "Ground")
    with pytest.raises(FedCoWProError, match=r"case t2-5: 0 masks for 8 DICOM files"):
        the_case(root)
    (scan,) = adapter_for(root, None).find(root, Options(labels="")).scans
    assert scan.labels is None
    assert scan.image.read().voxels.shape == (8, 48, 48)


def test_a_file_that_is_no_slice_leaves_no_pair_in_doubt(root: Path) -> None:
    """As many masks as files are not enough: each file must be a slice of the one volume."""
    images = sorted((root / T2 / "DICOM_anon").iterdir())
    shutil.copy(images[0], root / T2 / "DICOM_anon" / "z.dcm")
    shutil.copy(masks(root)[0], root / T2 / "Ground" / "z.png")
    scan = the_case(root)
    assert scan.labels is not None
    with pytest.warns(UserWarning, match="more than once"):
        image = scan.image.read()
    with pytest.raises(FedCoWProError, match="a volume of 8 slices in 9 files"):
        scan.labels.read(image)


def test_a_damaged_slice_is_named(root: Path) -> None:
    cut(sorted((root / T2 / "DICOM_anon").iterdir())[2])
    with pytest.raises(FedCoWProError, match=r"i2,0b\.dcm is no slice of a volume"):
        the_case(root).image.read()


def test_extra_files_are_noted(root: Path) -> None:
    (root / T2 / "Ground" / "labels.bmp").touch()
    (root / T2 / "DICOM_anon" / "localiser").touch()
    notes = adapter_for(root, None).find(root, Options()).notes
    assert [note.rpartition(": ")[2] for note in notes] == ["localiser", "labels.bmp"]


def test_a_patient_in_both_sets_is_refused(tmp_path: Path, patient: Patient) -> None:
    chaos(tmp_path, patient)
    shutil.copytree(tmp_path / "CHAOS_Test_Sets/Test_Sets/CT/3", tmp_path / "CHAOS_Train_Sets/Train_Sets/CT/3")
    with pytest.raises(FedCoWProError, match="case ct-3: 0 masks"):
        adapter_for(tmp_path, None).find(tmp_path, Options())
    with pytest.raises(FedCoWProError, match="are both case 'ct-3'"):
        adapter_for(tmp_path, None).find(tmp_path, Options(labels=""))


# ------------------------------------------------------------------ the check of borders


def test_the_right_way_round_is_left_alone_and_others_are_told(patient: Patient) -> None:
    for kind in ("ct", "t1", "t2"):
        phantom = patient(kind, 1)
        assert better_way_round(phantom.image, phantom.labels, phantom.modality) is None
    for kind in ("ct", "t2"):
        phantom = patient(kind, 1)
        labels = np.where(phantom.labels <= (1 if kind == "ct" else 4), phantom.labels, 0)
        for axis, words in enumerate(("the slices in reverse order", "rows upside down", "columns mirrored")):
            told = better_way_round(phantom.image, np.flip(labels, axis), phantom.modality)
            assert told == words


def test_labels_without_borders_are_left_alone(patient: Patient) -> None:
    image = patient("ct", 1).image
    assert better_way_round(image, np.zeros(image.shape, np.uint8), "ct") is None
    assert better_way_round(image, np.ones(image.shape, np.uint8), "ct") is None


def test_more_phantoms_are_left_alone() -> None:
    phantom = make_phantom("t1", 7, 48, 8)
    assert better_way_round(phantom.image, np.where(phantom.labels == 1, 1, 0), "mr") is None


@pytest.mark.parametrize("name", ["chaos_ct/{}_chaosct", "chaos_mr_t2/{}_5", "chaos_mr_t2/{}_20"])
def test_real_masks_are_told_from_reversed_ones(real_data: Path, name: str) -> None:
    image = read_image(real_data / f"{name.format('image')}.nii.gz")
    labels = read_labels(real_data / f"{name.format('label')}.nii.gz", image).voxels
    modality = "ct" if "ct" in name else "mr"
    if modality == "ct":  # quicker, and fewer borders to tell by
        labels, image = labels[:, ::2, ::2], image.voxels[:, ::2, ::2]  # type: ignore[assignment]
    voxels = image if isinstance(image, np.ndarray) else image.voxels
    assert better_way_round(voxels, labels, modality) is None
    assert better_way_round(voxels, labels[::-1], modality) == "the slices in reverse order"


def test_a_real_case_in_this_layout_equals_its_nifti(real_data: Path, tmp_path: Path) -> None:
    image = read_image(real_data / "chaos_mr_t2/image_5.nii.gz")
    labels = read_labels(real_data / "chaos_mr_t2/label_5.nii.gz", image).voxels
    organs = {value: name for name, value in CHAOS.items()}
    real = Phantom(image.voxels, labels, image.spacing, organs, "t2", "mr")
    chaos_case(tmp_path / T2 / "DICOM_anon", tmp_path / T2 / "Ground", real, CHAOS)
    scan = the_case(tmp_path)
    assert scan.labels is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the masks fit best as they are
        read = scan.image.read()
        drawn = scan.labels.read(read)
    np.testing.assert_array_equal(read.voxels, image.voxels)
    np.testing.assert_array_equal(drawn.voxels, labels)
    assert read.spacing == pytest.approx(image.spacing)
