"""Routes for a folder as a whole: open all of it, take masks that are there, look at all volumes, save all masks."""

from __future__ import annotations

import csv
import io
import itertools
import math
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.oneshot.batch import MaskFormat
from fedcowpro.serve.content import stem_for_header
from fedcowpro.serve.jobs import Job
from fedcowpro.serve.limits import Refused
from fedcowpro.serve.opened import OpenVolume, window_of
from fedcowpro.serve.opening import open_from_data
from fedcowpro.serve.server import TheServer, TheSession
from fedcowpro.serve.sessions import Session
from fedcowpro.serve.working import ENDINGS, write_mask
from fedcowpro.volume import measure
from fedcowpro.volume.measure import Measured
from fedcowpro.volume.nifti import label_names
from fedcowpro.volume.read import read_labels

router = APIRouter(prefix="/api")
_SIDE = 96  # pixels of a thumbnail
COLUMNS = ("volume", "mask", "label", "name", *measure.COLUMNS, "confidence", "modality", "painted", "doubts")


class Folder(BaseModel):
    """A folder of the data folder."""

    path: str = Field(max_length=4096)


@router.post("/open-all", status_code=202)
def open_all(folder: Folder, server: TheServer, session: TheSession) -> dict[str, Any]:
    """Open every image of a folder that is not open yet, in the background; label maps are not images."""
    if server.data is None:
        raise Refused(404, "no data folder", "--data FOLDER", "start the server with --data")
    with session.lock:
        if session.busy():
            raise Refused(409, "a second job", "one at a time", "wait for the running one, or cancel it")
        there = {volume.place for volume in session.volumes.values()}
        places = [place for place in server.data.images(folder.path) if place not in there]
        if not places:
            raise Refused(404, "no further image in this folder", "NIfTI images", "choose another folder")

        def work(job: Job) -> None:
            for number, place in enumerate(places):
                job.report(f"opening {PurePath(place).name}", number, len(places))
                try:
                    open_from_data(server, session, place, 0)
                except FedCoWProError as error:
                    shown = server.without_paths(error)["error"]
                    job.notes.append(f"{PurePath(place).name} is not open: {shown['got']}; {shown['remedy']}")
            job.report("finished", len(places), len(places))

        session.job = server.worker.submit(work)
    return session.job.to_json()


@router.post("/volumes/{key}/mask")
def take_mask(key: str, use: Literal["example", "start"], server: TheServer, session: TheSession) -> dict[str, Any]:
    """Take the label map that lies beside an image: as an example of all its slices, or as masks to correct."""
    opened = session.volume(key)
    if session.busy():
        raise Refused(409, "a volume that is being worked on", "no running job", "cancel it, or wait")
    path = server.data.mask_of(opened.place) if server.data is not None and opened.place else None
    if path is None:
        raise Refused(404, "no label map beside this image", "one on its grid with a name like it", "paint it")
    labels = read_labels(path, opened.volume).voxels
    values = [int(value) for value in np.unique(labels) if value]
    own = {value: name[:64] for value, name in label_names(path).items() if value in values}
    given = {value: name for value, name in session.names.items() if value not in own or name != f"organ {value}"}
    names = {value: f"label {value}" for value in values} | own | given
    if len(names) > 32:
        raise Refused(400, f"a label map with {len(values)} labels", "at most 32 labels in all", "take fewer")
    session.names = dict(sorted(names.items()))
    session.keep()
    if use == "example":
        opened.know(labels)
    else:
        opened.start_from(labels)
    return {"volume": opened.to_json(), "labels": session.labels_to_json()}


@router.get("/volumes/{key}/thumbnail")
def thumbnail(key: str, session: TheSession) -> Response:
    """The slice with most labelled voxels, grey values and labels, 96 x 96 bytes each, as it is seen on the page."""
    opened = session.volume(key)
    labels = opened.labels()
    z = int(np.count_nonzero(labels, axis=(1, 2)).argmax()) if labels.any() else len(labels) // 2
    low, high = window_of(opened)
    grey = np.clip((opened.volume.voxels[z] - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    sides = [length * mm for length, mm in zip(grey.shape, opened.volume.spacing[1:], strict=True)]
    at = [(np.arange(_SIDE) + 0.5) / _SIDE * max(sides) - (max(sides) - side) / 2 for side in sides]
    rows, columns = (np.floor(place / mm).astype(int) for place, mm in zip(at, opened.volume.spacing[1:], strict=True))
    inside = np.logical_and.outer((rows >= 0) & (rows < grey.shape[0]), (columns >= 0) & (columns < grey.shape[1]))
    index = np.ix_(rows.clip(0, grey.shape[0] - 1), columns.clip(0, grey.shape[1] - 1))
    parts = [np.where(inside, one[index], 0).astype(np.uint8).tobytes() for one in (grey, labels[z])]
    return Response(b"".join(parts), media_type="application/octet-stream")


@router.get("/export-all")
def export_all(server: TheServer, session: TheSession) -> Response:
    """A zip archive with the masks of every volume that has some, of DICOM series as DICOM too, and a table of them."""
    with session.lock:
        volumes = list(session.volumes.values())
    table, packed, used, left_out = io.StringIO(), io.BytesIO(), set[str](), []
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(COLUMNS)
    kinds: tuple[MaskFormat, ...] = ("nifti", "dicom-seg", "rtstruct") if find_spec("highdicom") else ("nifti",)
    with tempfile.TemporaryDirectory(dir=session.folder) as folder, zipfile.ZipFile(packed, "w") as archive:
        for volume in volumes:
            measured = measure.measure(volume.labels(), volume.volume)
            if not measured:
                continue
            stem = next(one for one in _names(stem_for_header(volume.volume.name)) if one not in used)
            used.add(stem)
            for kind in kinds if volume.series is not None else kinds[:1]:
                path = Path(folder) / f"{stem}{ENDINGS[kind]}"
                try:
                    write_mask(path, volume, session, kind)
                    archive.write(path, path.name)
                except FedCoWProError as error:
                    if kind == "nifti":
                        raise
                    left_out.append(f"{path.name}: {server.without_paths(error)['error']['got']}")
            rows.writerows(_rows(volume, stem + ENDINGS["nifti"], measured, session))
        if not used:
            raise Refused(409, "nothing is labelled", "a labelled voxel", "paint or segment first")
        archive.writestr("volumes.csv", table.getvalue())
        if left_out:
            archive.writestr("left-out.txt", "\n".join(left_out) + "\n")
    headers = {"content-disposition": 'attachment; filename="masks.zip"'}
    return Response(packed.getvalue(), media_type="application/zip", headers=headers)


def _rows(volume: OpenVolume, mask: str, measured: Mapping[int, Measured], session: Session) -> Iterator[list[str]]:
    """A row per label of a volume."""
    result = volume.result
    names = session.names_of(measured)
    for value, found in measured.items():
        drawn = sum(1 for one in list(volume.drawn.values()) if (one == value).any())
        sure = math.nan if result is None else result.confidence.get(value, math.nan)
        doubts = () if result is None else result.doubts.get(value, ())
        shown = "" if math.isnan(sure) else f"{sure:.3f}"
        state = [shown, volume.modality, str(drawn), "; ".join(doubts)]
        yield [volume.volume.name, mask, str(value), names[value], *measure.cells(found), *state]


def _names(stem: str) -> Iterator[str]:
    yield stem
    for number in itertools.count(2):
        yield f"{stem}_{number}"
