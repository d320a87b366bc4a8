"""NRRD and MetaImage: the same volume as in NIfTI, and named refusals."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.pairing import lattice_of
from fedcowpro.volume import nifti
from fedcowpro.volume.itk import read_image, read_labels
from fedcowpro.volume.read import read_labels as read_any_labels
from fedcowpro.volume.read import read_volume

sitk = pytest.importorskip("SimpleITK")

RNG = np.random.default_rng(8)
SHAPE = (7, 6, 5)
VOXELS = RNG.normal(size=SHAPE).astype(np.float32)  # in the order of the file's axes
LABELS = RNG.integers(0, 4, SHAPE).astype(np.uint8)
SIZES = np.diag([0.9, 1.1, 4.0])
ORIGIN = np.array([40.0, -30.0, 7.0])
ENDINGS = ["nrrd", "nhdr", "mha", "mhd"]


def affine_for(permutation: tuple[int, ...], signs: tuple[int, ...], degrees: float = 0) -> np.ndarray:
    """RAS affine whose axis i points along patient axis permutation[i], turned about x."""
    affine = np.eye(4)
    turn = nib.eulerangles.euler2mat(0, 0, np.deg2rad(degrees))
    affine[:3, :3] = turn @ np.eye(3)[:, list(permutation)] * signs @ SIZES
    affine[:3, 3] = ORIGIN
    return affine


def save(path: Path, voxels: np.ndarray, affine: np.ndarray, compress: bool = False) -> Path:
    """Write with SimpleITK, whose arrays run from the last axis to the first and whose space is LPS."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    sizes = nib.affines.voxel_sizes(affine)
    image.SetSpacing(sizes.tolist())
    image.SetDirection((lps[:3, :3] / sizes).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), compress)
    return path


FRAMES = [
    ((0, 1, 2), (1, 1, 1), 0),
    ((0, 1, 2), (-1, -1, 1), 0),
    ((0, 2, 1), (-1, -1, 1), 0),
    ((1, 2, 0), (-1, -1, -1), 0),
    ((2, 0, 1), (1, -1, 1), 0),
    ((0, 1, 2), (-1, 1, -1), 12),
]


@pytest.mark.filterwarnings("ignore:.*oblique")
@pytest.mark.parametrize(("permutation", "signs", "degrees"), FRAMES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_volume_as_in_nifti(
    tmp_path: Path, ending: str, permutation: tuple[int, ...], signs: tuple[int, ...], degrees: float
) -> None:
    affine = affine_for(permutation, signs, degrees)
    nib.save(nib.Nifti1Image(VOXELS, affine), tmp_path / "image.nii.gz")
    expected = nifti.read_image(tmp_path / "image.nii.gz")
    volume = read_volume(save(tmp_path / f"image.{ending}", VOXELS, affine, compress=degrees == 0))
    np.testing.assert_array_equal(volume.voxels, expected.voxels)
    np.testing.assert_allclose(volume.spacing, expected.spacing, rtol=1e-5)
    np.testing.assert_allclose(volume.grid.affine, expected.grid.affine, atol=1e-4)
    assert volume.name == str(tmp_path / f"image.{ending}")

    labels = read_any_labels(save(tmp_path / f"label.{ending}", LABELS, affine), expected)
    np.testing.assert_array_equal(labels.voxels, expected.grid.to_internal(LABELS))
    nifti.write_labels(tmp_path / "back.nii.gz", labels.voxels, volume.grid)
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "back.nii.gz").dataobj), LABELS)


AFFINE = affine_for((0, 1, 2), (-1, -1, 1))


@pytest.mark.parametrize("space", ["right-anterior-superior", "RAS", "LPS"])
def test_other_patient_spaces_of_nrrd(tmp_path: Path, space: str) -> None:
    path = save(tmp_path / "image.nrrd", VOXELS, AFFINE)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"left-posterior-superior", space.encode()))
    in_file = np.diag([-1, -1, 1, 1]) @ AFFINE
    np.testing.assert_allclose(read_image(path).grid.affine, AFFINE if space == "LPS" else in_file, atol=1e-6)


def array_of(shape: tuple[int, ...], kind: Any = np.float32, **options: Any) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(RNG.normal(size=shape).astype(kind), **options), str(path))

    return make


def cut(compress: bool) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        save(path, VOXELS, AFFINE, compress)
        data = next((f for f in path.parent.iterdir() if f.suffix in (".raw", ".zraw", ".gz")), path)
        data.write_bytes(data.read_bytes()[:-60])

    return make


def without_data(path: Path) -> None:
    save(path, VOXELS, AFFINE)
    path.with_suffix(".raw").unlink()


def without_space(path: Path) -> None:
    raw = save(path, VOXELS, AFFINE).read_bytes()
    head, _, rest = raw.partition(b"\n\n")
    lines = [line for line in head.split(b"\n") if not line.startswith((b"space", b"kinds"))]
    path.write_bytes(b"\n".join([*lines, b"spacings: 1 1 4"]) + b"\n\n" + rest)


def in_space(space: bytes) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        raw = save(path, VOXELS, AFFINE).read_bytes()
        path.write_bytes(raw.replace(b"left-posterior-superior", space))

    return make


def not_finite(path: Path) -> None:
    voxels = VOXELS.copy()
    voxels[0, 0, 0] = np.nan
    save(path, voxels, AFFINE)


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "vectors": ("mha", array_of((5, 6, 7, 3), isVector=True), "3 numbers per voxel"),
    "colours": ("nrrd", array_of((5, 6, 7, 3), np.uint8, isVector=True), "3 numbers per voxel"),
    "series": ("mha", array_of((2, 5, 6, 7), isVector=False), "4-D data"),
    "series in nrrd": ("nrrd", array_of((2, 5, 6, 7), isVector=False), "4-D data"),
    "complex": ("nrrd", array_of((5, 6, 7), np.complex64), "2 numbers per voxel"),
    "flat": ("mha", array_of((5, 6)), "2-D data"),
    "two slices": ("mha", lambda path: save(path, VOXELS[..., :2], AFFINE), r"2 axial slice\(s\)"),
    "nan": ("mha", not_finite, "1 voxels are NaN"),
    "cut mha": ("mha", cut(False), "damaged or incomplete"),
    "cut compressed mha": ("mha", cut(True), "damaged or incomplete"),
    "cut mhd": ("mhd", cut(True), "damaged or incomplete"),
    "cut nrrd": ("nrrd", cut(False), "damaged or incomplete"),
    "cut compressed nrrd": ("nrrd", cut(True), "damaged or incomplete"),
    "cut nhdr": ("nhdr", cut(False), "damaged or incomplete"),
    "no data": ("mhd", without_data, "its data file is missing"),
    "text": ("nrrd", lambda path: path.write_text("text"), "damaged or incomplete"),
    "empty": ("mha", lambda path: path.touch(), "damaged or incomplete"),
    "missing": ("mha", lambda path: None, "no file"),
    "no space": ("nrrd", without_space, "space none"),
    "scanner space": ("nrrd", in_space(b"scanner-xyz"), "space scanner-xyz"),
    "mirrored space": ("nrrd", in_space(b"left-anterior-superior"), "space left-anterior-superior"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unusable_files_are_refused_by_name_and_in_silence(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ending, make, message = REFUSED[kind]
    path = tmp_path / f"volume_17.{ending}"
    make(path)
    capfd.readouterr()
    with pytest.raises(FedCoWProError, match=message) as caught:
        read_image(path)
    assert capfd.readouterr() == ("", "")
    assert path.name in caught.value.got
    assert caught.value.remedy


def test_standard_error_is_there_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    read_image(save(tmp_path / "image.mha", VOXELS, AFFINE))
    print("seen", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "seen\n"


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "image.mha", VOXELS, AFFINE))
    moved = AFFINE.copy()
    moved[0, 3] += 1
    for labels, affine, message in (
        (LABELS[1:], AFFINE, "shape"),
        (LABELS, moved, "affine differs"),
        (VOXELS, AFFINE, "whole numbers"),
    ):
        with pytest.raises(FedCoWProError, match=message) as caught:
            read_labels(save(tmp_path / "label.nrrd", labels, affine), image)
        assert "label.nrrd" in caught.value.got


def test_without_the_extra_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "image.mha", VOXELS, AFFINE)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(FedCoWProError, match="no package 'SimpleITK'") as caught:
        read_volume(path)
    assert caught.value.remedy == "pip install 'fedcowpro[itk]'"


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_endings_in_upper_case(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"image.{ending}", VOXELS, affine_for((0, 1, 2), (-1, -1, 1)))
    expected = read_volume(path).voxels
    np.testing.assert_array_equal(read_volume(path.rename(tmp_path / f"IMAGE.{ending.upper()}")).voxels, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are a matter of Linux")
def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """SimpleITK would end the process."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.nrrd"))
    save(tmp_path / "image.nrrd", VOXELS, affine_for((0, 1, 2), (-1, -1, 1))).rename(path)
    with pytest.raises(FedCoWProError, match="a name that is not UTF-8"):
        read_volume(path)
    assert lattice_of(path) is None
