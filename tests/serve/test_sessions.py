"""Each browser has its own session: nobody reads another's, nobody takes all, and idle ones go."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fedcowpro.serve.limits import Limits, Refused
from fedcowpro.serve.sessions import Sessions
from serve_pages import Page, Serving

CASE = "ct/image_1.nii.gz"


def test_two_users_do_not_see_each_other(page: Page) -> None:
    mine = page.open(CASE)["id"]
    page.put(f"/api/volumes/{mine}/slices", params={"numbers": "4"}, content=b"\1" * 4096)
    job = page.post("/api/segment").json()["id"]
    upload = page.post("/api/uploads").json()["id"]
    other = page.another()
    assert other.cookies.get("fedcowpro") != page.cookies.get("fedcowpro")
    state = other.get("/api/state").json()
    assert state["volumes"] == []
    assert state["job"] is None
    for path in ("", "/image", "/labels", "/export"):
        assert other.get(f"/api/volumes/{mine}{path}").status_code == 404
    assert other.delete(f"/api/volumes/{mine}").status_code == 404
    assert other.put(f"/api/volumes/{mine}/slices", params={"numbers": "4"}, content=bytes(4096)).status_code == 404
    assert other.delete(f"/api/volumes/{mine}/slices", params={"numbers": "4"}).status_code == 404
    for path in ("", "/events"):
        assert other.get(f"/api/jobs/{job}{path}").status_code == 404
    assert other.delete(f"/api/jobs/{job}").status_code == 404
    assert other.put(f"/api/uploads/{upload}/0", content=b"x").status_code == 404
    assert other.post(f"/api/uploads/{upload}/open", json={}).status_code == 404
    assert page.wait(job)["state"] == "done"
    assert page.get(f"/api/volumes/{mine}").json()["painted"] == [4]


def test_two_users_work_at_once(page: Page) -> None:
    """Jobs wait for each other; results stay apart."""
    other = page.another()
    jobs = {}
    for user, value in ((page, 1), (other, 2)):
        user.put("/api/labels", json={"labels": [{"value": value, "name": "organ"}]})
        key = user.open(CASE)["id"]
        body = bytes([value]) * 64 * 30 + bytes(64 * 34)
        assert user.put(f"/api/volumes/{key}/slices", params={"numbers": "5"}, content=body).status_code == 200
        jobs[user] = (key, user.post("/api/segment").json()["id"], value)
    for user, (key, job, value) in jobs.items():
        assert user.wait(job)["state"] == "done"
        found = set(user.get(f"/api/volumes/{key}/labels").content)
        assert found == {0, value}


def test_a_session_ends_at_its_limits(serving: Serving) -> None:
    page = Page(serving(volumes=2))
    first = page.open(CASE)["id"]
    page.open(CASE)
    full = page.post("/api/open", json={"path": CASE})
    assert full.status_code == 409
    assert full.json()["error"]["remedy"] == "close one of them"
    assert page.delete(f"/api/volumes/{first}").status_code == 200
    page.open(CASE)
    tight = Page(serving(memory=20 << 20)).post("/api/open", json={"path": CASE})
    assert tight.status_code == 413
    assert "--max-memory" in tight.json()["error"]["remedy"]


def test_the_server_ends_at_its_limit(serving: Serving) -> None:
    page = Page(serving(sessions=2))
    page.another()
    third = Page.__new__(Page)
    super(Page, third).__init__(page.app, base_url="http://localhost", headers={"x-fedcowpro": "1"})
    assert third.post("/api/session").status_code == 503


def test_idle_sessions_go_with_their_files(tmp_path: Path) -> None:
    now = [0.0]
    sessions = Sessions(tmp_path, Limits(idle=60, sessions=1), clock=lambda: now[0])
    session = sessions.create()
    (session.new_folder() / "volume.nii").write_bytes(b"patient")
    now[0] = 50
    assert sessions.find(session.key) is session
    with pytest.raises(Refused, match="people use this server"):
        sessions.create()
    now[0] = 109
    assert sessions.find(session.key) is session  # idle counts from the last request
    now[0] = 170
    assert sessions.find(session.key) is None
    assert list(tmp_path.iterdir()) == []
    assert len(sessions.create().key) >= 43


def test_a_dropped_session_loses_its_cookie(serving: Serving) -> None:
    server = serving(idle=1000)
    page = Page(server)
    page.open(CASE)
    server.sessions._clock = lambda: 1e12
    assert page.get("/api/state").status_code == 401
    assert page.post("/api/session").status_code == 200
    assert page.get("/api/state").json()["volumes"] == []


def test_private_folders_are_private_and_emptied(serving: Serving, phantoms: Path) -> None:
    server = serving()
    page = Page(server)
    content = (phantoms / CASE).read_bytes()
    key = page.upload(content, name="JANE DOE.nii.gz").json()["id"]
    page.post("/api/uploads")
    folders = [one for one in server.root.rglob("*") if one.is_dir()]
    assert {stat.S_IMODE(one.stat().st_mode) for one in folders if one.name != "work"} == {0o700}
    assert not [one for one in server.root.rglob("*") if "JANE" in one.name]
    page.get(f"/api/volumes/{key}/export")
    page.delete(f"/api/volumes/{key}")
    assert not [one for one in server.root.rglob("*") if one.is_file()]
    server.close()
    assert list(server.root.iterdir()) == []
