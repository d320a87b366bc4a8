"""What the routes share, and how they get at it."""

from __future__ import annotations

import re
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.serve.content import Contents, examine, read
from fedcowpro.serve.engine import Engine
from fedcowpro.serve.folder import DataFolder
from fedcowpro.serve.guard import Policy
from fedcowpro.serve.jobs import Worker
from fedcowpro.serve.limits import Limits, Refused
from fedcowpro.serve.opened import BYTES_PER_SLICE, BYTES_PER_VOXEL, OpenVolume
from fedcowpro.serve.sessions import Session, Sessions, opens_slicer
from fedcowpro.serve.store import Bench, Origin, Project, VolumeStore

_PRIVATE = r"/(?:benches/[0-9a-f]{32}/files/)?(?:[0-9a-f]{16}/)*(?:unpacked/)?"  # of a session and of an upload


@dataclass
class Server:
    """The state of one server.

    Attributes:
        engine: the model.
        root: private temporary folder.
        data: volumes to choose from; None = uploads only.
        limits: what a session may use.
        policy: who may use it.
        project: keeps what is done; None = it ends with the session.
    """

    engine: Engine
    root: Path
    data: DataFolder | None = None
    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)
    project: Project | None = None

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.root, self.limits)
        self.worker = Worker()
        self.reading = threading.RLock()  # one volume at a time, so that memory for reading is needed once
        self._beginning = threading.Lock()

    def close(self) -> None:
        """Stop work and forget everybody."""
        self.sessions.close()
        self.worker.close()
        if self.project is not None:
            self.project.close()

    def begin(self, key: str | None) -> Session:
        """A session; with a project the one of before, with all that was open in it.

        Args:
            key: of the visitor's cookie. Where no token tells people apart, there is one bench for all browsers.

        Raises:
            Refused: there are as many sessions as allowed.
            FedCoWProError: a damaged project.
        """
        if self.project is None:
            return self.sessions.create()
        with self._beginning:
            if self.policy.token is None:
                key = self.project.key
            elif key is None or not self.project.knows(key):
                key = None
            if (session := self.sessions.find(key)) is not None:
                return session
            session = self.sessions.create(key)
            session.bench = self.project.bench(session.key)
            self._restore(session, session.bench)
            return session

    def begin_by_slicer(self, key: str) -> Session:
        """The session of an address for 3D Slicer; with a project also after the server was started again.

        Raises:
            Refused: no session has this address. Where there is a token, somebody has to enter it at the page first.
        """
        session = self.sessions.of_slicer(key)
        kept = self.project if self.policy.token is None else None
        if session is None and kept is not None and opens_slicer(kept.key, key):
            session = self.begin(None)
        if session is None:
            raise Refused(401, "an address that no page has", "the address that the page shows", "copy it again")
        return session

    def _restore(self, session: Session, bench: Bench) -> None:
        state = bench.state()
        session.names = {int(value): name for value, name in state.get("labels", session.names).items()}
        session.settings = state.get("settings", {})
        kept = set()
        for key in state.get("volumes", []):
            store = bench.volume(key)
            try:
                record = store.record()
                origin = Origin(**record["origin"])
                kept.add(origin.place)
                self._reopen(session, bench, store, key, origin, record["name"])
            except (FedCoWProError, KeyError, TypeError) as error:
                why = error.got if isinstance(error, FedCoWProError) else "no record of where it came from"
                session.absent[key] = f"{store.record().get('name', key)} could not be opened again: {self._shown(why)}"
        bench.drop_files(kept)

    def _reopen(self, session: Session, bench: Bench, store: VolumeStore, key: str, origin: Origin, name: str) -> None:
        if origin.kind == "upload":
            files = bench.files_of(origin)
        elif self.data is None:
            raise Refused(404, "no data folder", "--data FOLDER", "start the server with --data")
        else:
            files = self.data.files(origin.place)
        work = session.new_folder()
        with self.reading:
            opened = self._read(session, examine(files, work, self.limits), origin.series, name, (work,))
        if not store.fits(opened.volume.voxels):
            raise Refused(409, "another image than the one that was worked on", "that image", "put it back")
        self._place(opened, origin)
        if origin.kind == "upload":
            opened.folders += (bench.folder / "files" / origin.place,)
        opened.id = key
        opened.go_on(store)
        session.volumes[key] = opened

    def open_volume(
        self, session: Session, found: Contents, name: str, work: Path, origin: Origin, files: Path | None = None
    ) -> OpenVolume:
        """Read a volume into a session, which then owns the folders; with the work of before, if it was closed before.

        Args:
            name: how to call it.
            work: folder of what was unpacked.
            origin: where it came from.
            files: folder of files that were sent.

        Raises:
            Refused: no such volume, no room in the session.
            FedCoWProError: unusable voxels.
        """
        opened = self._read(session, found, origin.series, name, (work,))
        self._place(opened, origin)
        if files is not None:
            if opened.series is None and session.bench is None:
                discard(files)
            else:
                opened.folders += (files,)
        if session.bench is not None:
            key = session.bench.reopen(origin, opened.volume.voxels) if origin.kind == "data" else None
            store = session.bench.volume(key or opened.id)
            if key is not None:
                opened.id = key
                known = {int(value): label for value, label in store.record().get("names", {}).items()}
                session.names = dict(sorted({**known, **session.names}.items()))
            store.describe(name, origin, opened.volume.voxels, session.names)
            opened.go_on(store)
        with session.lock:
            session.volumes[opened.id] = opened
        session.keep()
        return opened

    def _read(self, session: Session, found: Contents, number: int, name: str, folders: tuple[Path, ...]) -> OpenVolume:
        if not 0 <= number < max(1, len(found.series)):
            raise Refused(400, f"volume {number}", "one of those that were offered", "choose from the list")
        voxels, slices = found.size(number, name)
        session.require_room(voxels * BYTES_PER_VOXEL + slices * BYTES_PER_SLICE, self.limits)
        volume, series, notes = read(found, number, name)
        if series is None:  # a series' files are needed again for DICOM-SEG
            for folder in folders:
                discard(folder)
            folders = ()
        return OpenVolume(volume, series, folders, tuple(map(self._shown, notes)))

    def _place(self, opened: OpenVolume, origin: Origin) -> None:
        """Say where a volume came from, and whether a label map lies beside it."""
        if origin.kind == "data" and self.data is not None:
            opened.place = origin.place
            opened.has_mask = self.data.mask_of(origin.place) is not None

    def without_paths(self, error: FedCoWProError) -> dict[str, dict[str, str]]:
        """An error as the page shows it: folders of this machine are not told."""
        texts = {"got": error.got, "expected": error.expected, "remedy": error.remedy}
        return {"error": {key: self._shown(text) for key, text in texts.items()}}

    def _shown(self, text: str) -> str:
        """A text for the page: files by their names alone, in letters that can be sent."""
        for private in (self.root, self.project.root) if self.project else (self.root,):
            text = re.sub(rf"{re.escape(str(private))}{_PRIVATE}", "", text)
        for root in (self.data.root, self.data.root.resolve()) if self.data else ():
            text = text.replace(f"{root}/", "").replace(str(root), "")
        return text.encode("utf-8", "backslashreplace").decode()


def discard(folder: Path) -> None:
    """Remove a private folder."""
    shutil.rmtree(folder, ignore_errors=True)


def server_of(request: Request) -> Server:
    """The server that a request came to."""
    server: Server = request.app.state.server
    return server


def session_of(request: Request) -> Session:
    """The session of a request; `guard` has refused requests without one."""
    session: Session = request.state.session
    return session


TheServer = Annotated[Server, Depends(server_of)]
TheSession = Annotated[Session, Depends(session_of)]
