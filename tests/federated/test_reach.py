"""What stands between a site and the coordinator's door, each in one sentence."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.deployment import coordinator as servers
from fedcowpro.federated.deployment import keys
from fedcowpro.federated.deployment import site as sites_programs
from fedcowpro.federated.deployment.layout import Coordinator, FederationFile
from fedcowpro.federated.deployment.provision import init_federation
from fedcowpro.federated.deployment.reach import reach
from fedcowpro.federated.deployment.site import free_port, run_site

CA, CERTIFICATE, KEY = "ca.crt", "server.crt", "server.key"


@contextmanager
def clock(monkeypatch: pytest.MonkeyPatch, days: float) -> Iterator[None]:
    """Certificates are made by a clock that is ahead by so many days."""

    class Other(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(days=days)

    with monkeypatch.context() as patch:
        patch.setattr(keys, "datetime", Other)
        yield


@contextmanager
def door(folder: Path) -> Iterator[str]:
    """A server that shakes hands and no more; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                    with context.wrap_socket(plain, server_side=True):
                        pass
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, days: float = 0.0) -> Path:
    """An authority that is valid now and a server's certificate by that clock."""
    keys.make_authority(folder / CA, folder / "ca.key", "an authority")
    with clock(monkeypatch, days):
        keys.make_server_certificate(folder / CA, folder / "ca.key", ("127.0.0.1",), folder / CERTIFICATE, folder / KEY)
    return folder


def test_a_door_that_is_as_it_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with door(made(tmp_path, monkeypatch)) as address:
        reach(address, tmp_path / CA).close()


@pytest.mark.parametrize(
    ("days", "said"), [(2, "a certificate that is not yet valid by this machine's clock"), (-900, "has expired")]
)
def test_a_certificate_that_is_not_valid_now(
    days: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with door(made(tmp_path, monkeypatch, days)) as address, pytest.raises(FedCoWProError) as raised:
        reach(address, tmp_path / CA)
    assert said in raised.value.got
    assert "administrators" not in raised.value.remedy


def test_an_authority_of_tomorrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with clock(monkeypatch, 1):
        keys.make_authority(tmp_path / CA, tmp_path / "ca.key", "an authority")
    with pytest.raises(FedCoWProError, match=r"is valid only from .* UTC on"):
        reach("127.0.0.1:1", tmp_path / CA)


def test_the_server_does_not_start_with_a_certificate_of_tomorrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "start", lambda *_, **__: pytest.fail("a program was started"))
    with clock(monkeypatch, 1):
        init_federation(tmp_path, FederationFile(hosts=("127.0.0.1",), sites=("north",)))
    with pytest.raises(FedCoWProError, match="is valid only from"):
        servers.serve_federation(tmp_path)


def test_a_server_that_is_down_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`join --run` starts no SuperNode, which would print a traceback, and tries again."""
    port = free_port()
    init_federation(tmp_path, FederationFile(hosts=("127.0.0.1",), port=port, sites=("north",)))
    bundle, said = Coordinator(tmp_path).bundle("north"), []

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sites_programs.time, "sleep", stop)
    monkeypatch.setattr(sites_programs, "start", lambda *_, **__: pytest.fail("a SuperNode was started"))
    site = sites_programs.Bundle(bundle).read()
    run_site(bundle, site, tmp_path, say=said.append)
    assert said[0] == (
        f"the coordinator's server is down: nothing answers at 127.0.0.1:{port} "
        "(wait, or ask the coordinator to start it: fedcowpro federation serve); next try in 2 s"
    )
    assert said[1:] == ["stopped"]
