"""What paths, folders and patterns stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicom_files import write_series
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.find import find_volumes, stem_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    own = ("a_mask.nii.gz", "a_probabilities.nii.gz")
    for name in ("b.nii.gz", "a.nii", "c.nrrd", *own, "notes.txt", "deep/d.nii.gz"):
        (tmp_path / name).touch()
    write_series(tmp_path / "series", np.zeros((3, 4, 4)) + np.arange(4), (3.0, 1.0, 1.0))
    return tmp_path


def names(found: list[Path]) -> list[str]:
    return [path.name for path in found]


def test_a_folder_is_the_volumes_directly_in_it(folder: Path) -> None:
    """But for what `segment` wrote; a folder of DICOM files is one volume."""
    assert names(find_volumes([folder])) == ["a.nii", "b.nii.gz", "c.nrrd", "series"]
    assert names(find_volumes([folder / "series"])) == ["series"]


def test_patterns_and_repetitions(folder: Path) -> None:
    assert names(find_volumes([folder / "*.nii.gz"])) == ["b.nii.gz"]
    assert names(find_volumes([folder / "**" / "*.nii.gz"])) == ["b.nii.gz", "d.nii.gz"]
    given = [folder / "c.nrrd", folder, folder / "a.nii"]
    assert names(find_volumes(given)) == ["c.nrrd", "a.nii", "b.nii.gz", "series"]
    assert names(find_volumes([folder / "a_mask.nii.gz"])) == ["a_mask.nii.gz"]  # asked for by name


@pytest.mark.parametrize("given", ["none.nii.gz", "*.mha", "empty"])
def test_what_stands_for_nothing_is_refused(folder: Path, given: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(FedCoWProError, match=r"no (file|volume)"):
        find_volumes([folder / given])


def test_stems(tmp_path: Path) -> None:
    (tmp_path / "scan.1").mkdir()
    assert [stem_of(Path(name)) for name in ("x/p.1.nii.gz", "q.mha")] == ["p.1", "q"]
    assert stem_of(tmp_path / "scan.1") == "scan.1"


def test_a_cd_stands_for_the_series_below_its_directory(tmp_path: Path) -> None:
    voxels = np.zeros((3, 4, 4)) + np.arange(4)
    for name in ("SE1", "SE2"):
        write_series(tmp_path / "PAT" / name, voxels, (3.0, 1.0, 1.0), series=name)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(100))
    assert names(find_volumes([tmp_path])) == ["SE1", "SE2"]


def test_volumes_beside_stray_dicom_files_are_taken_and_those_named(tmp_path: Path) -> None:
    """A localiser of one slice is no volume; a whole series is."""
    voxels = np.zeros((3, 4, 4)) + np.arange(4)
    (tmp_path / "a.nii.gz").touch()
    scout, *others = write_series(tmp_path, voxels, (3.0, 1.0, 1.0))
    assert set(find_volumes([tmp_path])) == {tmp_path, tmp_path / "a.nii.gz"}
    for file in others:
        file.unlink()
    with pytest.warns(UserWarning, match=f"passed over {scout.name}: left out .* fewer than 3 parallel slices"):
        assert names(find_volumes([tmp_path])) == ["a.nii.gz"]
