"""Files in and out: what is written comes back, and what cannot be used is refused by name."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.checks import require_nonempty
from fedcowpro.volume.nifti import (
    read_image,
    read_labels,
    write_labels,
    write_probabilities,
)

AFFINE = np.array([[-0.9, 0, 0, 40.0], [0, 1.1, 0, -30], [0, 0, 4, 7], [0, 0, 0, 1]])
SHAPE = (7, 6, 5)
RNG = np.random.default_rng(1)
VOXELS = RNG.normal(size=SHAPE).astype(np.float32)
LABELS = RNG.integers(0, 4, SHAPE).astype(np.uint8)


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.mark.parametrize("name", ["out.nii", "new/out.nii.gz"])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 4)])
def test_labels_return_to_the_same_voxels(tmp_path: Path, name: str, codes: tuple[int, int]) -> None:
    original = nib.Nifti1Image(VOXELS, AFFINE)
    original.set_sform(AFFINE if codes[0] else None, codes[0])
    other = AFFINE.copy()
    other[:3, 3] += 3
    original.set_qform(other if codes[1] else None, codes[1])
    nib.save(original, tmp_path / "image.nii.gz")
    volume = read_image(tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(LABELS, None, original.header), tmp_path / "label.nii.gz")
    labels = read_labels(tmp_path / "label.nii.gz", volume)

    write_labels(tmp_path / name, labels.voxels, volume.grid)

    back = nib.load(tmp_path / name)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), LABELS)
    assert back.get_data_dtype() == np.uint8
    np.testing.assert_allclose(back.affine, original.affine, atol=1e-5)
    assert (int(back.header["sform_code"]), int(back.header["qform_code"])) == codes
    if codes[1]:
        np.testing.assert_allclose(back.get_qform(), original.get_qform(), atol=1e-5)
    np.testing.assert_allclose(back.header.get_zooms(), (0.9, 1.1, 4), rtol=1e-6)
    assert [entry for entry in (tmp_path / name).parent.iterdir() if entry.suffix == ".tmp"] == []


def test_image_is_read_scaled_and_oriented(tmp_path: Path) -> None:
    image = nib.Nifti1Image((np.arange(210).reshape(SHAPE)).astype(np.int16), AFFINE)
    image.header.set_slope_inter(2, -100)
    nib.save(image, tmp_path / "ct.nii.gz")
    volume = read_image(tmp_path / "ct.nii.gz")
    expected = np.asanyarray(nib.load(tmp_path / "ct.nii.gz").dataobj)
    assert volume.voxels.dtype == np.float32
    # x grows to the left, y to the front: only y is flipped.
    np.testing.assert_array_equal(volume.voxels, expected.transpose(2, 1, 0)[:, ::-1])
    np.testing.assert_allclose(volume.spacing, (4, 1.1, 0.9))


def test_nifti_2_and_a_trailing_axis_are_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(VOXELS[..., None], AFFINE), tmp_path / "image.nii")
    assert read_image(tmp_path / "image.nii").voxels.shape == (5, 6, 7)


def test_oblique_is_said(tmp_path: Path) -> None:
    tilt = np.deg2rad(10)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    path = save(tmp_path / "tilted.nii.gz", VOXELS, rotation @ AFFINE)
    with pytest.warns(UserWarning, match=r"tilted\.nii\.gz: oblique"):
        assert read_image(path).grid.oblique


def test_probabilities_keep_classes_last(tmp_path: Path) -> None:
    volume = read_image(save(tmp_path / "image.nii.gz", VOXELS))
    probs = np.stack([volume.voxels, 1 - volume.voxels])
    write_probabilities(tmp_path / "p.nii.gz", probs, volume.grid)
    back = nib.load(tmp_path / "p.nii.gz")
    np.testing.assert_array_equal(back.get_fdata(dtype=np.float32), np.stack([VOXELS, 1 - VOXELS], -1))
    np.testing.assert_allclose(back.affine, AFFINE, atol=1e-5)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = read_image(save(tmp_path / "image.nii.gz", VOXELS))
    write_labels(tmp_path / "out.nii.gz", np.ones((5, 6, 7), np.uint8), volume.grid)
    before = (tmp_path / "out.nii.gz").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_labels(tmp_path / "out.nii.gz", np.zeros((5, 6, 7), np.uint8), volume.grid)
    assert (tmp_path / "out.nii.gz").read_bytes() == before


def headless(path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, None)
    nib.save(image, path)


def singular(path: Path) -> None:
    save(path, VOXELS)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[280:328] = np.zeros(12, np.float32).tobytes()  # srow_x, srow_y, srow_z
    path.write_bytes(gzip.compress(raw))


def short_data(path: Path) -> None:
    save(path, VOXELS)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))


def in_metres(path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.header.set_xyzt_units("meter")
    nib.save(image, path)


def with_value(value: float) -> Callable[[Path], object]:
    voxels = VOXELS.copy()
    voxels[1, 2, 3] = value
    return lambda path: save(path, voxels)


RGB = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "series": (lambda path: save(path, np.zeros((*SHAPE, 2), np.float32)), "4-D"),
    "flat": (lambda path: save(path, np.zeros(SHAPE[:2], np.float32)), "2-D"),
    "complex": (lambda path: save(path, VOXELS.astype(np.complex64)), "complex"),
    "rgb": (lambda path: save(path, RGB), "RGB"),
    "nan": (with_value(np.nan), "1 voxels are NaN or infinite"),
    "infinite": (with_value(np.inf), "1 voxels are NaN or infinite"),
    "headless": (headless, "no orientation"),
    "singular": (singular, "singular"),
    "metres": (in_metres, "lengths in meter"),
    "two slices": (lambda path: save(path, VOXELS[..., :2]), r"2 axial slice\(s\)"),
    "constant": (lambda path: save(path, np.full(SHAPE, 7.0, np.float32)), "every voxel is 7"),
    "cut gzip": (
        lambda path: path.write_bytes(save(path, VOXELS).read_bytes()[:-30]),
        "not a whole gzip file",
    ),
    "no gzip": (lambda path: path.write_bytes(b"plain text"), "not a whole gzip file"),
    "short": (short_data, "fewer voxels than the header says"),
    "no nifti": (lambda path: path.write_bytes(gzip.compress(bytes(400))), "no NIfTI header"),
    "missing": (lambda path: None, "no file"),
    "folder": (lambda path: path.mkdir(), "cannot be read"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unusable_images_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    make, message = REFUSED[kind]
    path = tmp_path / "volume_17.nii.gz"
    make(path)
    with pytest.raises(FedCoWProError, match=message) as caught:
        read_image(path)
    assert "volume_17.nii.gz" in caught.value.got
    assert caught.value.expected
    assert caught.value.remedy


def test_other_file_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="file ending"):
        read_image(tmp_path / "scan.dcm")
    volume = read_image(save(tmp_path / "image.nii.gz", VOXELS))
    with pytest.raises(FedCoWProError, match=r"ending with \.nii"):
        write_labels(tmp_path / "out.png", np.zeros((5, 6, 7), np.uint8), volume.grid)
    with pytest.raises(FedCoWProError, match="array of shape"):
        write_labels(tmp_path / "out.nii", np.zeros((7, 6, 5), np.uint8), volume.grid)
    with pytest.raises(FedCoWProError, match="float32"):
        write_labels(tmp_path / "out.nii", np.zeros((5, 6, 7), np.float32), volume.grid)


SHIFTED, NUDGED = AFFINE.copy(), AFFINE.copy()
SHIFTED[0, 3] += 1
NUDGED[0, 3] += 1e-3


@pytest.mark.parametrize(
    ("labels", "affine", "message"),
    [
        (LABELS[:-1], AFFINE, "shape"),
        (LABELS, SHIFTED, "affine differs"),
        (LABELS + np.float32(0.5), AFFINE, "whole numbers"),
        (LABELS.astype(np.int16) - 1, AFFINE, "whole numbers"),
        (LABELS.astype(np.int16) + 253, AFFINE, "whole numbers"),
        (np.where(LABELS == 1, np.nan, 0).astype(np.float32), AFFINE, "whole numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    tmp_path: Path, labels: np.ndarray, affine: np.ndarray, message: str
) -> None:
    volume = read_image(save(tmp_path / "image.nii.gz", VOXELS))
    path = save(tmp_path / "label_3.nii.gz", labels, affine)
    with pytest.raises(FedCoWProError, match=message) as caught:
        read_labels(path, volume)
    assert "label_3.nii.gz" in caught.value.got


def test_float_labels_and_rounded_headers_are_accepted(tmp_path: Path) -> None:
    volume = read_image(save(tmp_path / "image.nii.gz", VOXELS))
    labels = read_labels(save(tmp_path / "label.nii.gz", LABELS.astype(np.float64), NUDGED), volume)
    assert labels.voxels.dtype == np.uint8
    np.testing.assert_array_equal(labels.voxels, volume.grid.to_internal(LABELS))


def test_an_empty_support_mask_is_refused() -> None:
    require_nonempty(np.array([0, 1]), Path("mask.nii.gz"))
    with pytest.raises(FedCoWProError, match=r"mask\.nii\.gz: the mask is empty"):
        require_nonempty(np.zeros((3, 4, 4), np.uint8), Path("mask.nii.gz"))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SPL", "AIR"])
def test_labels_may_be_stored_along_other_axes(tmp_path: Path, axes: str) -> None:
    """As where a tool turned the image's rows on the way from DICOM: the voxels are the same ones."""
    volume = read_image(save(tmp_path / "image.nii.gz", VOXELS))
    plain = save(tmp_path / "label.nii.gz", LABELS)
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(tuple(axes)))
    nib.save(nib.load(plain).as_reoriented(turn), tmp_path / "turned.nii.gz")
    turned = read_labels(tmp_path / "turned.nii.gz", volume)
    np.testing.assert_array_equal(turned.voxels, read_labels(plain, volume).voxels)


def test_turned_labels_in_another_place_are_refused(tmp_path: Path) -> None:
    """Mirrored in space, not only in storage."""
    volume = read_image(save(tmp_path / "image.nii.gz", VOXELS))
    mirrored = AFFINE.copy()
    mirrored[:, 0] *= -1
    with pytest.raises(FedCoWProError, match="affine differs"):
        read_labels(save(tmp_path / "label.nii.gz", LABELS, mirrored), volume)
