"""Nothing is lost: what was done is on the disk when the request is answered, and back with the next session."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.serve.engine import Engine
from fedcowpro.serve.folder import DataFolder
from fedcowpro.serve.guard import HEADER, TAB, Policy
from fedcowpro.serve.server import Server
from fedcowpro.serve.store import Project
from serve_pages import SMALL, Page

CASE, OTHER = "image_1.nii.gz", "image_2.nii.gz"
TOKEN = "a token for the tests of projects"


class Ward:
    """Servers one after another on the same data and the same project."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder, self.count = engine, folder, 0
        self.data, self.project = folder / "data", folder / "project"
        self.server: Server | None = None

    def start(self, token: str | None = None) -> Server:
        """Ends the one before, as if it were killed: it writes nothing more."""
        if self.server is not None:
            assert self.server.project is not None
            self.server.project.close()
            self.server.worker.close()
        self.count += 1
        root = self.folder / f"private{self.count}"
        root.mkdir(mode=0o700)
        project = Project(self.project)
        self.server = Server(self.engine, root, DataFolder(self.data), SMALL, Policy(token=token), project)
        return self.server


@pytest.fixture
def ward(engine: Engine, phantoms: Path, tmp_path: Path) -> Iterator[Ward]:
    made = Ward(engine, tmp_path)
    made.data.mkdir()
    for name in (CASE, OTHER):
        shutil.copy(phantoms / "ct" / name, made.data / name)
    yield made
    if made.server is not None:
        made.server.close()


def paint(page: Page, key: str, z: int, value: int = 1, fill: int = 900) -> bytes:
    body = bytes([value]) * fill + bytes(4096 - fill)
    answer = page.put(f"/api/volumes/{key}/slices", params={"numbers": str(z)}, content=body)
    assert answer.status_code == 200, answer.text
    return body


def labels(page: Page, key: str) -> bytes:
    return page.get(f"/api/volumes/{key}/labels").content


def state(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.get("/api/state").json()
    return found


def test_everything_is_back_after_the_server_is_gone(ward: Ward, phantoms: Path) -> None:
    page = Page(ward.start())
    names = [{"value": 1, "name": "liver"}, {"value": 3, "name": "spleen"}]
    page.put("/api/labels", json={"labels": names})
    keys = [page.open(CASE)["id"], page.upload((phantoms / "ct" / OTHER).read_bytes(), name="sent.nii.gz").json()["id"]]
    paint(page, keys[0], 4)
    paint(page, keys[0], 6, 3)
    page.put(f"/api/volumes/{keys[0]}/extents", json={"extents": {"1": [2, None]}})
    assert page.wait(page.post("/api/segment").json()["id"])["state"] == "done"
    page.post(f"/api/volumes/{keys[0]}/interpolate")
    page.delete(f"/api/volumes/{keys[0]}/slices", params={"numbers": "6"})
    paint(page, keys[1], 7)
    page.put("/api/settings", json={"settings": {"radius": 9}})
    before, seen = state(page), [labels(page, key) for key in keys]
    assert before["kept"]

    after = Page(ward.start())  # another browser on another day
    for name in ("labels", "volumes", "settings", "absent"):
        assert state(after)[name] == before[name]
    assert state(after)["settings"] == {"radius": 9}
    assert [labels(after, key) for key in keys] == seen
    after.post(f"/api/volumes/{keys[0]}/exchange")  # the masks of before are there, too
    assert labels(after, keys[0]) != seen[0]
    assert after.wait(after.post("/api/segment").json()["id"])["state"] == "done"


def test_an_idle_hour_takes_memory_and_no_work(ward: Ward) -> None:
    server = ward.start()
    page = Page(server)
    key = page.open(CASE)["id"]
    body = paint(page, key, 4)
    server.sessions._clock = lambda: 1e12
    server.sessions.drop_idle()
    assert len(server.sessions) == 0
    assert page.get("/api/state").status_code == 401
    assert page.post("/api/session").status_code == 200
    assert labels(page, key)[4 * 4096 : 5 * 4096] == body


def test_all_tabs_and_browsers_of_one_person_share_the_bench_and_one_works(ward: Ward) -> None:
    page = Page(ward.start())
    other = page.another()
    key = page.open(CASE)["id"]
    assert [one["id"] for one in state(other)["volumes"]] == [key]
    page.headers[TAB], other.headers[TAB] = "one", "two"
    assert page.post("/api/writer").json() == {"writer": False}  # "" was the last one that wrote
    assert page.post("/api/writer", params={"take": True}).json() == {"writer": True}
    paint(page, key, 4)
    assert other.post("/api/writer").json() == {"writer": False}
    refused = other.put(f"/api/volumes/{key}/slices", params={"numbers": "4"}, content=bytes(4096))
    assert refused.status_code == 409
    assert "another tab" in refused.json()["error"]["got"]
    assert labels(other, key) == labels(page, key)
    other.delete("/api/writer")  # not the one that writes: nothing happens
    assert other.post("/api/writer").json() == {"writer": False}
    page.delete("/api/writer")
    assert other.post("/api/writer").json() == {"writer": True}
    assert page.delete(f"/api/volumes/{key}").status_code == 409
    assert page.post("/api/writer", params={"take": True}).json() == {"writer": True}
    paint(page, key, 5)
    server = ward.server
    assert server is not None
    now = server.sessions._clock()
    server.sessions._clock = lambda: now + 101  # the tab that works was silent for so long
    paint(other, key, 6)


def test_with_a_token_each_browser_has_its_own_bench_and_needs_the_token_again(ward: Ward) -> None:
    def enter(page: Page) -> int:
        status: int = page.post("/api/session", headers={"authorization": f"Bearer {TOKEN}"}).status_code
        return status

    server = ward.start(TOKEN)
    one, two = Page(server, begin=False), Page(server, begin=False)
    assert [enter(page) for page in (one, two)] == [200, 200]
    key = one.open(CASE)["id"]
    paint(one, key, 3)
    assert state(two)["volumes"] == []
    again = Page(ward.start(TOKEN), begin=False)
    again.cookies = one.cookies
    assert again.get("/api/state").status_code == 401
    assert again.post("/api/session").status_code == 401  # the cookie alone does not open a new server
    assert enter(again) == 200
    assert [volume["painted"] for volume in state(again)["volumes"]] == [[3]]
    stranger = Page(ward.server, begin=False)  # type: ignore[arg-type]
    guess = {"authorization": f"Bearer {TOKEN}", "cookie": "fedcowpro=guessed"}
    assert "guessed" not in stranger.post("/api/session", headers=guess).headers["set-cookie"]
    assert state(stranger)["volumes"] == []


def test_a_closed_volume_comes_back_with_its_work_and_a_sent_one_is_gone(ward: Ward, phantoms: Path) -> None:
    page = Page(ward.start())
    page.put("/api/labels", json={"labels": [{"value": 2, "name": "kidney"}]})
    key = page.open(CASE)["id"]
    body = paint(page, key, 4, 2)
    page.delete(f"/api/volumes/{key}")
    page.put("/api/labels", json={"labels": [{"value": 1, "name": "liver"}]})
    sent = page.upload((phantoms / "ct" / OTHER).read_bytes()).json()["id"]
    paint(page, sent, 5)
    assert [path.read_bytes()[:2] for path in ward.project.rglob("files/*/*")] == [b"\x1f\x8b"]
    page.delete(f"/api/volumes/{sent}")
    assert not list(ward.project.rglob("files/*/*"))
    page = Page(ward.start())
    info = page.open(CASE)
    assert (info["id"], info["painted"]) == (key, [4])
    assert labels(page, key)[4 * 4096 : 5 * 4096] == body
    assert [(one["value"], one["name"]) for one in state(page)["labels"]] == [(1, "liver"), (2, "kidney")]
    assert page.open(CASE)["painted"] == []  # open twice: the second is a volume of its own


def test_work_on_an_image_that_changed_is_kept_and_not_put_on_another(ward: Ward) -> None:
    page = Page(ward.start())
    keys = [page.open(name)["id"] for name in (CASE, OTHER)]
    for key in keys:
        paint(page, key, 4)
    stored = nib.load(ward.data / CASE)
    kept = stored.get_fdata()
    nib.save(nib.Nifti1Image((kept + 1).astype(np.float32), stored.affine), ward.data / CASE)
    (ward.data / OTHER).rename(ward.folder / "away")
    found = state(Page(ward.start()))
    assert found["volumes"] == []
    assert [text.partition(" could")[0] for text in found["absent"]] == [CASE, OTHER]
    assert str(ward.folder) not in " ".join(found["absent"])
    nib.save(nib.Nifti1Image(kept.astype(np.float32), stored.affine), ward.data / CASE)
    (ward.folder / "away").rename(ward.data / OTHER)
    found = state(Page(ward.start()))
    assert [(volume["id"], volume["painted"]) for volume in found["volumes"]] == [(key, [4]) for key in keys]


def test_folders_that_are_no_project_or_in_use_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(FedCoWProError, match="no project"):
        Project(tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    first = Project(tmp_path / "new")
    with pytest.raises(FedCoWProError, match="another server"):
        Project(tmp_path / "new")
    first.close()
    again = Project(tmp_path / "new")
    assert again.key == first.key
    assert (tmp_path / "new" / "project.json").stat().st_mode & 0o77 == 0
    again.close()
    (tmp_path / "new" / "project.json").write_text(json.dumps({"format": 9}))
    with pytest.raises(FedCoWProError, match="format 9"):
        Project(tmp_path / "new")


@pytest.mark.slow
def test_a_killed_server_has_lost_nothing_that_it_answered(tiny_checkpoint: Path, ward: Ward, tmp_path: Path) -> None:
    words = ["serve", "--model", str(tiny_checkpoint), "--data", str(ward.data), "--port", "0"]
    body = b"\1" * 900 + bytes(3196)

    def start() -> tuple[subprocess.Popen[str], httpx.Client]:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedcowpro.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
        )
        assert process.stdout is not None
        said = iter(process.stdout.readline, "")
        url = next(line for line in said if line.startswith("page: ")).removeprefix("page: ").strip().rstrip("/")
        assert next(line for line in said if "data-fedcowpro" in line)
        client = httpx.Client(base_url=url, headers={HEADER: "1"}, timeout=300)
        for _ in range(3000):
            try:
                assert client.post("/api/session").status_code == 200
                break
            except httpx.ConnectError:
                continue
        return process, client

    process, client = start()
    try:
        key = client.post("/api/open", json={"path": CASE}).json()["id"]
        client.put(f"/api/volumes/{key}/slices", params={"numbers": "4"}, content=body)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process, client = start()
        assert client.get(f"/api/volumes/{key}").json()["painted"] == [4]
        assert client.get(f"/api/volumes/{key}/labels").content[4 * 4096 : 5 * 4096] == body
    finally:
        process.kill()
        process.wait()
