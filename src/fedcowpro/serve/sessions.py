"""Who is at the page: each browser has a session of its own, with its volumes, job and private folder."""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedcowpro.serve.content import Contents
from fedcowpro.serve.jobs import Job
from fedcowpro.serve.limits import Limits, Refused, size_text
from fedcowpro.serve.opened import OpenVolume
from fedcowpro.volume.organ_colours import organ_colours

log = logging.getLogger(__name__)


def labels_of(names: Mapping[int, str]) -> list[dict[str, Any]]:
    """What the page needs of labels; an organ has one colour wherever it is drawn."""
    colours = organ_colours(names)
    return [{"value": value, "name": name, "colour": colours[value]} for value, name in names.items()]


@dataclass
class Upload:
    """Files on their way to a volume.

    Attributes:
        folder: private; files lie there under a number and what is harmless of their name, for messages.
        size: bytes received so far.
        numbers: of the files that came or are coming.
        found: what they hold, once it was looked at.
    """

    folder: Path
    size: int = 0
    numbers: set[int] = field(default_factory=set)
    found: Contents | None = None


@dataclass
class Session:
    """One browser's state.

    Attributes:
        key: the cookie, unguessable.
        label: names the session in logs.
        folder: private temporary folder.
        seen: time of the last request, by the sessions' clock.
        volumes: open volumes by id, in the order in which they were opened.
        names: label value -> name.
        lock: held while volumes change.
    """

    key: str
    label: str
    folder: Path
    seen: float
    volumes: dict[str, OpenVolume] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=lambda: {1: "organ 1"})
    job: Job | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def volume(self, name: str) -> OpenVolume:
        """An open volume of this session.

        Raises:
            Refused: there is none of this id here, whoever else may have one.
        """
        if name not in self.volumes:
            raise Refused(404, "no such open volume", "a volume that is open on this page", "open it again")
        return self.volumes[name]

    def busy(self) -> bool:
        """Whether a job waits or runs."""
        return self.job is not None and not self.job.ended

    def require_room(self, size: int, limits: Limits) -> None:
        """Refuse another volume of `size` bytes beyond what the session may use."""
        if len(self.volumes) >= limits.volumes:
            raise Refused(
                409, f"{len(self.volumes)} volumes are open", f"at most {limits.volumes}", "close one of them"
            )
        used = sum(volume.memory() for volume in self.volumes.values())
        if used + size > limits.memory:
            raise Refused(
                413, f"{size_text(used)} in use and {size_text(size)} more",
                f"at most {size_text(limits.memory)} per session",
                "close a volume, or start the server with a larger --max-memory",
            )  # fmt: skip

    def new_folder(self) -> Path:
        """An empty private folder."""
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        return folder

    def close_volume(self, name: str) -> None:
        """Forget a volume and what was unpacked for it."""
        volume = self.volume(name)
        with self.lock:
            del self.volumes[name]
        if volume.folder is not None:
            shutil.rmtree(volume.folder, ignore_errors=True)


class Sessions:
    """All sessions of a server.

    Args:
        root: existing private folder.
        limits: of numbers and idle time.
        clock: seconds; monotonic.
    """

    def __init__(self, root: Path, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._limits, self._clock = root, limits, clock
        self._sessions: dict[str, Session] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, key: str | None) -> Session | None:
        """The session of a cookie, which is then not idle; None = none (any more)."""
        self.drop_idle()
        session = self._sessions.get(key or "")
        if session is not None:
            session.seen = self._clock()
        return session

    def create(self) -> Session:
        """A new session.

        Raises:
            Refused: there are as many as allowed.
        """
        self.drop_idle()
        if len(self._sessions) >= self._limits.sessions:
            raise Refused(
                503, f"{len(self._sessions)} people use this server", f"at most {self._limits.sessions}", "try later"
            )
        self._count += 1
        folder = self._root / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        session = Session(secrets.token_urlsafe(32), f"s{self._count}", folder, self._clock())
        self._sessions[session.key] = session
        log.info("session %s began", session.label)
        return session

    def drop_idle(self) -> None:
        """Drop sessions without a request for too long, unless their job still runs."""
        now = self._clock()
        for session in list(self._sessions.values()):
            if now - session.seen > self._limits.idle and not session.busy():
                self._drop(session, "idle")

    def close(self) -> None:
        """Drop all sessions."""
        for session in list(self._sessions.values()):
            self._drop(session, "the server stops")

    def _drop(self, session: Session, why: str) -> None:
        if session.job is not None:
            session.job.cancel()
        session.volumes.clear()
        del self._sessions[session.key]
        shutil.rmtree(session.folder, ignore_errors=True)
        log.info("session %s ended: %s", session.label, why)
