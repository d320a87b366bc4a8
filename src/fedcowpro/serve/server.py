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
from fedcowpro.serve.content import Contents, read
from fedcowpro.serve.engine import Engine
from fedcowpro.serve.folder import DataFolder
from fedcowpro.serve.guard import Policy
from fedcowpro.serve.jobs import Worker
from fedcowpro.serve.limits import Limits, Refused
from fedcowpro.serve.opened import BYTES_PER_SLICE, BYTES_PER_VOXEL, OpenVolume
from fedcowpro.serve.sessions import Session, Sessions

_PRIVATE = r"/(?:[0-9a-f]{16}/)*(?:work/)?(?:unpacked/)?"  # folders of a session and of an upload


@dataclass
class Server:
    """The state of one server.

    Attributes:
        engine: the model.
        root: private temporary folder.
        data: volumes to choose from; None = uploads only.
        limits: what a session may use.
        policy: who may use it.
    """

    engine: Engine
    root: Path
    data: DataFolder | None = None
    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.root, self.limits)
        self.worker = Worker()
        self.reading = threading.Lock()  # one volume at a time, so that memory for reading is needed once

    def close(self) -> None:
        """Stop work and forget everybody."""
        self.sessions.close()
        self.worker.close()

    def open_volume(self, session: Session, found: Contents, number: int, name: str, folder: Path) -> OpenVolume:
        """Read a volume into a session, which then owns `folder`.

        Raises:
            Refused: no such volume, no room in the session.
            FedCoWProError: unusable voxels.
        """
        if not 0 <= number < max(1, len(found.series)):
            raise Refused(400, f"volume {number}", "one of those that were offered", "choose from the list")
        voxels, slices = found.size(number, name)
        session.require_room(voxels * BYTES_PER_VOXEL + slices * BYTES_PER_SLICE, self.limits)
        volume, series, notes = read(found, number, name)
        if series is None:  # a series' files are needed again for DICOM-SEG
            discard(folder)
        opened = OpenVolume(volume, series, folder, tuple(map(self._shown, notes)))
        with session.lock:
            session.volumes[opened.id] = opened
        return opened

    def without_paths(self, error: FedCoWProError) -> dict[str, dict[str, str]]:
        """An error as the page shows it: folders of this machine are not told."""
        texts = {"got": error.got, "expected": error.expected, "remedy": error.remedy}
        return {"error": {key: self._shown(text) for key, text in texts.items()}}

    def _shown(self, text: str) -> str:
        """A text for the page: files by their names alone, in letters that can be sent."""
        text = re.sub(rf"{re.escape(str(self.root))}{_PRIVATE}", "", text)
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
