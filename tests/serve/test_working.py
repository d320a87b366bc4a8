"""Paint, segment, correct, save: by requests, as the page makes them."""

from __future__ import annotations

import gzip
import json
import logging
import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedcowpro.serve.jobs import Job
from fedcowpro.volume.nifti import read_image
from fedcowpro.volume.read import read_labels
from serve_pages import Page, Serving


def as_page(labels: np.ndarray) -> bytes:
    """(..., height, width) of the internal frame in the order of the page."""
    return np.ascontiguousarray(labels[..., ::-1, ::-1]).astype(np.uint8).tobytes()


def truth(phantoms: Path, case: str) -> np.ndarray:
    image = read_image(phantoms / "ct" / f"image_{case}.nii.gz")
    return (read_labels(phantoms / "ct" / f"label_{case}.nii.gz", image).voxels == 1).astype(np.uint8)


def paint(page: Page, key: str, labels: np.ndarray, *numbers: int) -> None:
    answer = page.put(
        f"/api/volumes/{key}/slices",
        params={"numbers": ",".join(map(str, numbers))},
        content=as_page(labels[list(numbers)]),
    )
    assert answer.status_code == 200, answer.text


def labels_of(page: Page, key: str) -> np.ndarray:
    """uint8 (depth, height, width)."""
    width, height, depth = page.get(f"/api/volumes/{key}").json()["size"]
    content = page.get(f"/api/volumes/{key}/labels").content
    return np.frombuffer(content, np.uint8).reshape(depth, height, width)[:, ::-1, ::-1]


def segment(page: Page) -> dict:  # type: ignore[type-arg]
    return page.wait(page.post("/api/segment").json()["id"])


@pytest.mark.parametrize("axes", ["LAS", "RPI", "SPL"])
def test_from_a_painted_slice_to_a_mask_on_the_images_grid(
    serving: Serving, phantoms: Path, tmp_path: Path, axes: str
) -> None:
    stored = nib.load(phantoms / "ct" / "image_1.nii.gz")
    change = nib.orientations.ornt_transform(
        nib.io_orientation(stored.affine), nib.orientations.axcodes2ornt(tuple(axes))
    )
    nib.save(stored.as_reoriented(change), tmp_path / "turned.nii.gz")
    page = Page(serving(tmp_path))
    key = page.open("turned.nii.gz")["id"]
    liver = truth(phantoms, "1")
    middle = int(liver.sum((1, 2)).argmax())
    paint(page, key, liver, middle)
    assert segment(page)["state"] == "done"
    info = page.get(f"/api/volumes/{key}").json()
    assert info["painted"] == [middle]
    assert 0 <= info["confidence"]["1"] <= 1
    assert len(info["slices"]["1"]) == 10
    answer = page.get(f"/api/volumes/{key}/export")
    assert 'filename="turned_mask.nii.gz"' in answer.headers["content-disposition"]
    (tmp_path / "mask.nii.gz").write_bytes(answer.content)
    image, mask = nib.load(tmp_path / "turned.nii.gz"), nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
    found = read_labels(tmp_path / "mask.nii.gz", read_image(tmp_path / "turned.nii.gz")).voxels
    np.testing.assert_array_equal(found, labels_of(page, key))
    np.testing.assert_array_equal(found[middle], liver[middle])
    assert found[np.arange(10) != middle].any()
    assert info["volumes"]["1"] == pytest.approx(found.sum() * np.prod(image.header.get_zooms()) / 1000, rel=0.01)


def test_the_viewers_image_is_the_volume_in_ras_order(page: Page, phantoms: Path) -> None:
    key = page.open("ct/image_1.nii.gz")["id"]
    shown = nib.Nifti1Image.from_bytes(page.get(f"/api/volumes/{key}/image").content)
    assert nib.aff2axcodes(shown.affine) == ("R", "A", "S")
    original = nib.as_closest_canonical(nib.load(phantoms / "ct" / "image_1.nii.gz"))
    np.testing.assert_allclose(shown.affine, original.affine, atol=1e-4)
    np.testing.assert_allclose(shown.get_fdata(), original.get_fdata(), atol=1e-3)
    assert float(shown.header["cal_min"]) == -160


def test_values_that_no_int16_holds_are_shown_nearly(serving: Serving, phantoms: Path, tmp_path: Path) -> None:
    stored = nib.load(phantoms / "t2" / "image_1.nii.gz")
    voxels = stored.get_fdata().astype(np.float32) * 1000.5
    nib.save(nib.Nifti1Image(voxels, stored.affine), tmp_path / "floats.nii.gz")
    page = Page(serving(tmp_path))
    shown = nib.Nifti1Image.from_bytes(page.get(f"/api/volumes/{page.open('floats.nii.gz')['id']}/image").content)
    spread = voxels.max() - voxels.min()
    expected = nib.as_closest_canonical(nib.Nifti1Image(voxels, stored.affine)).get_fdata()
    assert np.abs(shown.get_fdata() - expected).max() < spread / 60_000


def test_what_is_not_painted_is_unknown(page: Page, phantoms: Path) -> None:
    """A painted slice without an organ is an example, a slice that was not touched is none."""
    key = page.open("ct/image_1.nii.gz")["id"]
    liver = truth(phantoms, "1")
    middle = int(liver.sum((1, 2)).argmax())
    paint(page, key, liver, middle)
    segment(page)
    first = labels_of(page, key)
    taken = next(z for z in range(10) if z != middle and first[z].any())
    paint(page, key, np.zeros_like(liver), taken)
    assert not labels_of(page, key)[taken].any()
    segment(page)
    assert not labels_of(page, key)[taken].any()
    answer = page.delete(f"/api/volumes/{key}/slices", params={"numbers": str(taken)})
    assert answer.json()["painted"] == [middle]
    segment(page)
    np.testing.assert_array_equal(labels_of(page, key), first)


def test_every_open_volume_is_segmented_and_encoded_once(page: Page, phantoms: Path) -> None:
    engine = page.app.state.server.engine  # type: ignore[attr-defined]
    keys = [page.open(path)["id"] for path in ("ct/image_2.nii.gz", "ct/image_1.nii.gz")]
    before = engine.predictor.encoded_slices
    liver = truth(phantoms, "1")
    paint(page, keys[1], liver, 4)
    segment(page)
    assert engine.predictor.encoded_slices == before + 20
    assert page.get(f"/api/volumes/{keys[0]}").json()["segmented"]
    assert labels_of(page, keys[0]).any()
    paint(page, keys[0], truth(phantoms, "2"), 5)  # a correction of the other volume, which was opened first
    paint(page, keys[1], liver, 6)
    segment(page)
    assert engine.predictor.encoded_slices == before + 20
    np.testing.assert_array_equal(labels_of(page, keys[0])[5], truth(phantoms, "2")[5])


def test_nothing_painted(page: Page) -> None:
    page.open("ct/image_1.nii.gz")
    state = segment(page)
    assert state["state"] == "failed"
    assert state["error"]["got"] == "no painted slice"


@pytest.mark.parametrize(
    ("numbers", "size", "value"),
    [("10", 4096, 1), ("-1", 4096, 1), ("1,1", 8192, 1), ("", 4096, 1), ("1", 4095, 1), ("1", 4096, 2), ("x", 4096, 1),
     ("9" * 30_000, 4096, 1), ("²", 4096, 1)],
)  # fmt: skip
def test_slices_that_do_not_fit(page: Page, numbers: str, size: int, value: int) -> None:
    key = page.open("ct/image_1.nii.gz")["id"]
    answer = page.put(f"/api/volumes/{key}/slices", params={"numbers": numbers}, content=bytes([value]) * size)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["expected"]
    assert page.get(f"/api/volumes/{key}").json()["painted"] == []


def test_labels_have_names_while_they_are_drawn(page: Page) -> None:
    key = page.open("ct/image_1.nii.gz")["id"]
    two = [{"value": 1, "name": "liver"}, {"value": 7, "name": "  spleen "}]
    assert page.put("/api/labels", json={"labels": two}).json()["labels"][1]["name"] == "spleen"
    page.put(f"/api/volumes/{key}/slices", params={"numbers": "3"}, content=b"\7" * 4096)
    lost = page.put("/api/labels", json={"labels": two[:1]})
    assert lost.status_code == 409
    assert "label 7" in lost.json()["error"]["got"]
    for bad in ([], [{"value": 0, "name": "x"}], [{"value": 1, "name": " "}], [{"value": 1, "name": "x" * 65}]):
        assert page.put("/api/labels", json={"labels": bad}).status_code == 422


# ---------------------------------------------------------------- jobs


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, page: Page) -> threading.Event:
    """The engine works until it is stopped or the event is set."""
    go_on = threading.Event()

    def work(self: object, volumes: object, job: Job) -> None:
        step = 0
        while not go_on.wait(0.02):
            step += 1
            job.report("reading the slices", step, 1000)

    monkeypatch.setattr("fedcowpro.serve.engine.Engine.segment", work)
    return go_on


def test_progress_is_sent_and_a_job_can_be_cancelled(
    page: Page, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.open("ct/image_1.nii.gz")
    job = page.post("/api/segment").json()["id"]
    told, tell = set(), Job.to_json

    def cancel_after_some(one: Job) -> dict[str, Any]:
        told.add(one.done)
        if len(told) > 4:
            one.cancel()
        return tell(one)

    monkeypatch.setattr(Job, "to_json", cancel_after_some)
    with page.stream("GET", f"/api/jobs/{job}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        sent = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert [one["done"] for one in sent] == sorted(one["done"] for one in sent)
    assert len({one["done"] for one in sent}) > 2
    assert sent[-1]["state"] == "cancelled"


def test_one_job_at_a_time_and_waiting_ones_can_be_cancelled(page: Page, slow: threading.Event) -> None:
    other = page.another()
    key = page.open("ct/image_1.nii.gz")["id"]
    first = page.post("/api/segment").json()["id"]
    assert page.post("/api/segment").status_code == 409
    assert page.delete(f"/api/volumes/{key}").status_code == 409
    waiting = other.post("/api/segment").json()["id"]
    assert other.get(f"/api/jobs/{waiting}").json()["state"] == "waiting"
    assert other.delete(f"/api/jobs/{waiting}").json()["state"] == "cancelled"
    state = page.get("/api/state").json()["job"]  # the page answers while its job still runs
    assert state["id"] == first
    assert state["state"] in ("waiting", "running")
    assert page.delete(f"/api/jobs/{first}").status_code == 200
    assert page.wait(first)["state"] == "cancelled"
    assert other.wait(waiting)["state"] == "cancelled"
    slow.set()
    assert segment(page)["state"] == "done"


def test_a_cancelled_job_changes_nothing(page: Page, phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two parts of the encoding."""
    key = page.open("ct/image_1.nii.gz")["id"]
    paint(page, key, truth(phantoms, "1"), 4)
    report = Job.report

    def stopping(self: Job, stage: str, done: int, total: int) -> None:
        if done:
            self.cancel()
        report(self, stage, done, total)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "report", stopping)
        assert segment(page)["state"] == "cancelled"
    assert not page.get(f"/api/volumes/{key}").json()["segmented"]
    assert segment(page)["state"] == "done"


def test_a_failing_job_says_so_and_logs_no_data(
    page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("in the file of JANE DOE")

    monkeypatch.setattr("fedcowpro.serve.engine.Engine.segment", fail)
    with caplog.at_level(logging.INFO):
        state = segment(page)
    assert state["state"] == "failed"
    assert "JANE" not in json.dumps(state) + caplog.text
    assert "RuntimeError at test_working" in caplog.text


def test_a_failing_request_says_so_and_logs_no_data(
    page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("for the file of JANE DOE")

    key = page.open("ct/image_1.nii.gz")["id"]
    monkeypatch.setattr("fedcowpro.serve.working.viewer_image", fail)
    with caplog.at_level(logging.INFO):
        answer = page.get(f"/api/volumes/{key}/image")
    assert answer.status_code == 500
    assert answer.json()["error"]["remedy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "JANE" not in answer.text + caplog.text
    assert "MemoryError at test_working" in caplog.text


# ---------------------------------------------------------------- DICOM


def test_dicom_seg_of_a_series(serving: Serving, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
    from dicom_files import write_series
    from fedcowpro.data.phantom import make_phantom
    from fedcowpro.volume.dicom import find_series
    from fedcowpro.volume.dicom.seg_reader import organs_of, read_segmentation

    phantom = make_phantom("ct", 1, 64, 10)
    write_series(tmp_path / "data" / "case", phantom.image, phantom.spacing)
    page = Page(serving(tmp_path / "data"))
    key = page.open("case")["id"]
    page.put("/api/labels", json={"labels": [{"value": 3, "name": "liver"}]})
    drawn = np.where(phantom.labels == 1, 3, 0).astype(np.uint8)
    empty = page.get(f"/api/volumes/{key}/export", params={"format": "dicom-seg"})
    assert empty.status_code == 409
    paint(page, key, drawn, *range(10))
    answer = page.get(f"/api/volumes/{key}/export", params={"format": "dicom-seg"})
    assert answer.status_code == 200, answer.text
    path = tmp_path / "mask.dcm"
    path.write_bytes(answer.content)
    assert organs_of(path) == {3: "liver"}
    (series,) = find_series(tmp_path / "data" / "case")
    np.testing.assert_array_equal(read_segmentation(path, series.read()).voxels, drawn)
    plain = nib.Nifti1Image.from_bytes(gzip.decompress(page.get(f"/api/volumes/{key}/export").content))
    assert int(np.asanyarray(plain.dataobj).sum()) == int(drawn.sum())


def test_dicom_seg_needs_a_dicom_series(page: Page) -> None:
    key = page.open("ct/image_1.nii.gz")["id"]
    answer = page.get(f"/api/volumes/{key}/export", params={"format": "dicom-seg"})
    assert answer.status_code == 409
    assert page.get(f"/api/volumes/{key}/export", params={"format": "exe"}).status_code == 422
