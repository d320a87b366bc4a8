"""3D Slicer's module MONAI Label at this server: requests as its client makes them, and who gets in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from email.parser import BytesParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient
from test_working import labels_of, paint, segment, truth

from fedcowpro.oneshot.segmentation import Segmentation
from fedcowpro.serve.app import create_app
from fedcowpro.serve.engine import Engine
from fedcowpro.serve.folder import DataFolder
from fedcowpro.serve.guard import TAB, Policy
from fedcowpro.serve.server import Server
from fedcowpro.serve.store import Project
from fedcowpro.volume.volume import Volume
from serve_pages import SMALL, Page, Serving

pytest.importorskip("python_multipart", reason="the extra 'serve' is not installed")


class Slicer(TestClient):
    """A client without the page's header and cookie, at the address that the page shows."""

    def __init__(self, page: Page) -> None:
        address = page.get("/api/state").json()["slicer"]
        super().__init__(page.app, base_url=f"http://localhost{address}")

    def infer(self, image: str, model: str = "example") -> tuple[dict, nib.Nifti1Image]:  # type: ignore[type-arg]
        """The two parts of the answer."""
        answer = self.post(f"/infer/{model}", params={"image": image}, files={"params": (None, '{"client_id": "me"}')})
        assert answer.status_code == 200, answer.text
        head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
        said, file = BytesParser().parsebytes(head + answer.content).get_payload()
        assert file.get_filename().endswith(".nii.gz")
        return json.loads(said.get_payload()), nib.Nifti1Image.from_bytes(
            gzip.decompress(file.get_payload(decode=True))
        )


@pytest.fixture
def page(serving: Serving, phantoms: Path) -> Page:
    """Two open volumes; on a slice of the first one the liver is painted."""
    page = Page(serving(volumes=6))
    keys = [page.open(f"ct/image_{case}.nii.gz")["id"] for case in (1, 2)]
    page.put("/api/labels", json={"labels": [{"value": 1, "name": "liver"}]})
    paint(page, keys[0], truth(phantoms, "1"), 5)
    return page


def keys_of(page: Page) -> list[str]:
    return [one["id"] for one in page.get("/api/state").json()["volumes"]]


def from_head(image: nib.Nifti1Image) -> np.ndarray:
    """Voxels (depth, height, width) of the internal frame."""
    return np.asanyarray(nib.as_closest_canonical(image).dataobj).T[:, ::-1, ::-1]


def test_the_pages_example_segments_what_slicer_asks_for(page: Page, phantoms: Path) -> None:
    slicer = Slicer(page)
    info = slicer.get("/info/").json()
    assert info["labels"] == ["liver"]
    assert info["models"]["example"]["type"] == "segmentation"
    assert "refined" not in info["models"]
    assert not info.get("config")  # else the module asks for a newer server
    first = slicer.post("/activelearning/most%20doubtful", json={"client_id": "me"}).json()
    assert first["id"] in keys_of(page)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(slicer.get(first["url"]).content))
    stored = nib.load(phantoms / "ct" / "image_1.nii.gz")
    np.testing.assert_allclose(image.affine, stored.affine, atol=1e-5)
    np.testing.assert_allclose(image.get_fdata(), stored.get_fdata(), atol=1e-3)
    assert first["name"] in slicer.get(first["url"]).headers["content-disposition"]

    other = keys_of(page)[1]
    said, mask = slicer.infer(other)
    assert said["label_names"] == {"liver": 1}
    assert 0 <= said["confidence"]["liver"] <= 1
    assert not labels_of(page, other).any()  # the page keeps what it had
    segment(page)
    np.testing.assert_array_equal(from_head(mask), labels_of(page, other))
    _, again = slicer.infer("image_1")  # by its name
    np.testing.assert_array_equal(from_head(again)[5], truth(phantoms, "1")[5])

    objects = slicer.get("/datastore/", params={"output": "all"}).json()["objects"]
    assert objects[other]["labels"]["original"]["info"]["params"]["label_names"] == {"liver": 1}
    answer = slicer.get("/datastore/label", params={"label": other, "tag": "original"})
    there = nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    np.testing.assert_array_equal(from_head(there), labels_of(page, other))
    assert slicer.get("/datastore/").json() == {
        "total": 2, "completed": 1, "label_tags": {"original": 2, "final": 1},
    }  # fmt: skip


def test_what_is_saved_in_slicer_is_an_example_and_the_page_looks_on(page: Page, phantoms: Path) -> None:
    slicer, (_, other) = Slicer(page), keys_of(page)
    page.headers[TAB] = "a tab"
    page.post("/api/writer")
    stored = nib.load(phantoms / "ct" / "label_2.nii.gz")
    labels = np.asanyarray(stored.dataobj).astype(np.int16)
    # Slicer numbers its segments; "idx" also counts one that it does not send.
    sent = np.select([labels == 4, labels == 1], [1, 2], 0).astype(np.int16)
    listed = [{"name": "Spleen", "idx": 2}, {"name": "Liver", "idx": 3}]
    content = gzip.compress(nib.Nifti1Image(sent, stored.affine).to_bytes())
    answer = slicer.put(
        "/datastore/label",
        params={"image": other, "tag": "final"},
        files={"params": (None, json.dumps({"label_info": listed})), "label": ("tmp7.nii.gz", content)},
    )
    assert answer.json() == {"image": other, "label": other}
    state = page.get("/api/state").json()
    assert [(one["value"], one["name"]) for one in state["labels"]] == [(1, "Liver"), (2, "Spleen")]
    assert state["volumes"][1]["painted"] == list(range(10))
    expected = from_head(
        nib.Nifti1Image(np.select([labels == 1, labels == 4], [1, 2], 0).astype(np.uint8), stored.affine)
    )
    np.testing.assert_array_equal(labels_of(page, other), expected)
    assert page.put(f"/api/volumes/{other}/extents", json={"extents": {}}).status_code == 409
    assert page.post("/api/writer", params={"take": True}).json()["writer"]
    assert segment(page)["state"] == "done"
    assert set(np.unique(labels_of(page, keys_of(page)[0]))) == {0, 1, 2}
    for said in ("[", "[1]", '{"label_info": [{"idx": "x"}]}'):
        files = {"params": (None, said), "label": ("tmp7.nii.gz", content)}
        assert slicer.put("/datastore/label", params={"image": other}, files=files).status_code == 400


def test_an_image_of_slicers_own(page: Page, phantoms: Path) -> None:
    slicer = Slicer(page)
    file = (phantoms / "ct" / "image_3.nii.gz").read_bytes()
    session = slicer.put("/session/", files={"files": ("tmpx.nii.gz", file)}, data={"client_id": "me"}).json()
    key = session["session_id"]
    assert slicer.get(f"/session/{key}").status_code == 200
    answer = slicer.post("/infer/example", params={"image": "CT", "session_id": key}, files={"params": (None, "{}")})
    assert answer.status_code == 200
    again = slicer.put("/datastore/", params={"image": "CT"}, files={"file": ("tmpy.nii.gz", file)}).json()
    assert again == {"image": key}  # the same image is not opened twice
    assert [one["name"] for one in page.get("/api/state").json()["volumes"]][2:] == ["CT"]
    assert slicer.infer("CT")[0]["label_names"] == {"liver": 1}
    assert slicer.delete(f"/session/{key}").status_code == 200
    assert slicer.get(f"/session/{key}").status_code == 404
    assert slicer.put("/session/", files={"files": ("a.nii.gz", b"no volume")}).status_code == 415
    assert slicer.put("/session/", files={"other": ("a.nii.gz", file)}).status_code == 400


def test_the_network_that_was_refined_is_a_model(page: Page, phantoms: Path) -> None:
    slicer, (_, other) = Slicer(page), keys_of(page)
    assert slicer.post("/infer/refined", params={"image": other}).status_code == 404
    labels = truth(phantoms, "2")

    class Network:
        def segment(self, volume: Volume, modality: str, *, extents: object) -> Segmentation:
            assert (volume.name, modality, extents) == ("image_2.nii.gz", "ct", {})
            return Segmentation((1,), labels, None, {1: 0.5}, np.full((1, len(labels)), 0.5, np.float32))

    session = page.app.state.server.sessions.find(page.cookies["fedcowpro"])
    session.network = Network()
    assert set(slicer.get("/info/").json()["models"]) == {"example", "refined"}
    said, mask = slicer.infer(other, "refined")
    assert said["confidence"] == {"liver": 0.5}
    np.testing.assert_array_equal(from_head(mask), labels)


def test_refusals_say_why(page: Page) -> None:
    slicer, (first, other) = Slicer(page), keys_of(page)
    assert slicer.post("/infer/unet", params={"image": other}).status_code == 404
    assert slicer.post("/infer/example", params={"image": "x"}).status_code == 404
    page.delete(f"/api/volumes/{first}/slices", params={"numbers": "5"})
    answer = slicer.post("/infer/example", params={"image": other}, content=b"")
    assert answer.status_code == 400
    assert answer.json()["error"]["got"] == "no painted slice"
    for path in ("/auth/", "/train/", "/scoring/x"):
        assert slicer.get(path).status_code == 404


def test_only_who_has_the_address_gets_in(serving: Serving) -> None:
    page, stranger = Page(serving()), TestClient(create_app(serving()), base_url="http://localhost")
    slicer = Slicer(page)
    address = page.get("/api/state").json()["slicer"]
    assert page.cookies["fedcowpro"] not in address
    assert len(address.rpartition("/")[2]) == 64
    assert slicer.get("/info/").status_code == 200
    assert stranger.get(f"{address}/info/").status_code == 401  # of another server
    plain = TestClient(page.app, base_url="http://localhost")
    for path in ("/slicer//info/", "/slicer/x/info/", "/slicer/%C3%BC/info/", f"{address}x/info/"):
        assert plain.get(path).status_code in (401, 404)
    assert page.another().get("/api/state").json()["slicer"] != address
    for headers, status in (
        ({"host": "evil.example"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://localhost"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ):
        for method, path in (("GET", "/info/"), ("POST", "/infer/example?image=x"), ("PUT", "/session/")):
            assert slicer.request(method, path, headers=headers, content=b"").status_code == status
    preflight = slicer.options("/session/", headers={"origin": "http://evil.example"})
    assert preflight.status_code == 403
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    assert slicer.put("/session/", content=iter([b"x"])).status_code == 411
    assert slicer.put("/session/", content=b"", headers={"content-length": str(10 << 30)}).status_code == 413


@pytest.mark.parametrize("token", [None, "a token for the tests of Slicer"])
def test_after_a_restart(engine: Engine, phantoms: Path, tmp_path: Path, token: str | None) -> None:
    """With a project the address stays; where there is a token, somebody has to enter it first."""
    with_token = {"authorization": f"Bearer {token}"}

    def start(number: int) -> Iterator[Page]:
        (tmp_path / str(number)).mkdir(mode=0o700)
        project = Project(tmp_path / "project")
        server = Server(engine, tmp_path / str(number), DataFolder(phantoms), SMALL, Policy(token=token), project)
        yield Page(server, begin=False)
        server.close()

    before = start(1)
    page = next(before)
    page.post("/api/session", headers=with_token)
    cookies = dict(page.cookies)
    page.open("ct/image_1.nii.gz")
    slicer = Slicer(page)
    next(before, None)
    after = start(2)
    page = next(after)
    slicer = TestClient(page.app, base_url=str(slicer.base_url))
    if token is not None:
        assert slicer.get("/info/").status_code == 401
        page.cookies.update(cookies)
        page.post("/api/session", headers=with_token)
    assert slicer.get("/info/").json()["datastore"]["total"] == 1
    next(after, None)


def test_with_monai_labels_own_client(listening: tuple[Server, int], phantoms: Path, tmp_path: Path) -> None:
    """The class that its module in Slicer uses; it needs little of what MONAI Label needs."""
    reason = "no MONAI Label: pip install --no-deps monailabel"
    client_of = pytest.importorskip("monailabel.client.client", reason=reason).MONAILabelClient
    server, port = listening
    page = Page(server)
    page.open("ct/image_1.nii.gz")
    page.put("/api/labels", json={"labels": [{"value": 1, "name": "liver"}]})
    paint(page, keys_of(page)[0], truth(phantoms, "1"), 5)
    address = page.get("/api/state").json()["slicer"]
    client = client_of(f"http://127.0.0.1:{port}{address}", str(tmp_path), "me")
    assert not client.auth_enabled()
    assert client.info()["labels"] == ["liver"]
    sample = client.next_sample("most doubtful", {})
    file, said = client.infer("example", sample["id"], {})
    assert said["label_names"] == {"liver": 1}
    assert nib.load(file).shape == nib.load(phantoms / "ct" / "image_1.nii.gz").shape
    session = client.create_session(str(phantoms / "ct" / "image_2.nii.gz"))["session_id"]
    assert client.get_session(session)
    file, said = client.infer("example", "case", {}, session_id=session)
    uploaded = client.upload_image(str(phantoms / "ct" / "image_2.nii.gz"), "case")["image"]
    assert uploaded == session
    label = client.save_label(uploaded, file, "final", {"label_info": [{"name": "liver", "idx": 1}]})["label"]
    assert np.array_equal(nib.load(client.download_label(label, "final")).dataobj, nib.load(file).dataobj)
    assert client.remove_session(session)
