"""Files as the field has them: what public bug reports brought to light, each with the right value."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.oneshot.batch_record import require_own
from fedcowpro.volume.accept import known_slices
from fedcowpro.volume.checks import UNKNOWN, mark_unknown
from fedcowpro.volume.find import find_volumes, stem_of
from fedcowpro.volume.nifti import read_image, read_labels
from fedcowpro.volume.preprocess import guess_modality, modality_of
from fedcowpro.volume.read import read_volume
from fedcowpro.volume.volume import Grid, Volume

AFFINE = np.diag([3.0, 3.0, 5.0, 1.0])
VOXELS = np.arange(8 * 9 * 6, dtype=np.int16).reshape(8, 9, 6)


def save(path: Path, voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE) -> Path:
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def patched(path: Path, offset: int, layout: str, *values: float) -> Path:
    raw = bytearray(path.read_bytes())
    struct.pack_into(f"<{layout}", raw, offset, *values)
    path.write_bytes(bytes(raw))
    return path


def volume_of(voxels: np.ndarray, **other: object) -> Volume:
    grid = Grid(voxels.shape, AFFINE)  # type: ignore[arg-type]
    return Volume(voxels.astype(np.float32), grid.spacing, grid, "v", **other)  # type: ignore[arg-type]


def test_only_known_endings_are_cut() -> None:
    names = ("2.25.4711.17", "2.25.4711.18", "P2.NII.GZ", "a.v1..nii", "x.dcm")
    assert [stem_of(Path(name)) for name in names] == ["2.25.4711.17", "2.25.4711.18", "P2", "a.v1.", "x"]


def test_the_result_of_another_query_is_not_replaced(tmp_path: Path) -> None:
    mask = save(tmp_path / "ct_mask.nii.gz")
    with pytest.raises(FedCoWProError, match="no record"):
        require_own(mask, mask, "a", overwrite=False)
    require_own(mask, mask, "a", overwrite=True)
    one, other = save(tmp_path / "1.nii"), save(tmp_path / "2.nii", VOXELS + 1)
    (tmp_path / "ct_mask.json").write_text(f'{{"query": "{one}", "query_digest": "0", "settings_digest": "a"}}')
    require_own(one, mask, "a", overwrite=False)
    with pytest.raises(FedCoWProError, match="other"):
        require_own(one, mask, "b", overwrite=False)
    require_own(one, mask, "b", overwrite=True)
    for overwrite in (False, True):
        with pytest.raises(FedCoWProError, match="another query"):
            require_own(other, mask, "a", overwrite=overwrite)


@pytest.mark.parametrize("parts", [(0.0, 0.0, 1.000001), (0.9, 0.9, 0.9), (np.nan, 0, 0)])
def test_the_sform_decides_beside_a_bad_qform(tmp_path: Path, parts: tuple[float, ...]) -> None:
    volume = read_image(patched(save(tmp_path / "v.nii"), 256, "3f", *parts))
    np.testing.assert_allclose(volume.grid.affine, AFFINE)


def test_rounding_of_a_lone_qform_is_tolerated(tmp_path: Path) -> None:
    turned = np.diag([-3.0, -3.0, 5.0, 1.0])  # a turn about z: the quaternion is (0, 0, 1)
    path = patched(save(tmp_path / "v.nii", affine=turned), 256, "3f", 0.0, 0.0, 1.000001)
    volume = read_image(patched(path, 254, "h", 0))
    np.testing.assert_allclose(volume.grid.affine, turned, atol=1e-4)


def test_millilitres_of_a_slanted_grid() -> None:
    slanted = AFFINE.copy()
    slanted[1, 2] = 5 * np.tan(np.deg2rad(25))
    assert Grid((2, 2, 3), slanted).millilitres == pytest.approx(0.045)  # 3 x 3 x 5 mm, however slanted


def test_labels_off_by_rounding(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "i.nii"))
    labels = (VOXELS % 4).astype(np.float32)
    found = read_labels(save(tmp_path / "l.nii", labels * np.float32(0.99999)), image)
    np.testing.assert_array_equal(found.voxels, image.grid.to_internal(labels).astype(np.uint8))
    for bad in (0.7, -1, np.nan, 256):
        odd = labels.copy()
        odd[1, 2, 3] = bad
        with pytest.raises(FedCoWProError, match=rf"{bad}.*\(1, 2, 3\)"):
            read_labels(save(tmp_path / "l.nii", odd), image)


def test_the_header_says_the_modality_then_the_values() -> None:
    ringing = np.where(np.arange(6000) % 2, 800.0, 0.0).reshape(10, 20, 30)
    ringing[0, 0] = -90
    ringing[1, 0] = -60
    air = np.where(np.arange(6000) % 2, 40.0, -1000.0).reshape(10, 20, 30)
    assert guess_modality(volume_of(ringing)) == "mr"
    assert modality_of(volume_of(air)) == "ct"
    with pytest.warns(UserWarning, match="taken for MR, but its values"):
        assert modality_of(volume_of(air, modality="mr")) == "mr"
    with pytest.warns(UserWarning, match="do not tell for sure"):
        modality_of(volume_of(ringing))
    with pytest.warns(UserWarning, match="no Hounsfield units"):
        assert modality_of(volume_of(np.abs(air)), "ct") == "ct"


def test_every_file_of_a_folder_is_taken_or_named(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz").rename(tmp_path / "A.NII.GZ")
    (tmp_path / "gone.nii.gz").symlink_to("nowhere")
    (tmp_path / "odd.xyz").touch()
    with pytest.warns(UserWarning, match=r"passed over odd\.xyz"):
        assert [path.name for path in find_volumes([tmp_path])] == ["A.NII.GZ", "gone.nii.gz"]
    with pytest.raises(FedCoWProError, match="a link to a file that is not there"):
        read_volume(tmp_path / "gone.nii.gz")
    assert read_volume(tmp_path / "A.NII.GZ").voxels.shape == (6, 9, 8)


def test_packed_or_not_is_told_by_content(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz").rename(tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").voxels.shape == (6, 9, 8)
    save(tmp_path / "b.nii").rename(tmp_path / "b.nii.gz")
    assert read_volume(tmp_path / "b.nii.gz").voxels.shape == (6, 9, 8)


def test_unknown_voxels_and_slices() -> None:
    labels = np.zeros((6, 4, 4), np.uint8)
    labels[2, 1] = 4
    given = volume_of(labels)
    given = Volume(labels, given.spacing, given.grid, "l")
    assert set(np.unique(mark_unknown(given, 4).voxels)) == {0, UNKNOWN}
    with pytest.warns(UserWarning, match="labels in one slice of 6"):
        assert np.flatnonzero(known_slices(None, given)).tolist() == [2]
    assert known_slices("all", given).all()
