"""Who is at the page: each browser has a session of its own, with its volumes, job and private folder."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcowpro.serve.content import Contents
from fedcowpro.serve.jobs import Job
from fedcowpro.serve.limits import Limits, Refused, size_text
from fedcowpro.serve.opened import OpenVolume
from fedcowpro.serve.store import Bench
from fedcowpro.volume.organ_colours import organ_colours

if TYPE_CHECKING:
    from fedcowpro.oneshot.organ_model import OrganModel

log = logging.getLogger(__name__)
_SILENT = 100.0  # s; tabs in the background say something once a minute


def slicer_key(key: str) -> str:
    """What stands in the address for 3D Slicer instead of a session's key, which cannot be told from it."""
    return hmac.new(key.encode(), b"3D Slicer", hashlib.sha256).hexdigest()


def opens_slicer(key: str, given: str) -> bool:
    """Whether an address for 3D Slicer has the `slicer_key` of a session's key; in constant time."""
    return hmac.compare_digest(slicer_key(key).encode(), given.encode(errors="replace"))


@dataclass
class Upload:
    """Files on their way to a volume.

    Attributes:
        folder: private; files lie there under a number and what is harmless of their name, for messages.
        work: private, for what is unpacked.
        size: bytes received so far.
        numbers: of the files that came or are coming.
        found: what they hold, once it was looked at.
    """

    folder: Path
    work: Path
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
        settings: what the page wants to find again, as it sent it.
        absent: volumes of the bench that could not be opened again, by id: why.
        bench: where all of it is kept; None = nowhere.
        writer: the browser's tab that may change things, and the time of its last word, by the sessions' clock.
        network: that was refined last in this visit.
        lock: held while volumes change.
    """

    key: str
    label: str
    folder: Path
    seen: float
    volumes: dict[str, OpenVolume] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=lambda: {1: "organ 1"})
    settings: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    bench: Bench | None = None
    writer: tuple[str, float] | None = None
    network: OrganModel | None = None
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

    def labels_to_json(self) -> list[dict[str, Any]]:
        """Values, names and colours as the page has them; an organ has one colour wherever it is drawn."""
        colours = organ_colours(self.names)
        return [{"value": value, "name": name, "colour": colours[value]} for value, name in self.names.items()]

    def names_of(self, values: Collection[int]) -> dict[int, str]:
        """Names for a file; a label may be off the list and still be in what was segmented with it."""
        return {value: self.names.get(value, f"label {value}") for value in values}

    def upload_folder(self) -> Path:
        """An empty folder for files that are sent."""
        return self.new_folder() if self.bench is None else self.bench.upload_folder()

    def keep(self) -> None:
        """Write labels, settings and which volumes are open, where a bench keeps them."""
        if self.bench is not None:
            with self.lock:
                self.bench.write(self.names, self.settings, [*self.volumes, *self.absent])

    def close_volume(self, name: str) -> None:
        """Put a volume away, and forget what was unpacked for it."""
        volume = self.volume(name)
        with self.lock:
            del self.volumes[name]
        self.keep()
        if self.bench is not None:
            self.bench.close(name)
        for folder in volume.folders:
            shutil.rmtree(folder, ignore_errors=True)


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
        self._begun: set[str] = set()
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

    def of_slicer(self, key: str) -> Session | None:
        """The session of an address for 3D Slicer, which then is not idle; None = none (any more)."""
        found = [one.key for one in list(self._sessions.values()) if opens_slicer(one.key, key)]
        return self.find(found[0]) if found else None

    def knows(self, key: str | None) -> bool:
        """Whether a session of this key was begun here, be it dropped since."""
        return key in self._begun

    def create(self, key: str | None = None) -> Session:
        """A new session.

        Args:
            key: that it had before; None makes one.

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
        session = Session(key or secrets.token_urlsafe(32), f"s{self._count}", folder, self._clock())
        self._sessions[session.key] = session
        self._begun.add(session.key)
        log.info("session %s began", session.label)
        return session

    def write(self, session: Session, tab: str, take: bool = False) -> bool:
        """Whether a tab of the page may change things: one at a time may, until it is silent for a while.

        Args:
            take: from another tab that may.
        """
        now = self._clock()
        if session.writer is not None and not take:
            other, heard = session.writer
            if other != tab and now - heard < _SILENT:
                return False
        session.writer = tab, now
        return True

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
