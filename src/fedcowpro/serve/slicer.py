"""Routes for 3D Slicer's module MONAI Label, so that people can stay there: what is painted on the page is its model.

The part of MONAI Label's interface that its clients need, under an address with a key that only the page shows: these
clients send no header of ours, but keep a path. The images are the volumes that are open on the page.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import secrets
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from fedcowpro import __version__
from fedcowpro.oneshot.doubts import by_doubt
from fedcowpro.serve.content import examine, stem_for_header, stored_name
from fedcowpro.serve.guard import SLICER
from fedcowpro.serve.jobs import Job
from fedcowpro.serve.limits import Refused
from fedcowpro.serve.opened import OpenVolume
from fedcowpro.serve.server import Server, TheServer, discard
from fedcowpro.serve.sessions import Session
from fedcowpro.serve.store import Origin
from fedcowpro.volume.nifti import nifti_of, write_labels
from fedcowpro.volume.read import read_labels

if TYPE_CHECKING:
    from starlette.datastructures import FormData

    from fedcowpro.oneshot.segmentation import Segmentation
    from fedcowpro.volume.volume import Volume

router = APIRouter(prefix=SLICER + "{address}")
EXAMPLE, REFINED, DOUBT = "example", "refined", "most doubtful"
_TICK = 0.05  # s between looks at a job
_TAB = "3D Slicer"  # as one that changes things
_VOLUME, _LABELS = ".nii.gz", "application/gzip"


class Segment(BaseModel):
    """What Slicer says of a segment."""

    name: str = ""
    idx: int = 0


class Said(BaseModel):
    """What Slicer says of a label map."""

    label_info: list[Segment] = []


def _session(address: str, server: TheServer) -> Session:
    return server.begin_by_slicer(address)


def _writing(address: str, server: TheServer) -> Session:
    """The session, in which now Slicer changes things, and the page looks until its user takes over."""
    session = server.begin_by_slicer(address)
    if session.busy():
        raise Refused(409, "volumes that are being worked on", "no running job", "wait, or cancel it on the page")
    server.sessions.write(session, _TAB, take=True)
    return session


Looking = Annotated[Session, Depends(_session)]
Writing = Annotated[Session, Depends(_writing)]


@router.get("/info/")
def info(session: Looking) -> dict[str, Any]:
    """What there is: labels, models, a way to the next image."""
    labels = list(session.names.values())
    about = {EXAMPLE: "Like the slices that are painted on the page"}
    if session.network is not None:
        about[REFINED] = "The network that was refined on the page"
    return {
        "name": "FedCoWPro",
        "description": "Segments like the painted slices",
        "version": __version__,
        "labels": labels,
        "models": {
            name: {"type": "segmentation", "labels": labels, "dimension": 3, "description": text, "config": {}}
            for name, text in about.items()
        },
        "trainers": {},
        "train_stats": {},
        "scoring": {},
        "strategies": {DOUBT: {"description": "The open volume that is trusted least"}},
        "datastore": _counts(session),
    }


@router.post("/activelearning/{strategy}")
def next_image(strategy: str, session: Looking) -> dict[str, Any]:
    """The most doubtful open volume that is not painted throughout."""
    left = [volume for volume in _volumes(session) if len(volume.drawn) < volume.shape[0]]
    if not left:
        return {}
    found = min(left, key=_trust)
    place = f"/datastore/image?image={found.id}"
    return {"id": found.id, "name": _file_name(found), "path": "", "url": place, "checksum": None}


def _trust(volume: OpenVolume) -> tuple[float, int]:
    result = volume.result
    if result is None:
        return -1.0, 0
    return by_doubt(result.confidence.values(), (result.doubts.get(organ, ()) for organ in result.organs))


@router.get("/datastore/")
def datastore(session: Looking, output: str = "stats") -> dict[str, Any] | list[Any]:
    """The open volumes and which masks they have."""
    if output == "train":
        return []
    if output != "all":
        return _counts(session)
    objects = {}
    for volume in _volumes(session):
        values = [int(value) for value in np.unique(volume.labels()) if value]
        params = {"label_names": {name: value for value, name in session.names_of(values).items()}}
        labels = {tag: {"ext": _VOLUME, "info": {"params": params}} for tag in _tags(volume) if values}
        objects[volume.id] = {"image": {"ext": _VOLUME, "info": {"name": volume.volume.name}}, "labels": labels}
    return {"name": "FedCoWPro", "description": "", "objects": objects}


def _counts(session: Session) -> dict[str, Any]:
    volumes = _volumes(session)
    tags = [tag for volume in volumes for tag in _tags(volume)]
    return {
        "total": len(volumes),
        "completed": tags.count("final"),
        "label_tags": {tag: tags.count(tag) for tag in set(tags)},
    }


def _tags(volume: OpenVolume) -> list[str]:
    """'original': it has masks, 'final': a person painted or checked some of it."""
    masks = ["original"] if volume.result is not None or volume.drawn else []
    return [*masks, "final"] if volume.drawn else masks


@router.get("/datastore/image")
def get_image(image: str, session: Looking) -> Response:
    """An image on its own grid."""
    opened = _volume(session, image)
    return _as_file(_packed(opened, opened.volume.voxels), _file_name(opened))


@router.get("/datastore/label")
def get_label(label: str, session: Looking) -> Response:
    """The labels of an image as the page shows them."""
    opened = _volume(session, label)
    return _as_file(_packed(opened, opened.labels()), _file_name(opened))


@router.put("/datastore/")
@router.put("/datastore/image")
async def put_image(request: Request, server: TheServer, session: Writing, image: str = "") -> dict[str, str]:
    """Open an image that Slicer sends, as if it were dropped on the page."""
    async with request.form() as form:
        opened = await run_in_threadpool(_open, server, session, _files(form, "file"), image)
    return {"image": opened.id}


@router.put("/session/")
async def begin(request: Request, server: TheServer, session: Writing) -> dict[str, Any]:
    """The same, for an image that is not to be kept: closing it is Slicer's."""
    async with request.form(max_files=server.limits.files) as form:
        opened = await run_in_threadpool(_open, server, session, _files(form, "files"), "")
    return {"session_id": opened.id, "session_info": _about(opened)}


@router.get("/session/{key}")
def known(key: str, session: Looking) -> dict[str, Any]:
    """Whether an image that was sent is still open."""
    return _about(session.volume(key))


@router.delete("/session/{key}")
def end(key: str, session: Writing) -> dict[str, Any]:
    """Close an image that was sent."""
    about = _about(session.volume(key))
    session.close_volume(key)
    return about


@router.post("/infer/{model}")
async def infer(
    model: str, request: Request, server: TheServer, session: Looking, image: str = "", session_id: str = ""
) -> Response:
    """Masks of an open volume, on its own grid; the page keeps those that it has."""
    opened = _volume(session, session_id or image)
    async for _ in request.stream():  # settings of other models
        pass
    if model == REFINED and session.network is not None:
        network = session.network

        def make(job: Job) -> Segmentation:
            return network.segment(opened.volume, opened.modality, extents=opened.annotation().extents)

    elif model == EXAMPLE:

        def make(job: Job) -> Segmentation:
            return server.engine.segment_one(_volumes(session), opened, job)

    else:
        raise Refused(404, f"model '{model[:40]}'", "a model that /info/ names", "fetch the models again")
    made: list[Segmentation] = []
    job = server.worker.submit(lambda job: made.append(make(job)))
    while not job.ended:
        if await request.is_disconnected():
            job.cancel()
        await asyncio.sleep(_TICK)
    if not made:
        raise Refused(400, **(job.error or {"got": "a stop", "expected": "a result", "remedy": "try again"}))
    return await run_in_threadpool(_answer, opened, made[0], session)


@router.put("/datastore/label")
async def put_label(request: Request, server: TheServer, session: Writing, image: str) -> dict[str, str]:
    """A label map that somebody finished in Slicer: all its slices are an example from now on."""
    opened = _volume(session, image)
    async with request.form() as form:
        file = _files(form, "label")[0]
        try:
            said = Said.model_validate_json(str(form.get("params") or "{}"))
        except ValidationError:
            raise Refused(400, "broken words on the segments", "JSON with label_info", "use Slicer") from None
        content = await file.read()
    await run_in_threadpool(_take, server, session, opened, content, said.label_info)
    return {"image": opened.id, "label": opened.id}


def _take(server: Server, session: Session, opened: OpenVolume, content: bytes, listed: list[Segment]) -> None:
    with tempfile.TemporaryDirectory(dir=session.folder) as folder:
        path = Path(folder) / "sent"
        path.write_bytes(content)
        found = examine([path], Path(folder), server.limits)
        if found.nifti is None:
            raise Refused(415, "labels that are no NIfTI file", "a .nii.gz file", "set Slicer's file extension to it")
        labels = read_labels(found.nifti, opened.volume).voxels
    values = [int(value) for value in np.unique(labels) if value]
    # Slicer numbers the segments that it sends 1, 2, 3; what it says of their numbers counts others, too.
    names = {number: one.name for number, one in enumerate(listed, 1)}
    if not names.keys() >= set(values):
        names = {one.idx: one.name for one in listed}
    table = np.arange(256, dtype=np.uint8)
    ours = dict(session.names)
    for value in values:
        name = names.get(value, "").strip()[:64] or session.names.get(value, f"label {value}")
        own = next((number for number, one in ours.items() if one.lower() == name.lower()), None)
        if own is None:
            own = next((number for number in (value, *range(1, 256)) if number not in ours), None)
        if own is None or len(ours) > 32:
            raise Refused(400, "more than 32 labels", "at most 32 in all", "send fewer segments")
        ours[own], table[value] = name, own
    session.names = dict(sorted(ours.items()))
    session.keep()
    opened.know(table[labels])


def _open(server: Server, session: Session, files: list[UploadFile], name: str) -> OpenVolume:
    folder, work = session.upload_folder(), session.new_folder()
    try:
        for number, file in enumerate(files):
            with (folder / stored_name(number, file.filename or "")).open("xb") as target:
                while block := file.file.read(1 << 20):
                    target.write(block)
        called = name or files[0].filename or "volume"
        with server.reading:
            found = examine(sorted(folder.iterdir()), work, server.limits)
            if len(found.series) > 1:
                raise Refused(400, f"{len(found.series)} DICOM volumes", "one", "send them one by one")
            opened = server.open_volume(session, found, called, work, Origin("upload", folder.name), folder)
    except BaseException:
        discard(folder)
        discard(work)
        raise
    for other in _volumes(session):  # Slicer sends an image again to save its labels
        if other is not opened and _same(other.volume, opened.volume):
            session.close_volume(opened.id)
            if not other.place:
                other.volume = replace(other.volume, name=called)
            return other
    return opened


def _same(one: Volume, other: Volume) -> bool:
    alike = one.voxels.shape == other.voxels.shape and np.allclose(one.grid.affine, other.grid.affine, atol=1e-3)
    return alike and np.array_equal(one.voxels, other.voxels)


def _answer(opened: OpenVolume, made: Segmentation, session: Session) -> Response:
    """The masks as a file, and what is known of them, in one body of two parts."""
    labels = opened.annotation(made).labels
    names = session.names_of([int(value) for value in np.unique(labels) if value])
    said = {
        "label_names": {name: value for value, name in names.items()},
        "confidence": {
            name: None if math.isnan(sure := made.confidence.get(value, math.nan)) else round(sure, 3)
            for value, name in names.items()
        },
        "doubts": {name: list(made.doubts.get(value, ())) for value, name in names.items()},
    }
    with tempfile.TemporaryDirectory(dir=session.folder) as folder:
        path = Path(folder) / _file_name(opened)
        write_labels(path, labels, opened.volume.grid, names)
        mask = path.read_bytes()
    line = secrets.token_hex(16)
    head = f'--{line}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
    middle = f'\r\n--{line}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n'
    body = f"{head}{json.dumps(said)}{middle}Content-Type: {_LABELS}\r\n\r\n".encode() + mask
    return Response(body + f"\r\n--{line}--\r\n".encode(), media_type=f"multipart/form-data; boundary={line}")


def _files(form: FormData, name: str) -> list[UploadFile]:
    found = [one for one in form.getlist(name) if isinstance(one, UploadFile)]
    if not found:
        raise Refused(400, f"a body without '{name}'", "a file under this name", "use MONAI Label's client")
    return found


def _volumes(session: Session) -> list[OpenVolume]:
    with session.lock:
        return list(session.volumes.values())


def _volume(session: Session, image: str) -> OpenVolume:
    """An open volume by its id or its name, of several the last one."""
    wanted = stem_for_header(image)
    named = [one for one in _volumes(session) if image == one.id or wanted == stem_for_header(one.volume.name)]
    return named[-1] if named else session.volume(image)


def _about(opened: OpenVolume) -> dict[str, Any]:
    return {"name": opened.id, "image": opened.volume.name}


def _file_name(opened: OpenVolume) -> str:
    """Slicer tells a file's kind by its name."""
    return stem_for_header(opened.volume.name) + _VOLUME


def _packed(opened: OpenVolume, array: np.ndarray) -> bytes:
    return gzip.compress(nifti_of(array, opened.volume.grid).to_bytes(), compresslevel=1)


def _as_file(content: bytes, name: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=_LABELS, headers=headers)
