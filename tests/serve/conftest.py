"""Servers on phantoms, as applications for requests in the process and as one that listens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common import PLAIN
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.serve.engine import Engine
from fedcowpro.serve.folder import DataFolder
from fedcowpro.serve.guard import Policy
from fedcowpro.serve.server import Server
from serve_pages import SMALL, Page, Running, Serving


@pytest.fixture(scope="session")
def engine(tiny_checkpoint: Path) -> Engine:
    loaded = load_predictor(tiny_checkpoint, PLAIN.model_dump())
    return Engine(loaded.predictor, loaded.prepare, "tiny")


@pytest.fixture
def serving(engine: Engine, phantoms: Path, tmp_path: Path) -> Iterator[Serving]:
    """Makes servers with the phantoms as data folder."""
    made: list[Server] = []

    def make(data: Path | None = phantoms, policy: Policy | None = None, **limits: object) -> Server:
        root = tmp_path / f"private{len(made)}"
        root.mkdir(mode=0o700)
        bounds = replace(SMALL, **limits)  # type: ignore[arg-type]
        made.append(Server(engine, root, DataFolder(data) if data else None, bounds, policy or Policy()))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def page(serving: Serving) -> Page:
    return Page(serving())


@pytest.fixture
def listening(serving: Serving) -> Iterator[tuple[Server, int]]:
    """A server that listens on a port of this machine, in a thread."""
    server = serving()
    with Running(server) as port:
        yield server, port
