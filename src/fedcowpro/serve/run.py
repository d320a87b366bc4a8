"""Start the server: token, private folder, hosts, and the end of it all."""

from __future__ import annotations

import logging
import secrets
import shutil
import signal
import socket
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.serve.limits import Limits

LOCAL = ("127.0.0.1", "localhost", "::1")
_SHORTEST = 20  # letters of a token
_log = logging.getLogger("fedcowpro.serve")


@dataclass(frozen=True)
class Where:
    """Where a server listens and who may come.

    Attributes:
        host, port: to listen at; port 0 takes a free one.
        token_file: holds the token; None makes one where one is needed.
        allowed_hosts: further names under which the server is reached.
        certificate, key: files for TLS; both or none.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token_file: Path | None = None
    allowed_hosts: Sequence[str] = ()
    certificate: Path | None = None
    key: Path | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOCAL


def serve(
    model: Path | None,
    data: Path | None,
    where: Where,
    limits: Limits,
    tell: Callable[[str], object] = print,
    device: str = "auto",
    project: Path | None = None,
) -> None:
    """Serve the page until interrupted.

    Args:
        model: checkpoint or run folder; None = the model that comes with the program.
        data: folder to choose volumes from.
        where: host, port, token, TLS.
        limits: what a session may use.
        tell: gets the lines that a user must see: address and token.
        device: what computes (see `OneShotSegmenter`).
        project: folder that keeps what is done (see `store`); None = it ends with the visit.

    Raises:
        FedCoWProError: the extra is missing; unusable model, folder, project, token, certificate or
            address.
    """
    uvicorn = _uvicorn()
    from fedcowpro.core.device import choose_device
    from fedcowpro.oneshot.loading import load_predictor
    from fedcowpro.serve.app import create_app
    from fedcowpro.serve.engine import Engine
    from fedcowpro.serve.folder import DataFolder
    from fedcowpro.serve.guard import Policy
    from fedcowpro.serve.server import Server
    from fedcowpro.serve.store import Project

    if data is not None and not data.is_dir():
        raise FedCoWProError(f"no folder {data}", "a folder of volumes", "correct --data")
    if (where.certificate is None) != (where.key is None):
        raise FedCoWProError("one of --certificate and --key", "both or none", "give the other one, too")
    token = _token(where)
    listening = listen(where)
    port = listening.getsockname()[1]
    hosts = {*LOCAL, *(name.lower() for name in where.allowed_hosts)}
    if not where.local:
        hosts |= {where.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    policy = Policy(hosts, not where.local, token, where.certificate is not None, f"fedcowpro-{port}")
    for name in ("SIGTERM", "SIGHUP"):  # like Ctrl-C, they must not leave files behind
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    # Texts of warnings may quote paths and headers, which may carry a patient's name.
    warnings.showwarning = lambda message, category, *rest: _log.info("a warning: %s", category.__name__)
    root = Path(tempfile.mkdtemp(prefix="fedcowpro-"))  # of mode 0700
    try:
        loaded = load_predictor(model, device=choose_device(device))
        engine = Engine(loaded.predictor, loaded.prepare, model.name if model else "built in")
        kept = None if project is None else Project(project)
        app = create_app(Server(engine, root, DataFolder(data) if data else None, limits, policy, kept))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
            ssl_certfile=where.certificate,
            ssl_keyfile=where.key,
        )
        for line in _greeting(where, port, token, project):
            tell(line)
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()
        shutil.rmtree(root, ignore_errors=True)


def _uvicorn() -> ModuleType:
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise FedCoWProError(
            f"no package '{error.name}'", "it is needed for the page", "pip install 'fedcowpro[serve]'"
        ) from error
    return uvicorn


def _token(where: Where) -> str | None:
    """From the file, or a new one where other machines can come, or none."""
    if where.token_file is None:
        return None if where.local else secrets.token_urlsafe(32)
    token = where.token_file.read_text(encoding="utf-8").strip()
    if len(token) < _SHORTEST or not token.isprintable() or " " in token:
        raise FedCoWProError(
            f"{where.token_file}: a token of {len(token)} letters", f"one line of at least {_SHORTEST}, without spaces",
            "make one, for example with: openssl rand -hex 32",
        )  # fmt: skip
    if where.token_file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        raise FedCoWProError(
            f"{where.token_file} can be read by others", "a file that only you can read", "chmod 600 on it"
        )
    return token


def listen(where: Where) -> socket.socket:
    """A socket that is bound.

    Raises:
        FedCoWProError: no address of this machine, or a port in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise FedCoWProError(
            f"{where.host}:{where.port}: {error.strerror}", "an address of this machine with a free port",
            "choose another --port or --host; port 0 takes a free one",
        ) from error  # fmt: skip
    return listening


def _greeting(where: Where, port: int, token: str | None, project: Path | None) -> list[str]:
    scheme = "http" if where.certificate is None else "https"
    host = f"[{where.host}]" if ":" in where.host else where.host
    # The part after '#' is not sent and enters no log; the page reads it and takes it out of the address.
    lines = [f"page: {scheme}://{host}:{port}/" + (f"#token={token}" if token and where.token_file is None else "")]
    if token is not None and where.token_file is None:
        lines.append(f"token: {token}")
    if not where.local and where.certificate is None:
        lines.append("note: what you send is not encrypted on the way; give --certificate and --key, or use a tunnel")
    kept = f"what is done and sent is kept in {project}" if project else "Ctrl-C removes what was sent and done"
    return [*lines, f"{kept}; research only, not a medical device"]
