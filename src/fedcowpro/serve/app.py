"""The web application: routes, guarded, and the page's own files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from fedcowpro import __version__
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.serve import opening, slicer, together, working
from fedcowpro.serve.guard import SLICER, Guard, tab_of
from fedcowpro.serve.limits import Refused
from fedcowpro.serve.server import Server, TheServer, TheSession
from fedcowpro.serve.sessions import slicer_key
from fedcowpro.volume.dicom.organ_codes import TERMS

STATIC = Path(__file__).parent / "static"
_SWEEP = 15.0  # s between looks for idle sessions


def create_app(server: Server) -> FastAPI:
    """The application of one server."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(server))
        yield
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
        server.close()

    app = FastAPI(title="FedCoWPro", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.server = server
    app.add_middleware(Guard, policy=server.policy, sessions=server.sessions, limits=server.limits)
    app.include_router(opening.router)
    app.include_router(working.router)
    app.include_router(together.router)
    app.include_router(slicer.router)
    app.add_api_route("/", _page, response_class=FileResponse)
    app.add_api_route("/api/session", _begin, methods=["POST"])
    app.add_api_route("/api/state", _state)
    app.add_api_route("/api/writer", _write, methods=["POST"])
    app.add_api_route("/api/writer", _leave, methods=["DELETE"])
    app.mount("/static", StaticFiles(directory=STATIC, follow_symlink=False), "static")
    app.add_exception_handler(FedCoWProError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _other)
    return app


async def _sweep(server: Server) -> None:
    while True:
        await asyncio.sleep(min(_SWEEP, server.limits.idle))
        server.sessions.drop_idle()


def _page() -> FileResponse:
    return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")


async def _begin(request: Request, server: TheServer) -> JSONResponse:
    """Begin a session, with the token where one is needed; a session that there is goes on."""
    session = request.state.session
    if session is None:
        key = request.state.key
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        known = server.sessions.knows(key) or (scheme == "Bearer" and server.policy.token_fits(given))
        if server.policy.token is not None and not known:
            await asyncio.sleep(0.3)  # guessing is slow
            raise Refused(401, "no token, or a wrong one", "the token that the server printed", "enter the token")
        session = await run_in_threadpool(server.begin, key)
    return JSONResponse({}, headers={"set-cookie": server.policy.set_cookie(session, server.project is not None)})


def _write(request: Request, server: TheServer, session: TheSession, take: bool = False) -> dict[str, bool]:
    """A tab is there; whether it is the one that may change things. With `take` it is."""
    return {"writer": server.sessions.write(session, tab_of(request.headers), take)}


def _leave(request: Request, session: TheSession) -> dict[str, str]:
    """A tab is closed; another may change things."""
    if session.writer is not None and session.writer[0] == tab_of(request.headers):
        session.writer = None
    return {}


async def _state(server: TheServer, session: TheSession) -> dict[str, Any]:
    """What a page needs at its start."""
    with session.lock:
        volumes = list(session.volumes.values())
    return {
        "version": __version__,
        "model": server.engine.name,
        "data": server.data is not None,
        "dicom": find_spec("pydicom") is not None,
        "dicom_seg": find_spec("highdicom") is not None,
        "limits": {"upload": server.limits.upload, "volumes": server.limits.volumes},
        "idle": server.limits.idle,
        "kept": session.bench is not None,
        "slicer": SLICER + slicer_key(session.key),
        "terms": TERMS,
        "absent": list(session.absent.values()),
        "settings": session.settings,
        "labels": session.labels_to_json(),
        "volumes": [volume.to_json() for volume in volumes],
        "job": session.job.to_json() if session.job is not None and session.busy() else None,
    }


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, FedCoWProError)
    status = error.status if isinstance(error, Refused) else 400
    server: Server = request.app.state.server
    return JSONResponse(server.without_paths(error), status)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    where = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
    body = {
        "got": f"a request with a wrong {where}",
        "expected": "what the page sends",
        "remedy": "load the page again",
    }
    return JSONResponse({"error": body}, 422)


async def _other(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {
        "got": "a request for what is not here",
        "expected": "a route of this server",
        "remedy": "load the page again",
    }
    return JSONResponse({"error": body}, error.status_code)
