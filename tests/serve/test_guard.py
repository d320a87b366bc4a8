"""Who gets in: hosts, origins, tokens, sessions, and bodies of a known, small size."""

from __future__ import annotations

import re

import pytest
from starlette.websockets import WebSocketDisconnect

from fedcowpro.serve.guard import HEADER, Policy
from serve_pages import Page, Serving

TOKEN = "correct horse battery staple"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8765", "10.0.0.5", ""]
)
def test_a_name_that_a_stranger_points_at_us_is_refused(page: Page, host: str) -> None:
    """DNS rebinding: the browser believes to talk to the stranger's host."""
    for path in ("/", "/api/state", "/static/app.js"):
        assert page.get(path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8765", "[::1]:8765", "LOCALHOST:1"])
def test_our_own_names_are_known(page: Page, host: str) -> None:
    assert page.get("/", headers={"host": host}).status_code == 200


def test_a_public_server_knows_its_addresses_and_names(serving: Serving) -> None:
    policy = Policy(hosts=("seg.ward.example",), addresses=True, token=TOKEN)
    assert policy.knows_host("192.0.2.7:8765")
    assert policy.knows_host("[2001:db8::1]:8765")
    assert policy.knows_host("seg.ward.example")
    assert not policy.knows_host("ward.example")


def test_a_request_of_another_site_is_refused(page: Page) -> None:
    """Forms and scripts elsewhere can make a browser send requests with our cookie, but not with our header."""
    bare = {HEADER: ""}
    for method, path in (("POST", "/api/segment"), ("POST", "/api/uploads"), ("DELETE", "/api/volumes/x")):
        request = page.build_request(method, path, content=b"" if method == "POST" else None)
        del request.headers[HEADER]
        assert page.send(request).status_code == 403
    assert page.post("/api/uploads", headers={"origin": "http://evil.example", **bare}).status_code == 403
    assert page.post("/api/uploads", headers={"origin": "null"}).status_code == 403
    assert page.post("/api/uploads", headers={"origin": "http://localhost"}).status_code == 200
    for site in ("cross-site", "same-site"):
        assert page.get("/api/state", headers={"sec-fetch-site": site}).status_code == 403
    assert page.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link to the page


def test_every_answer_carries_the_headers(page: Page) -> None:
    for path in ("/", "/static/app.js", "/api/state", "/api/volumes/x", "/nothing"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.startswith("access-control")]
    assert page.get("/api/state").headers["cache-control"] == "no-store"
    preflight = page.options("/api/segment", headers={"origin": "http://evil.example", "content-length": "0"})
    assert preflight.status_code >= 400
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_the_cookie_is_of_no_use_to_scripts_and_other_sites(serving: Serving) -> None:
    page = Page(serving(), begin=False)
    cookie = page.post("/api/session").headers["set-cookie"]
    assert "; HttpOnly" in cookie
    assert "; SameSite=Strict" in cookie
    assert len(cookie.partition(";")[0].partition("=")[2]) >= 43  # 256 bits
    secure = Page(serving(policy=Policy(secure=True)), begin=False)
    assert "; Secure" in secure.post("/api/session").headers["set-cookie"]


def test_without_a_session_there_is_nothing(serving: Serving) -> None:
    page = Page(serving(), begin=False)
    for path in ("/api/state", "/api/folder", "/api/volumes/x/image"):
        assert page.get(path).status_code == 401
    for cookies in ({"fedcowpro": "guess"}, {"fedcowpro": ""}):
        page.cookies.clear()
        page.cookies.update(cookies)
        assert page.get("/api/state").status_code == 401


@pytest.mark.parametrize(
    "given", [None, "", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü"]
)
def test_a_session_needs_the_token(serving: Serving, given: str | None) -> None:
    page = Page(serving(policy=Policy(token=TOKEN)), begin=False)
    headers = {} if given is None else {"authorization": given.encode()}
    answer = page.post("/api/session", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert TOKEN not in answer.text
    assert page.get("/api/state").status_code == 401


def test_the_token_opens(serving: Serving) -> None:
    page = Page(serving(policy=Policy(token=TOKEN)), begin=False)
    assert page.post("/api/session", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert page.get("/api/state").status_code == 200
    assert page.post("/api/session").status_code == 200  # a session that there is goes on


def test_bodies_say_how_long_they_are_and_are_small(page: Page) -> None:
    chunked = page.post("/api/uploads", content=iter([b"x"]))
    assert chunked.status_code == 411
    key = page.post("/api/uploads").json()["id"]
    for path, claim in ((f"/api/uploads/{key}/0", 10 << 30), ("/api/labels", 2 << 20)):
        answer = page.put(path, content=b"", headers={"content-length": str(claim)})
        assert answer.status_code == 413
        assert f"{claim:,}" in answer.json()["error"]["got"]
    for length in ("-1", "1e3", "many"):
        assert page.put(f"/api/uploads/{key}/0", content=b"", headers={"content-length": length}).status_code == 411


def test_web_sockets_are_refused(page: Page) -> None:
    with pytest.raises(WebSocketDisconnect), page.websocket_connect("/api/state"):
        pass


def test_the_pages_files_are_there(page: Page) -> None:
    """Those that it names and those that its scripts import; all from this server."""
    names = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page.get("/").text))
    assert {"/static/app.js", "/static/style.css"} < names
    names |= {"/static/vendor/LICENSES.txt"}
    viewer = page.get("/static/viewer.js").text
    names |= (later := set(re.findall(r'"(/static/vendor/[^"]+)"', viewer)))  # loaded where three planes are asked for
    assert len(later) == 1
    names |= {f"/static/{name}" for name in re.findall(r'from "\./([^"]+)"', page.get("/static/app.js").text)}
    assert {page.get(name).status_code for name in names} == {200}


def test_no_description_of_the_interface_is_served(page: Page) -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert page.get(path).status_code == 404


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/%2fetc/passwd"]
)
def test_static_files_end_at_their_folder(page: Page, path: str) -> None:
    assert page.get(path).status_code == 404
