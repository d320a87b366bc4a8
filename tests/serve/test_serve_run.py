"""The command: who may come in from where, and that nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.serve.guard import HEADER
from fedcowpro.serve.limits import Limits
from fedcowpro.serve.run import Where, serve
from fedcowpro.serve.server import Server

PATIENCE = 300.0  # seconds until a wait has failed, on a busy machine too


def fails(where: Where, model: Path, data: Path | None = None) -> str:
    with pytest.raises(FedCoWProError) as caught:
        serve(model, data, where, Limits(), lambda line: None)
    return caught.value.got


def test_mistakes_are_said_before_anything_is_served(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert "no folder" in fails(Where(), tiny_checkpoint, tmp_path / "none")
    assert "--certificate" in fails(Where(certificate=tmp_path / "c"), tiny_checkpoint)
    token = tmp_path / "token"
    token.write_text("short")
    token.chmod(0o600)
    assert "5 letters" in fails(Where(token_file=token), tiny_checkpoint)
    token.write_text("x" * 30)
    token.chmod(0o644)
    assert "can be read by others" in fails(Where(token_file=token), tiny_checkpoint)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "127.0.0.1" in fails(Where(port=taken.getsockname()[1]), tiny_checkpoint)
    assert "192.0.2.1" in fails(Where(host="192.0.2.1"), tiny_checkpoint)  # no address of this machine


def test_a_system_without_sighup_gets_as_far_as_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Windows has no SIGHUP."""
    handled: list[int] = []
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # serve replaces it; put back afterwards
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    monkeypatch.setattr(signal, "signal", lambda number, _: handled.append(number))
    assert "none.safetensors" in fails(Where(), tmp_path / "none.safetensors")
    assert handled == [signal.SIGTERM]


@pytest.fixture
def command(tiny_checkpoint: Path, phantoms: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`fedcowpro serve` at all addresses, with temporary files in tmp_path."""
    words = [
        "serve",
        "--model",
        str(tiny_checkpoint),
        "--data",
        str(phantoms),
        "--host",
        "0.0.0.0",
        "--port",
        "0",
        "--forget",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedcowpro.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_public_server_wants_its_token_and_leaves_nothing_behind(
    command: subprocess.Popen[str], phantoms: Path, tmp_path: Path
) -> None:
    assert command.stdout is not None
    lines = [command.stdout.readline() for _ in range(3)]
    found = re.search(r"^page: http://0\.0\.0\.0:(\d+)/#token=(\S+)$", lines[0])
    assert found, lines
    assert lines[1] == f"token: {found[2]}\n"
    assert "not encrypted" in lines[2]
    url = f"http://127.0.0.1:{found[1]}"
    wait_until(lambda: answers(url))
    (private,) = tmp_path.glob("fedcowpro-*")
    assert private.stat().st_mode & 0o777 == 0o700
    with httpx.Client(base_url=url, headers={HEADER: "1"}) as client:
        assert client.post("/api/session").status_code == 401
        assert client.get("/api/folder").status_code == 401
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421
        assert client.post("/api/session", headers={"authorization": f"Bearer {found[2]}"}).status_code == 200
        key = client.post("/api/uploads").json()["id"]
        content = (phantoms / "ct" / "image_1.nii.gz").read_bytes()
        assert client.put(f"/api/uploads/{key}/0", content=content).status_code == 200
        client.post(f"/api/uploads/{key}/open", json={"name": "JANE^DOE.nii.gz"})
        client.post(f"/api/uploads/{key}/open", json={"name": "JANE^DOE.nii.gz"})
    assert list(private.rglob("*"))
    command.send_signal(signal.SIGTERM)
    rest = command.communicate(timeout=PATIENCE)[0]
    assert not private.exists()
    assert "JANE" not in rest
    assert "127.0.0.1" not in rest  # no log of who came


def answers(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.ConnectError:
        return False
    return True


def wait_until(true: Callable[[], bool]) -> None:
    """Look again every 10 ms; fails when patience is at an end."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_body_that_breaks_off_leaves_nothing(listening: tuple[Server, int], phantoms: Path) -> None:
    """The connection ends after half of what was announced; the same file can then be sent again."""
    server, port = listening
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={HEADER: "1"}) as client:
        client.post("/api/session")
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        key = client.post("/api/uploads").json()["id"]
        content = (phantoms / "ct" / "image_1.nii.gz").read_bytes()
        with socket.create_connection(("127.0.0.1", port)) as raw:
            head = f"PUT /api/uploads/{key}/0 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n"
            head += f"{HEADER}: 1\r\nContent-Length: {len(content)}\r\n\r\n"
            raw.sendall(head.encode() + content[: len(content) // 2])
            wait_until(lambda: bool(list(server.root.rglob("00000"))))
        wait_until(lambda: not list(server.root.rglob("00000")))
        assert client.put(f"/api/uploads/{key}/0", content=content).status_code == 200
        assert client.post(f"/api/uploads/{key}/open", json={"name": "x"}).json()["size"] == [64, 64, 10]
