"""An append-only log of messages whose lines are chained by digests, so that a changed or missing line shows.

Each line is JSON with the digest of the line before it and its own. `LOG.head` beside it has the number of lines and
the last digest: without it, a log that was cut off at its end would look whole. Who can write both files can forge
both; `fedcowpro audit` prints the head, to be noted down elsewhere and asked for later (`--head`). A line holds no
path, no name of a case and no content of a message but its digest.

Who writes to a log verifies all of it once, and then keeps with the head what a policy asks of its lines (`Tally`) and
which file it was: its number, its size, its times of change, which nobody can set back. While the file is that, the
next process reads its last line only, to see that it is the one that the head names; else it verifies all lines again.
`read_audit` always does, and compares the counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.text import from_json
from fedcowpro.federated.governance.tally import Tally

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

_START = "0" * 64  # what the first line is chained to
REPAIR = "repair"
_LONGEST = 1 << 20  # bytes at the end of a log in which its last line is looked for


@dataclass(frozen=True)
class Event:
    """What happened to one message.

    Attributes:
        side: 'site' or 'server', who writes.
        site: the site that is meant.
        direction: 'in' or 'out', as the writer sees it.
        kind: of message (train, evaluate, query, query.layers), or of another event (weights, app, average, repair).
        decision: allowed, refused, sent, received, failed, ...
        run: the server's name for the run; empty before it has told.
        round: 0 outside rounds.
        bytes: of the message's records.
        content: SHA-256 of the message's records, 64 hex digits.
        reason: of a refusal or a failure.
        facts: numbers that belong to it.
    """

    side: str
    site: str
    direction: str
    kind: str
    decision: str
    run: str = ""
    round: int = 0
    bytes: int = 0
    content: str = ""
    reason: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A line: its number from 1, the time in UTC (ISO 8601), the event, the digests of the line before and its own."""

    number: int
    time: str
    event: Event
    previous: str
    digest: str


@dataclass(frozen=True)
class Head:
    """Where a log ends: its lines, its bytes, the last line's digest; which file was verified, and what is in it."""

    lines: int = 0
    size: int = 0
    digest: str = _START
    state: tuple[int, ...] = ()
    tally: Tally = field(default_factory=Tally)


class Session:
    """A log that this process alone may write to, until the session ends."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path = stream, path.absolute()
        self._head = self._mend()

    def tally(self) -> Tally:
        """What is in the log; FedCoWProError where the chain is broken."""
        if not self._is_known():
            self._stream.seek(0)
            entries, problems = _check(self._stream.read(), replace(self._head, state=()))
            if problems:
                raise _damaged(self._path, problems[0])
            self._head = replace(self._head, state=self._state(), tally=Tally.of(entries))
            _write_head(self._path, self._head)
        return self._head.tally

    def append(self, *events: Event) -> None:
        """One more line for each event, on the disk when this returns."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        known, head, tally, lines = self._is_known(), self._head, self._head.tally.model_copy(deep=True), []
        for event in events:
            content = {"number": head.lines + 1, "time": time, **asdict(event), "previous": head.digest}
            digest = _digest(content)
            lines.append(json.dumps({**content, "digest": digest}, ensure_ascii=False).encode() + b"\n")
            head = Head(head.lines + 1, head.size + len(lines[-1]), digest)
            tally.add(event, time)
        self._stream.seek(0, os.SEEK_END)
        self._stream.write(b"".join(lines))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._head = replace(head, state=self._state(), tally=tally) if known else head
        _write_head(self._path, self._head)

    def _is_known(self) -> bool:
        """Whether the file is the one that was verified, and ends with the line that the head names."""
        return self._head.state == self._state() and (self._head.lines == 0 or self._ends_as_its_head_says())

    def _ends_as_its_head_says(self) -> bool:
        start = max(0, self._head.size - _LONGEST)
        self._stream.seek(start)
        *before, line, rest = [b"", *self._stream.read().split(b"\n")]
        if start and len(before) < 2:
            return False  # too long a line to be seen whole
        try:
            found = from_json(line)
            entry, digest = _entry(found), found.pop("digest")
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        return not rest and (entry.number, digest, _digest(found)) == (self._head.lines, self._head.digest, digest)

    def _state(self) -> tuple[int, ...]:
        """Which file it is, its size, and when it was changed last, which nobody can set back."""
        found = os.fstat(self._stream.fileno())
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _mend(self) -> Head:
        """The head; lines that were written before a crash are taken over, half a line is cut off and noted.

        Raises:
            FedCoWProError: lines are missing.
        """
        head = _read_head(self._path)
        size = self._stream.seek(0, os.SEEK_END)
        if head is None:
            self._stream.seek(0)
            if b"\n" in self._stream.read():
                raise _damaged(self._path, f"{_head_file(self._path).name} is missing")
            # A new log, or one whose first writing was interrupted. The head comes before the first line.
            head = Head(state=self._state()) if size == 0 else Head()
            _write_head(self._path, head)
        if size < head.size:
            raise _damaged(self._path, f"it has {size} bytes, its head says {head.size}")
        if size == head.size:
            return head
        self._stream.seek(0)
        content = self._stream.read()
        whole = content.rfind(b"\n") + 1
        entries, problems = _check(content[:whole], head)
        if problems:
            raise _damaged(self._path, problems[0])
        last = entries[-1].digest if entries else _START
        self._stream.truncate(whole)
        self._head = Head(len(entries), whole, last)
        if whole < size:
            note = f"half a line of {size - whole} bytes, of an interrupted writing, was cut off"
            side, site = (entries[-1].event.side, entries[-1].event.site) if entries else ("", "")
            self.append(Event(side, site, "", REPAIR, "mended", reason=note))
        else:
            _write_head(self._path, self._head)
        return self._head


class AuditLog:
    """The log in a file, which is made with its folder when the first line comes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Alone with the log; other processes wait. FedCoWProError where it was cut off or its head is missing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Not "a": the mending of an interrupted writing cuts off half a line.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o640)
        with os.fdopen(descriptor, "r+b") as stream:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield Session(stream, self.path)

    def append(self, *events: Event) -> None:
        """One more line for each event, in a session of its own."""
        with self.session() as session:
            session.append(*events)


def read_audit(path: Path) -> tuple[list[Entry], list[str], Head]:
    """Lines of a log, what is wrong with it (nothing: the chain is whole), and where it ends.

    Raises:
        FedCoWProError: no such file.
    """
    try:
        with path.open("rb") as stream:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_SH)
            content, head = stream.read(), _read_head(path)
    except FileNotFoundError as error:
        raise FedCoWProError(f"no file {path}", "an audit log", "check the path") from error
    entries, problems = _check(content, head)
    last = entries[-1].digest if entries else _START
    return entries, problems, Head(len(entries), len(content), last)


def _check(content: bytes, head: Head | None) -> tuple[list[Entry], list[str]]:
    """Lines up to the first that is not one, and all that does not fit."""
    entries: list[Entry] = []
    problems: list[str] = []
    previous = _START
    *lines, rest = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            found = from_json(line)
            entry = _entry(found)
        except (ValueError, KeyError, TypeError, AttributeError):
            problems.append(f"line {number} is no entry of a log")
            break
        digest = found.pop("digest")
        if digest != _digest(found):
            problems.append(f"line {number} was changed: its digest is another")
        if entry.previous != previous or entry.number != number:
            problems.append(f"before line {number} a line is missing, was changed or was put in")
        entries.append(entry)
        previous = digest
    if rest:
        problems.append("the last line is not whole")
    if head is None:
        if lines or rest:
            problems.append("its head file is missing: nobody can tell whether the end is the end")
    elif len(entries) < head.lines:
        problems.append(f"it ends after line {len(entries)}, its head says {head.lines}")
    elif head.lines and entries[head.lines - 1].digest != head.digest:
        problems.append(f"line {head.lines} is not the one that its head names")
    elif head.state and not problems and head.tally != Tally.of(entries[: head.lines]):
        problems.append("its head counts other lines than there are")
    return entries, problems


def _entry(found: Mapping[str, Any]) -> Entry:
    event = Event(**{part.name: found[part.name] for part in fields(Event)})
    datetime.fromisoformat(found["time"])
    if not (isinstance(event.run, str) and all(isinstance(value, int | float) for value in event.facts.values())):
        raise ValueError("no event")
    return Entry(found["number"], found["time"], event, found["previous"], found["digest"])


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _head_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _read_head(path: Path) -> Head | None:
    try:
        found = Head(**from_json(_head_file(path).read_text(encoding="utf-8")))
        return replace(found, state=tuple(found.state), tally=Tally.model_validate(found.tally))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise _damaged(path, f"{_head_file(path).name} is no head of a log") from error


def _write_head(path: Path, head: Head) -> None:
    file = _head_file(path)
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(json.dumps({**vars(head), "tally": head.tally.model_dump()}).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)


def _damaged(path: Path, what: str) -> FedCoWProError:
    return FedCoWProError(
        f"the audit log {path} is damaged: {what}",
        "a log with all its lines",
        "find out who changed it (fedcowpro audit); then move it and its .head away: a new one begins",
    )
