"""Files from the field on the page: notes with the user's own names, and nothing that is passed over in silence."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedcowpro.serve.content import stored_name
from fedcowpro.volume.read import read_volume
from serve_pages import Page, Serving


def send(page: Page, files: list[Path], name: str) -> dict[str, Any]:
    """Upload files with their names, as the page does, and open them."""
    key = page.post("/api/uploads").json()["id"]
    for number, file in enumerate(files):
        sent = page.put(f"/api/uploads/{key}/{number}", params={"name": file.name}, content=file.read_bytes())
        assert sent.status_code == 200, sent.text
    answer: dict[str, Any] = page.post(f"/api/uploads/{key}/open", json={"name": name}).json()
    return answer


def series(folder: Path, image: Path, **options: Any) -> list[Path]:
    pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
    from dicom_files import write_series

    volume = read_volume(image)
    return write_series(folder, np.round(volume.voxels), volume.spacing, **options)


def test_slices_that_are_left_out_are_named_as_their_user_does(page: Page, phantoms: Path, tmp_path: Path) -> None:
    def other_pixels(dataset: Any, number: int) -> None:
        if number < 2:
            dataset.PixelSpacing = ["9", "9"]

    files = series(tmp_path / "s", phantoms / "ct" / "image_2.nii.gz", edit=other_pixels, prefix="IM_")
    opened = send(page, files, "my series")
    (note,) = opened["notes"]
    assert note == f"left out 00000-{files[0].name} and 1 more: fewer than 3 parallel slices"
    assert opened["size"][2] == 8


def test_errors_name_files_as_their_user_does(page: Page, phantoms: Path, tmp_path: Path) -> None:
    files = series(tmp_path / "s", phantoms / "ct" / "image_2.nii.gz", prefix="IM_")
    error = send(page, [*files[:4], *files[5:]], "my series")["error"]  # a slice is missing
    assert f"00003-{files[3].name}" in error["got"]
    unplaced = nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), None)
    unplaced.set_sform(None, 0)
    unplaced.set_qform(None, 0)
    nib.save(unplaced, tmp_path / "Mine.nii")
    error = send(page, [tmp_path / "Mine.nii"], "Mine.nii")["error"]
    assert error["got"].startswith("Mine.nii: no orientation")


def test_doubt_on_the_modality_is_said(page: Page, phantoms: Path, tmp_path: Path) -> None:
    files = series(tmp_path / "s", phantoms / "ct" / "image_2.nii.gz", modality="mr")
    opened = send(page, files, "scan")
    assert opened["modality"] == "mr"
    assert "taken for MR, but its values" in opened["notes"][0]


def test_an_example_of_another_modality_is_said(page: Page, phantoms: Path) -> None:
    example, query = page.open("ct/image_1.nii.gz"), page.open("t2/image_1.nii.gz")
    width, height, _ = example["size"]
    drawn = np.zeros((height, width), np.uint8)
    drawn[20:40, 20:40] = 1
    page.put(f"/api/volumes/{example['id']}/slices", params={"numbers": "5"}, content=drawn.tobytes())
    for _ in range(2):  # said once however often it is segmented
        assert page.wait(page.post("/api/segment").json()["id"])["state"] == "done"
    (note,) = page.get(f"/api/volumes/{query['id']}").json()["notes"]
    assert note == "image_1.nii.gz: MR, segmented like CT examples; organs look different there and masks are worse"
    assert page.get(f"/api/volumes/{example['id']}").json()["notes"] == []


def test_two_volumes_in_one_upload_are_called_so(page: Page, phantoms: Path) -> None:
    error = send(page, [phantoms / "ct" / f"image_{case}.nii.gz" for case in "12"], "two")["error"]
    assert error["got"] == "2 NIfTI volume(s) among 2 files"
    assert error["remedy"] == "open them one by one"


def test_the_listing_names_what_cannot_be_opened(serving: Serving, phantoms: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(phantoms / "ct" / "image_1.nii.gz", data / "P1.NII.GZ")
    (data / "p2.nii.gz").symlink_to(".git/annex/nowhere.nii.gz")
    (data / "out.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")  # of places outside nothing is told
    (data / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(100))
    if sys.platform == "linux":
        shutil.copy(phantoms / "ct" / "image_2.nii.gz", os.path.join(os.fsencode(data), b"M\xfcller.nii.gz"))
    page = Page(serving(data))
    listed = page.get("/api/folder").json()
    assert not listed["series"]
    entries = {one["name"]: (one["kind"], one["why"]) for one in listed["entries"]}
    if sys.platform == "linux":
        assert entries.pop(r"M\xfcller.nii.gz") == ("unusable", "a name that is not UTF-8; rename it to open it here")
    assert entries == {"P1.NII.GZ": ("nifti", ""), "p2.nii.gz": ("unusable", "a link to a file that is not there")}
    assert page.open("P1.NII.GZ")["size"] == [64, 64, 10]


def test_a_relative_data_folder_leaves_messages_whole(
    serving: Serving, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(phantoms / "ct")
    error = Page(serving(Path("."))).upload(b"x" * 600, name="Mine.nii").json()["error"]
    assert error["expected"] == "a NIfTI volume, the files of a DICOM series, or a zip archive of them"
    assert error["remedy"] == "convert it, for example with dcm2niix"


@pytest.mark.parametrize("name", ["../../x", "a\\..\\b", "a\0b\n", "\u60a3" * 300, "C:\\x?", "/", "..", ""])
def test_stored_names_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / stored_name(7, name)
    path.touch()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.name.startswith("00007")
    assert len(os.fsencode(path.name)) <= 255
