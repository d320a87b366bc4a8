"""No path leads out of the data folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serve_pages import Page, Serving


@pytest.fixture
def data(phantoms: Path, tmp_path: Path) -> Path:
    """A data folder beside a secret, with links in and out."""
    data = tmp_path / "data"
    (data / "in").mkdir(parents=True)
    shutil.copy(phantoms / "ct" / "image_1.nii.gz", data / "in" / "a.nii.gz")
    secret = tmp_path / "secret.nii.gz"
    shutil.copy(phantoms / "ct" / "image_2.nii.gz", secret)
    (data / "out.nii.gz").symlink_to(secret)
    (data / "up").symlink_to(tmp_path)
    (data / "loop").symlink_to(data / "loop")
    (data / "inner.nii.gz").symlink_to(data / "in" / "a.nii.gz")
    (data / ".hidden.nii.gz").write_bytes(secret.read_bytes())
    (data / "notes.txt").write_text("no volume")
    return data


OUT = [
    "../secret.nii.gz", "in/../../secret.nii.gz", "in/../in/a.nii.gz", "/etc/passwd", "//etc/passwd", "out.nii.gz",
    "up/secret.nii.gz", "up", "loop", ".hidden.nii.gz", "in\\..\\a", "in/a.nii.gz\0.png", "nothing.nii.gz", "~/x", "..",
]  # fmt: skip


@pytest.mark.parametrize("path", OUT)
def test_paths_that_lead_out_are_refused_alike(serving: Serving, data: Path, path: str) -> None:
    page = Page(serving(data))
    opened = page.post("/api/open", json={"path": path})
    listed = page.get("/api/folder", params={"path": path})
    assert opened.status_code == listed.status_code == 404
    assert opened.json()["error"]["got"] == "no such file or folder in the data folder"
    assert str(data) not in opened.text
    assert page.get("/api/state").json()["volumes"] == []


def test_an_absolute_path_into_the_folder_is_refused_as_well(serving: Serving, data: Path) -> None:
    assert Page(serving(data)).post("/api/open", json={"path": str(data / "in" / "a.nii.gz")}).status_code == 404


def test_the_listing_shows_what_can_be_opened(serving: Serving, data: Path) -> None:
    page = Page(serving(data))
    entries = page.get("/api/folder").json()["entries"]
    assert [(one["name"], one["kind"]) for one in entries] == [("in", "folder"), ("inner.nii.gz", "nifti")]
    assert page.get("/api/folder", params={"path": "in"}).json()["entries"][0]["path"] == "in/a.nii.gz"
    assert page.open("in/a.nii.gz")["size"] == [64, 64, 10]
    assert page.open("inner.nii.gz")["name"] == "inner.nii.gz"  # a link that stays inside


def test_without_a_data_folder_there_is_no_listing(serving: Serving) -> None:
    page = Page(serving(None))
    assert page.get("/api/folder").status_code == page.post("/api/open", json={"path": "x"}).status_code == 404


def test_links_in_a_folder_of_dicom_do_not_lead_out(serving: Serving, tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
    from dicom_files import write_series
    from fedcowpro.data.phantom import make_phantom

    phantom = make_phantom("ct", 1, 64, 10)
    data = tmp_path / "data"
    write_series(data / "mine", phantom.image[:6], phantom.spacing)
    for number, file in enumerate(write_series(tmp_path / "theirs", phantom.image, phantom.spacing)[6:]):
        (data / "mine" / f"link{number}").symlink_to(file)
    page = Page(serving(data))
    assert [one["kind"] for one in page.get("/api/folder").json()["entries"]] == ["series"]
    assert page.open("mine")["size"] == [64, 64, 6]
