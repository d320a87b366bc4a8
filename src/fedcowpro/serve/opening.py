"""Routes that bring volumes in: the data folder's listing, and uploads file by file."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from fedcowpro.serve.content import Contents, examine, stored_name
from fedcowpro.serve.limits import Refused, size_text
from fedcowpro.serve.server import Server, TheServer, TheSession, discard
from fedcowpro.serve.sessions import Session, Upload
from fedcowpro.serve.store import Origin

router = APIRouter(prefix="/api")
_UPLOADS = 4  # begun and not opened, per session


class Place(BaseModel):
    """What to open in the data folder."""

    path: str = Field(max_length=4096)
    series: int | None = Field(default=None, ge=0)


class Named(BaseModel):
    """How to call an upload, and which of its volumes to open."""

    name: str = Field(default="", max_length=1000)
    series: int | None = Field(default=None, ge=0)


@router.get("/folder")
def folder(server: TheServer, path: str = "") -> dict[str, Any]:
    """What a folder of the data folder holds."""
    if server.data is None:
        raise Refused(404, "no data folder", "--data FOLDER", "drop files on the page, or start the server with --data")
    entries = server.data.listing(path)
    return {
        "path": path,
        "entries": [asdict(entry) for entry in entries],
        "images": sum(entry.is_image for entry in entries),
        "series": server.data.has_dicom(path),
    }


@router.post("/open")
def open_place(place: Place, server: TheServer, session: TheSession) -> dict[str, Any]:
    """Open a file, or the DICOM series of a folder, of the data folder."""
    return open_from_data(server, session, place.path, place.series)


def open_from_data(server: Server, session: Session, path: str, series: int | None) -> dict[str, Any]:
    """Open a file, or the DICOM series of a folder; without `series`, several are offered to choose from."""
    if server.data is None:
        raise Refused(404, "no data folder", "--data FOLDER", "drop files on the page, or start the server with --data")
    files = server.data.files(path)
    if (size := sum(file.stat().st_size for file in files)) > server.limits.expanded:
        raise Refused(413, f"files of {size_text(size)}", f"at most {size_text(server.limits.expanded)}", "crop them")
    work = session.new_folder()
    name = PurePath(path).name or "series"
    try:
        with server.reading:
            found = examine(files, work, server.limits)
            if series is None and len(found.series) > 1:
                discard(work)
                return _choices(found)
            origin = Origin("data", path, series or 0)
            return server.open_volume(session, found, name, work, origin).to_json()
    except BaseException:
        discard(work)
        raise


@router.post("/uploads")
def begin_upload(session: TheSession) -> dict[str, str]:
    """Begin an upload; its files follow one by one."""
    if len(session.uploads) >= _UPLOADS:
        _drop_upload(session, next(iter(session.uploads)))
    key = secrets.token_urlsafe(9)
    session.uploads[key] = Upload(session.upload_folder(), session.new_folder())
    return {"id": key}


@router.put("/uploads/{key}/{number}")
async def put_file(
    key: str, number: int, request: Request, server: TheServer, session: TheSession, name: str = ""
) -> dict[str, int]:
    """One file of an upload: the request's body as it is; messages call it by its name."""
    upload = _upload(session, key)
    declared = int(request.headers["content-length"])
    if not 0 <= number < server.limits.files:
        raise Refused(413, f"file number {number}", f"at most {server.limits.files} files", "give one series")
    if upload.size + declared > server.limits.upload:
        raise Refused(
            413, f"{size_text(upload.size + declared)}", f"at most {size_text(server.limits.upload)} per upload",
            "give the files of one series, or start the server with a larger --max-upload",
        )  # fmt: skip
    if number in upload.numbers:
        raise Refused(409, f"file {number} twice", "each file once", "begin a new upload")
    upload.numbers.add(number)
    upload.size += declared
    target, received = upload.folder / stored_name(number, name), 0
    try:
        with target.open("xb") as file:
            async for block in request.stream():
                received += len(block)
                await run_in_threadpool(file.write, block)
    except ClientDisconnect:
        target.unlink(missing_ok=True)
        upload.numbers.discard(number)
        upload.size -= declared
        raise Refused(400, "a request that broke off", f"{declared} bytes", "send the file again") from None
    return {"size": received}


@router.post("/uploads/{key}/open")
def open_upload(key: str, named: Named, server: TheServer, session: TheSession) -> dict[str, Any]:
    """Look at what was uploaded and open it; several DICOM volumes are offered to choose from."""
    upload = _upload(session, key)
    name = _clean(named.name)
    try:
        with server.reading:
            if upload.found is None:
                upload.found = examine(sorted(upload.folder.iterdir()), upload.work, server.limits)
            if named.series is None and len(upload.found.series) > 1:
                return _choices(upload.found)
            origin = Origin("upload", upload.folder.name, named.series or 0)
            volume = server.open_volume(session, upload.found, name, upload.work, origin, upload.folder)
    except BaseException:
        _drop_upload(session, key)
        raise
    session.uploads.pop(key, None)
    return volume.to_json()


@router.delete("/uploads/{key}")
def drop_upload(key: str, session: TheSession) -> dict[str, str]:
    """Forget an upload."""
    _upload(session, key)
    _drop_upload(session, key)
    return {}


def _choices(found: Contents) -> dict[str, Any]:
    return {"choices": [one.describe() for one in found.series]}


def _upload(session: Session, key: str) -> Upload:
    if key not in session.uploads:
        raise Refused(404, "no such upload", "one that was begun on this page", "choose the files again")
    return session.uploads[key]


def _drop_upload(session: Session, key: str) -> None:
    upload = session.uploads.pop(key, None)
    if upload is not None:
        discard(upload.folder)
        discard(upload.work)


def _clean(name: str) -> str:
    """A name to show: the last part of a path, without control characters."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:120] or "volume"
