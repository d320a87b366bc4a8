"""What every request passes before it reaches a route: host, origin, size, token and session."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from fedcowpro.serve.jobs import place_of
from fedcowpro.serve.limits import MEBIBYTE, Limits, Refused
from fedcowpro.serve.sessions import Session, Sessions

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)
HEADER = "x-fedcowpro"  # a page of another origin cannot send it without our consent, which no answer gives
TAB = "x-fedcowpro-tab"
CONTENT_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # the viewer's font is an image in its code
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_SMALL = MEBIBYTE  # of a body that is no upload
_UPLOADS, _SLICES = "/api/uploads/", "/slices"
SLICER = "/slicer/"  # then a key; no browser talks to these routes
_LASTING = 90 * 24 * 3600  # s
_WRITER = "/api/writer"
_BEGIN = "/api/session"  # of the API alone this can be had without a session


@dataclass(frozen=True)
class Policy:
    """Who may talk to the server.

    Attributes:
        hosts: names in the Host header that are ours, lower case, without port.
        addresses: whether any IP address does as well. A name that a stranger points at us is no address.
        token: needed to begin a session; None = none is needed.
        secure: whether cookies go over TLS only.
        cookie: its name. Servers on other ports of a host share cookies, so that it names the port.
    """

    hosts: Collection[str] = ("127.0.0.1", "localhost", "::1")
    addresses: bool = False
    token: str | None = None
    secure: bool = False
    cookie: str = "fedcowpro"

    def knows_host(self, header: str) -> bool:
        """Whether a Host header names this server."""
        name = header.rsplit(":", 1)[0] if header.rpartition(":")[2].isdigit() else header
        name = name.strip("[]").lower()
        return name in self.hosts or (self.addresses and _is_address(name))

    def token_fits(self, given: str) -> bool:
        """Compare in constant time."""
        return self.token is not None and hmac.compare_digest(given.encode(errors="replace"), self.token.encode())

    def set_cookie(self, session: Session, lasting: bool = False) -> str:
        """The Set-Cookie header of a session; one that lasts outlives the browser."""
        age = f"; Max-Age={_LASTING}" if lasting else ""
        secure = "; Secure" if self.secure else ""
        return f"{self.cookie}={session.key}; Path=/; HttpOnly; SameSite=Strict{secure}{age}"


def tab_of(headers: Mapping[str, str]) -> str:
    """Which of a browser's tabs sends a request."""
    return headers.get(TAB, "")[:64]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """ASGI middleware. Routes find the session in `scope['state']['session']`.

    Args:
        app: what is guarded.
        policy: who may talk to it.
        sessions: all sessions.
        limits: of bodies.
    """

    def __init__(self, app: ASGIApp, policy: Policy, sessions: Sessions, limits: Limits) -> None:
        self._app, self._policy, self._sessions, self._limits = app, policy, sessions, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

        started: list[bool] = []

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(True)
                extra = dict(_HEADERS)
                if not scope["path"].startswith("/static/"):
                    extra["cache-control"] = "no-store"
                message["headers"] = [
                    *message["headers"], *((name.encode(), value.encode()) for name, value in extra.items())
                ]  # fmt: skip
            await send(message)

        try:
            session = self._admit(scope["method"], scope["path"], headers)
        except Refused as error:
            await _answer(error, sending)
            return
        scope.setdefault("state", {}).update(session=session, key=self._cookie(headers.get("cookie", "")))
        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            log.error("request failed: %s at %s", type(error).__name__, place_of(error))
            if not started:
                await _answer(Refused(500, "the program failed", "an answer", "try again, or load the page"), sending)

    def _admit(self, method: str, path: str, headers: Mapping[str, str]) -> Session | None:
        host = headers.get("host", "")
        if not self._policy.knows_host(host):
            raise Refused(421, "a request to another host", "this server's name", "see --allow-host")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and path != "/":
            raise Refused(403, "a request from another site", "requests of this page", "open the page itself")
        if path.startswith(SLICER):  # a browser says where a request comes from, or has no reason to be here
            if "origin" in headers:
                raise Refused(403, "a request of a browser", "3D Slicer", "give its MONAI Label module the address")
            if method not in ("GET", "HEAD"):
                self._require_small(method, path, headers)
            return None
        if method not in ("GET", "HEAD"):
            origin = headers.get("origin")
            if HEADER not in headers or (origin is not None and origin.partition("://")[2] != host):
                raise Refused(403, "a request from another site", f"the header {HEADER}", "open the page itself")
            self._require_small(method, path, headers)
        session = self._sessions.find(self._cookie(headers.get("cookie", "")))
        if session is None:
            if path.startswith("/api/") and path != _BEGIN:
                raise Refused(
                    401,
                    "this visit has ended, or nothing was done in it for too long",
                    "a page that is open",
                    "load the page again",
                )
            return None
        changes = method not in ("GET", "HEAD") and path not in (_BEGIN, _WRITER)
        if changes and not self._sessions.write(session, tab_of(headers)):
            raise Refused(409, "another tab of this page works here", "one tab that works", "press 'Work here'")
        return session

    def _require_small(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Bodies say how long they are, and are no longer than allowed."""
        if method == "DELETE" and "content-length" not in headers and "transfer-encoding" not in headers:
            return
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not length.isdigit():
            raise Refused(411, "a body of unknown length", "a Content-Length", "send it in one piece")
        large = path.startswith((_UPLOADS, SLICER)) or path.endswith(_SLICES)
        most = self._limits.upload if large else _SMALL
        if int(length) > most:
            raise Refused(
                413, f"{int(length):,} bytes", f"at most {most:,}",
                "crop or resample the volume, or start the server with a larger --max-upload",
            )  # fmt: skip

    def _cookie(self, header: str) -> str | None:
        try:
            morsel = SimpleCookie(header).get(self._policy.cookie)
        except CookieError:
            return None
        return None if morsel is None else morsel.value


def error_body(error: Refused) -> dict[str, dict[str, str]]:
    """An error as the page shows it."""
    return {"error": {"got": error.got, "expected": error.expected, "remedy": error.remedy}}


async def _answer(error: Refused, send: Send) -> None:
    body = json.dumps(error_body(error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == 413:
        headers.append((b"connection", b"close"))  # the body was not read
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
