"""Arrays of both orders; what stands for several volumes."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.accept import Order, as_labels, as_volume, as_volumes, order_of, painted_slices, several

RAMP = np.arange(8 * 8 * 5, dtype=np.float32).reshape(8, 8, 5)  # (x, y, z)


@pytest.mark.parametrize(
    ("shape", "spacing", "order"),
    [
        ((40, 256, 256), (5.0, 0.8, 0.8), "zyx"),
        ((256, 256, 40), (0.8, 0.8, 5.0), "xyz"),
        ((40, 200, 256), (5.0, 0.8, 0.8), "zyx"),  # cropped: the spacing tells
        ((256, 200, 40), (0.8, 0.8, 5.0), "xyz"),
        ((40, 256, 256), (1.0, 1.0, 1.0), "zyx"),  # cubes of voxels: the shape tells
        ((256, 256, 40), (1.0, 1.0, 1.0), "xyz"),
        ((37, 256, 256), (7.7, 1.25, 1.2500001), "zyx"),
    ],
)
def test_the_order_is_told_from_shape_and_spacing(
    shape: tuple[int, ...], spacing: tuple[float, ...], order: Order
) -> None:
    assert order_of(shape, spacing) == order


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((256, 256, 40), (5.0, 0.8, 0.8)),  # turned, but the spacing was not
        ((40, 256, 256), (0.8, 0.8, 5.0)),
        ((64, 64, 64), (1.0, 1.0, 1.0)),
        ((40, 200, 256), (3.0, 2.0, 1.0)),
    ],
)
def test_an_order_that_cannot_be_told_is_asked_for(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    with pytest.raises(FedCoWProError, match=r"order='zyx' or order='xyz'"):
        order_of(shape, spacing)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert as_volume(image, spacing, order="zyx").voxels.shape == shape
    assert as_volume(image, spacing, order="xyz").voxels.shape == shape[::-1]


def test_nibabels_order_is_the_same_volume_as_the_file(tmp_path: Path) -> None:
    affine = np.diag([0.8, 0.8, 5.0, 1.0])
    nib.save(nib.Nifti1Image(RAMP, affine), tmp_path / "image.nii.gz")
    file = as_volume(tmp_path / "image.nii.gz")
    with pytest.warns(UserWarning, match="nibabel's axes"):
        array = as_volume(RAMP, (0.8, 0.8, 5.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = as_volume(RAMP, (0.8, 0.8, 5.0), order="xyz")
    for one in (array, told):
        assert np.array_equal(one.voxels, file.voxels)
        assert one.spacing == pytest.approx(file.spacing)
        assert one.grid.millilitres == pytest.approx(file.grid.millilitres)
    # A mask lies on the image's own axes, and painted slices count along its own last one.
    labels = as_labels((RAMP > 100).astype(np.uint8), told)
    assert labels.voxels.shape == (5, 8, 8)
    assert painted_slices([1], labels).tolist() == [False, True, False, False, False]


def test_order_is_for_arrays_alone(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(RAMP, np.eye(4)), tmp_path / "image.nii.gz")
    with pytest.raises(FedCoWProError, match="order 'xyz' beside a file"):
        as_volume(tmp_path / "image.nii.gz", order="xyz")
    with pytest.raises(FedCoWProError, match="order='yxz'"):
        as_volume(RAMP, (1, 1, 2), order="yxz")  # type: ignore[arg-type]
    mixed = as_volumes([tmp_path / "image.nii.gz", RAMP], (1, 1, 2), "xyz")
    assert [one.spacing for one in mixed] == [(1, 1, 1), (2, 1, 1)]


def test_what_stands_for_several_volumes(tmp_path: Path) -> None:
    paths = [tmp_path / f"p{number}.nii.gz" for number in (1, 2)]
    for path in paths:
        nib.save(nib.Nifti1Image(RAMP, np.eye(4)), path)
    assert several(paths[0]) is None
    assert several(RAMP) is None
    assert several(str(tmp_path / "*.nii.gz")) == several(tmp_path) == several(paths) == paths
    assert several(str(tmp_path / "p1*")) == paths[:1]
    assert several(tmp_path / "none.nii.gz") is None  # whoever reads it says that it is not there
    os.rename(paths[0], tmp_path / "odd [1].nii.gz")
    assert several(tmp_path / "odd [1].nii.gz") is None
    for given in ([], [tmp_path / "none.nii.gz"], str(tmp_path / "*.nrrd")):
        with pytest.raises(FedCoWProError):
            several(given)
