"""A page of the server as a client for tests: in the process, or on a port of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import uvicorn
from fastapi.testclient import TestClient
from httpx import Response

from fedcowpro.serve.app import create_app
from fedcowpro.serve.guard import HEADER
from fedcowpro.serve.limits import MEBIBYTE, Limits
from fedcowpro.serve.run import Where, listen
from fedcowpro.serve.server import Server

SMALL = Limits(upload=4 * MEBIBYTE, expanded=8 * MEBIBYTE, files=200, volumes=3, sessions=4)
Serving = Callable[..., Server]


class Page(TestClient):
    """A browser that has loaded the page: with the header that it sends, and a session."""

    def __init__(self, server: Server, begin: bool = True) -> None:
        super().__init__(create_app(server), base_url="http://localhost", headers={HEADER: "1"})
        if begin:
            assert self.post("/api/session").status_code == 200

    def another(self) -> Page:
        """Another browser at the same server."""
        other = Page.__new__(Page)
        TestClient.__init__(other, self.app, base_url="http://localhost", headers={HEADER: "1"})
        assert other.post("/api/session").status_code == 200
        return other

    def upload(self, *contents: bytes, name: str = "case.nii.gz", series: int | None = None) -> Response:
        """Send files and open them; the answer to the last request."""
        key = self.post("/api/uploads").json()["id"]
        for number, content in enumerate(contents):
            sent = self.put(f"/api/uploads/{key}/{number}", content=content)
            if sent.status_code != 200:
                return sent
        return self.post(f"/api/uploads/{key}/open", json={"name": name, "series": series})

    def open(self, path: str) -> dict:  # type: ignore[type-arg]
        """Open a volume of the data folder."""
        answer = self.post("/api/open", json={"path": path})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait(self, job: str) -> dict:  # type: ignore[type-arg]
        """A job's last state."""
        for _ in range(6000):  # five minutes, on a busy machine too
            state = self.get(f"/api/jobs/{job}").json()
            if state["state"] in ("done", "failed", "cancelled"):
                return state
            time.sleep(0.05)
        raise AssertionError("the job does not end")


class Running:
    """Let a server listen while the block runs; gives the port."""

    def __init__(self, server: Server) -> None:
        self._socket = listen(Where(port=0))
        config = uvicorn.Config(
            create_app(server), log_level="warning", ws="none", access_log=False, timeout_graceful_shutdown=1
        )
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> int:
        self._thread.start()
        while not self._uvicorn.started:
            time.sleep(0.02)
        port: int = self._socket.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(10)
        self._socket.close()
