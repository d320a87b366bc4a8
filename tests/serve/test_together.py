"""A folder as a whole: open all of it, take masks that lie beside images, look at all volumes, save all masks."""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from test_working import labels_of, paint, segment, truth

from fedcowpro.volume import measure
from fedcowpro.volume.nifti import read_image, write_labels
from fedcowpro.volume.read import read_labels
from serve_pages import Page, Serving


@pytest.fixture
def page(serving: Serving, phantoms: Path, tmp_path: Path) -> Page:
    """Three images, a label map of the first, and what is no volume."""
    data = tmp_path / "ward"
    data.mkdir()
    for case in ("1", "2", "3"):
        shutil.copy(phantoms / "ct" / f"image_{case}.nii.gz", data)
    shutil.copy(phantoms / "ct" / "label_1.nii.gz", data)
    (data / "image_4.nii.gz").write_bytes(b"\x1f\x8b nothing")
    return Page(serving(data, volumes=10))


def open_all(page: Page, path: str = "") -> dict:  # type: ignore[type-arg]
    answer = page.post("/api/open-all", json={"path": path})
    assert answer.status_code == 202, answer.text
    return page.wait(answer.json()["id"])


def test_a_folder_opens_but_for_label_maps_and_what_cannot(page: Page) -> None:
    assert page.get("/api/folder").json()["images"] == 4  # one of them is damaged
    job = open_all(page)
    assert job["state"] == "done"
    assert len(job["notes"]) == 1
    assert job["notes"][0].startswith("image_4.nii.gz is not open")
    volumes = page.get("/api/state").json()["volumes"]
    assert [(one["name"], one["mask"]) for one in volumes] == [
        ("image_1.nii.gz", True), ("image_2.nii.gz", False), ("image_3.nii.gz", False),
    ]  # fmt: skip
    again = open_all(page)  # those that are open are not opened twice
    assert len(again["notes"]) == 1
    assert len(page.get("/api/state").json()["volumes"]) == 3
    assert page.post("/api/open-all", json={"path": ".."}).status_code == 404


def test_a_mask_beside_an_image_is_an_example_or_a_start(page: Page, phantoms: Path) -> None:
    open_all(page)
    keys = [one["id"] for one in page.get("/api/state").json()["volumes"]]
    whole = nib.as_closest_canonical(nib.load(phantoms / "ct" / "label_1.nii.gz"))
    expected = np.asanyarray(whole.dataobj).T[:, ::-1, ::-1]
    answer = page.post(f"/api/volumes/{keys[0]}/mask", params={"use": "start"}).json()
    np.testing.assert_array_equal(labels_of(page, keys[0]), expected)
    assert answer["volume"]["painted"] == []
    assert answer["volume"]["confidence"]["1"] is None
    assert [one["value"] for one in answer["labels"]] == sorted({1, *np.unique(expected[expected > 0]).tolist()})
    assert segment(page)["state"] == "failed"  # nothing is an example yet
    answer = page.post(f"/api/volumes/{keys[0]}/mask", params={"use": "example"}).json()
    assert answer["volume"]["painted"] == list(range(10))
    assert segment(page)["state"] == "done"
    np.testing.assert_array_equal(labels_of(page, keys[0]), expected)
    assert (labels_of(page, keys[1]) == 1).any()
    assert page.post(f"/api/volumes/{keys[1]}/mask", params={"use": "example"}).status_code == 404


def test_a_mask_brings_its_names_and_those_that_were_given_stay(page: Page) -> None:
    open_all(page)
    key = page.get("/api/state").json()["volumes"][0]["id"]
    path = page.app.state.server.data.root / "label_1.nii.gz"
    image = read_image(path.with_name("image_1.nii.gz"))
    labels = read_labels(path, image).voxels
    write_labels(path, labels, image.grid, {1: "liver", 2: "right kidney", 99: "not there"})
    page.put("/api/labels", json={"labels": [{"value": 1, "name": "organ 1"}, {"value": 2, "name": "mine"}]})
    answer = page.post(f"/api/volumes/{key}/mask", params={"use": "start"}).json()
    names = {one["value"]: one["name"] for one in answer["labels"]}
    assert (names[1], names[2]) == ("liver", "mine")
    assert 99 not in names


def test_thumbnails_and_all_masks_in_one_archive(page: Page, phantoms: Path) -> None:
    open_all(page)
    keys = [one["id"] for one in page.get("/api/state").json()["volumes"]]
    assert page.get("/api/export-all").status_code == 409
    page.put("/api/labels", json={"labels": [{"value": 1, "name": "liver & <gall>"}]})
    paint(page, keys[0], truth(phantoms, "1"), 5)
    segment(page)
    picture = np.frombuffer(page.get(f"/api/volumes/{keys[0]}/thumbnail").content, np.uint8).reshape(2, 96, 96)
    assert picture[0].std() > 10
    assert set(np.unique(picture[1])) == {0, 1}
    answer = page.get("/api/export-all")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = archive.namelist()
        table = pd.read_csv(io.BytesIO(archive.read("volumes.csv")))
        mask = nib.Nifti1Image.from_bytes(gzip.decompress(archive.read("image_1_mask.nii.gz")))
    assert names == [*(f"image_{case}_mask.nii.gz" for case in (1, 2, 3)), "volumes.csv"]
    assert list(table["name"]) == ["liver & <gall>"] * 3
    assert list(table["painted"]) == [1, 0, 0]
    assert list(table["mask"]) == names[:3]
    assert set(measure.COLUMNS) < set(table.columns)
    image = nib.load(phantoms / "ct" / "image_1.nii.gz")
    inside = np.asanyarray(mask.dataobj) == 1
    voxel = np.prod(mask.header.get_zooms()) / 1000
    row = table.iloc[0]
    assert row["millilitres"] == pytest.approx(inside.sum() * voxel, rel=0.01)
    assert row["voxels"] == inside.sum()
    assert row["mean"] == pytest.approx(image.get_fdata()[inside].mean(), abs=0.01)
    assert row["sd"] == pytest.approx(image.get_fdata()[inside].std(), abs=0.01)
    assert 1 <= row["first_slice"] <= 6 <= row["last_slice"] <= 10
    (extension,) = mask.header.extensions
    (label,) = ElementTree.fromstring(bytes(extension.get_content()).rstrip(b"\0")).iter("Label")
    assert (label.get("Key"), label.text) == ("1", "liver & <gall>")
