"""Routes that work with open volumes: look, draw, segment, refine, save."""

from __future__ import annotations

import asyncio
import gzip
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field, StringConstraints
from starlette.concurrency import run_in_threadpool

from fedcowpro.oneshot.batch import MaskFormat
from fedcowpro.serve.content import stem_for_header
from fedcowpro.serve.jobs import Job
from fedcowpro.serve.limits import Refused
from fedcowpro.serve.opened import OpenVolume, to_page, viewer_image
from fedcowpro.serve.server import TheServer, TheSession
from fedcowpro.serve.sessions import Session
from fedcowpro.volume.nifti import write_labels

router = APIRouter(prefix="/api")
_TICK, _BEAT = 0.1, 10.0  # s between looks at a job, and between signs of life on a quiet stream
_BINARY = "application/octet-stream"
ENDINGS: dict[MaskFormat, str] = {"nifti": "_mask.nii.gz", "dicom-seg": "_mask.dcm", "rtstruct": "_structures.dcm"}


class Label(BaseModel):
    """A label value and its name."""

    value: int = Field(ge=1, le=255)
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]


class Labels(BaseModel):
    """All labels of a session."""

    labels: list[Label] = Field(min_length=1, max_length=32)


class EndsOfLabels(BaseModel):
    """Per label value its first and last slice; null = not known."""

    extents: dict[int, tuple[int | None, int | None]] = Field(max_length=32)


@router.put("/labels")
def put_labels(given: Labels, session: TheSession) -> dict[str, Any]:
    """Replace the list of labels; those that are drawn somewhere stay."""
    names = {label.value: label.name for label in given.labels}
    with session.lock:
        volumes = list(session.volumes.values())
    drawn = {int(value) for volume in volumes for one in list(volume.drawn.values()) for value in set(one[one > 0])}
    if lost := drawn - names.keys():
        raise Refused(409, f"a list without label {min(lost)}", "every label that is drawn", "erase it first")
    session.names = names
    session.keep()
    for volume in volumes:
        volume.keep_ends_of(names)
    return {"labels": session.labels_to_json()}


class Settings(BaseModel):
    """What the page wants to find again: pen, slices, windows."""

    settings: dict[str, Any] = Field(max_length=64)


@router.put("/settings")
def put_settings(given: Settings, session: TheSession) -> dict[str, Any]:
    """Keep the page's settings."""
    session.settings = given.settings
    session.keep()
    return {}


@router.get("/volumes/{key}")
def volume(key: str, session: TheSession) -> dict[str, Any]:
    """What is known of a volume."""
    return session.volume(key).to_json()


@router.delete("/volumes/{key}")
def close(key: str, session: TheSession) -> dict[str, str]:
    """Close a volume."""
    if session.busy():
        raise Refused(409, "a volume that is being worked on", "no running job", "cancel it, or wait")
    session.close_volume(key)
    return {}


@router.get("/volumes/{key}/image")
def image(key: str, session: TheSession) -> Response:
    """The image as NIfTI for the viewer."""
    return Response(viewer_image(session.volume(key)), media_type=_BINARY)


@router.get("/volumes/{key}/labels")
def labels(key: str, session: TheSession) -> Response:
    """A label per voxel, in RAS order."""
    packed = gzip.compress(to_page(session.volume(key).labels()), compresslevel=1)
    return Response(packed, media_type=_BINARY, headers={"content-encoding": "gzip"})


@router.put("/volumes/{key}/slices")
async def draw(key: str, numbers: str, request: Request, session: TheSession) -> dict[str, Any]:
    """Slices as they are drawn now: a label per pixel, in RAS order."""
    opened = session.volume(key)
    _, height, width = opened.shape
    wanted = _numbers(numbers)
    if int(request.headers["content-length"]) != len(wanted) * height * width:
        raise Refused(400, "a body of another length", f"{len(wanted)} slices of {width} x {height}", "send them whole")
    body = await request.body()
    await run_in_threadpool(opened.draw, wanted, body, session.names.keys())
    return {"painted": sorted(opened.drawn), "extents": opened.extents}


@router.delete("/volumes/{key}/slices")
def forget(key: str, numbers: str, session: TheSession) -> dict[str, Any]:
    """Slices are not known any more."""
    opened = session.volume(key)
    opened.forget(_numbers(numbers))
    return {"painted": sorted(opened.drawn)}


@router.put("/volumes/{key}/extents")
def end(key: str, given: EndsOfLabels, session: TheSession) -> dict[str, Any]:
    """First and last slice of labels in a volume, as far as they are known."""
    opened = session.volume(key)
    if unknown := given.extents.keys() - session.names.keys():
        raise Refused(400, f"label {min(unknown)}", "labels of the list", "add the label first")
    opened.end(given.extents)
    return opened.to_json()


@router.post("/volumes/{key}/interpolate")
def interpolate(key: str, session: TheSession) -> dict[str, Any]:
    """Shapes between the drawn slices in place of the masks."""
    if session.busy():
        raise Refused(409, "a volume that is being worked on", "no running job", "cancel it, or wait")
    opened = session.volume(key)
    opened.interpolate()
    return opened.to_json()


@router.get("/suggestion")
def suggestion(server: TheServer, session: TheSession) -> dict[str, Any]:
    """The slice of all open volumes that is most worth painting next, and why."""
    with session.lock:
        volumes = list(session.volumes.values())
    return server.engine.suggest(volumes)


@router.post("/segment", status_code=202)
def segment(server: TheServer, session: TheSession) -> dict[str, Any]:
    """Segment all open volumes by the drawn slices, in the background."""
    return _start(server, session, server.engine.segment)


@router.post("/refine", status_code=202)
def refine(server: TheServer, session: TheSession) -> dict[str, Any]:
    """Fine-tune a network on the drawn slices and all open volumes, in the background; minutes."""

    def work(volumes: Sequence[OpenVolume], job: Job) -> None:
        session.network = server.engine.refine(volumes, job)

    return _start(server, session, work)


@router.post("/volumes/{key}/exchange")
def exchange(key: str, session: TheSession) -> dict[str, Any]:
    """Masks of before refining in place of those of after, or back."""
    opened = session.volume(key)
    opened.exchange()
    return opened.to_json()


def _start(server: TheServer, session: TheSession, work: Callable[[Sequence[OpenVolume], Job], None]) -> dict[str, Any]:
    with session.lock:
        if session.busy():
            raise Refused(409, "a second job", "one at a time", "wait for the running one, or cancel it")
        volumes = list(session.volumes.values())
        session.job = server.worker.submit(lambda job: work(volumes, job))
    return session.job.to_json()


@router.get("/jobs/{key}")
def job(key: str, session: TheSession) -> dict[str, Any]:
    """How far a job is."""
    return _job(session, key).to_json()


@router.delete("/jobs/{key}")
def cancel(key: str, session: TheSession) -> dict[str, Any]:
    """Stop a job at its next step."""
    found = _job(session, key)
    found.cancel()
    return found.to_json()


@router.get("/jobs/{key}/events")
async def events(key: str, server: TheServer, session: TheSession) -> StreamingResponse:
    """A job's progress as server-sent events, until it ends."""
    found = _job(session, key)

    async def stream() -> AsyncIterator[str]:
        before, quiet = "", 0.0
        while True:
            now = json.dumps(found.to_json())
            if now != before:
                before, quiet = now, 0.0
                yield f"data: {now}\n\n"
            elif quiet >= _BEAT:
                quiet = 0.0
                yield ": still here\n\n"
            if found.ended:
                return
            server.sessions.find(session.key)  # a page that waits is not idle
            await asyncio.sleep(_TICK)
            quiet += _TICK

    return StreamingResponse(stream(), media_type="text/event-stream")


@router.get("/volumes/{key}/export")
def export(key: str, session: TheSession, kind: Annotated[MaskFormat, Query(alias="format")] = "nifti") -> Response:
    """The labels on the image's own grid, as a file."""
    opened = session.volume(key)
    with tempfile.TemporaryDirectory(dir=session.folder) as folder:
        path = Path(folder) / f"{stem_for_header(opened.volume.name)}{ENDINGS[kind]}"
        write_mask(path, opened, session, kind)
        content = path.read_bytes()
    media = "application/gzip" if kind == "nifti" else "application/dicom"
    return Response(content, media_type=media, headers={"content-disposition": f'attachment; filename="{path.name}"'})


def write_mask(path: Path, opened: OpenVolume, session: Session, kind: MaskFormat) -> None:
    """Write the labels of a volume as they are now.

    Raises:
        Refused: DICOM of a volume that is no DICOM series, or without a labelled voxel.
        FedCoWProError: images that a DICOM object cannot refer to.
    """
    found = opened.labels()
    names = session.names_of([int(value) for value in np.unique(found) if value])
    if kind == "nifti":
        write_labels(path, found, opened.volume.grid, names)
        return
    if opened.series is None:
        raise Refused(409, "DICOM of a volume that is no DICOM series", "a DICOM series", "save as NIfTI")
    if not names:
        raise Refused(409, "nothing is labelled", "a labelled voxel", "paint or segment first")
    from fedcowpro.volume.dicom.masks import write_masks

    write_masks(path, found, opened.series, names, kind)


def _numbers(text: str) -> list[int]:
    parts = text.split(",") if len(text) <= 20_000 else []
    if not parts or not all(part.isascii() and part.isdigit() and len(part) < 7 for part in parts):
        raise Refused(400, "numbers of slices", "whole numbers separated by commas", "as in numbers=3,7")
    return [int(part) for part in parts]


def _job(session: Session, key: str) -> Job:
    if session.job is None or session.job.id != key:
        raise Refused(404, "no such job", "the job of this page", "start it again")
    return session.job
