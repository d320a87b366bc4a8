"""The audit log: whole after many writers and a crash; every change of it shows."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.governance import audit_log as audit_module
from fedcowpro.federated.governance.audit_log import REPAIR, AuditLog, Event, read_audit
from fedcowpro.federated.governance.tally import Tally

Change = Callable[[list[str]], list[str]]


def filled(path: Path, lines: int = 5) -> Path:
    log = AuditLog(path)
    for number in range(1, lines + 1):
        log.append(Event("site", "north", "in", "train", "allowed", "run", number, 10 * number, "ab" * 32))
    return path


def problems(path: Path) -> list[str]:
    return read_audit(path)[1]


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    entries, wrong, head = read_audit(filled(tmp_path / "deep" / "log.jsonl"))
    assert wrong == []
    assert [(entry.number, entry.event.round, entry.event.bytes) for entry in entries] == [
        (number, number, 10 * number) for number in range(1, 6)
    ]
    assert entries[-1].event == Event("site", "north", "in", "train", "allowed", "run", 5, 50, "ab" * 32)
    assert entries == sorted(entries, key=lambda entry: entry.time)
    assert (head.lines, head.digest) == (5, entries[-1].digest)


def replaced(index: int, old: str, new: str) -> Change:
    return lambda lines: [line.replace(old, new) if i == index else line for i, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced(1, "allowed", "refused"), "line 2 was changed"),
        (replaced(4, '"bytes": 50', '"bytes": 51'), "line 5 was changed"),
        (lambda lines: lines[:2] + lines[3:], "before line 3 a line is missing"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "before line 1 a line is missing"),
        (lambda lines: lines[:-1], "it ends after line 4, its head says 5"),
        (lambda lines: [], "it ends after line 0, its head says 5"),
        (lambda lines: [*lines[:3], "nonsense", *lines[3:]], "line 4 is no entry"),
        (lambda lines: [*lines[:-1], lines[-1][:40]], "line 5 is no entry"),
    ],
)
def test_a_changed_log_is_broken(tmp_path: Path, change: Change, said: str) -> None:
    path = filled(tmp_path / "log.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("".join(line + "\n" for line in change(lines)))
    assert any(said in problem for problem in problems(path)), problems(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = filled(tmp_path_factory.mktemp("log") / "log.jsonl", 3)
    return path, path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10_000), byte=st.integers(1, 255))
def test_any_changed_byte_shows(whole: tuple[Path, bytes], position: int, byte: int) -> None:
    path, written = whole
    content = bytearray(written)
    content[position % len(content)] ^= byte
    path.write_bytes(bytes(content))
    assert problems(path)


def test_a_forged_line_with_a_fitting_digest_breaks_the_next_or_the_head(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl")
    for index in (1, 4):
        lines = path.read_text().splitlines()
        line = json.loads(lines[index])
        line.pop("digest")
        line["decision"] = "refused"
        lines[index] = json.dumps({**line, "digest": audit_module._digest(line)})
        path.write_text("\n".join(lines) + "\n")
        assert problems(path)


def test_a_log_without_its_head_is_not_trusted_and_not_written_to(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl.head").unlink()
    assert "head file is missing" in problems(path)[0]
    with pytest.raises(FedCoWProError, match="is missing"):
        filled(path, 1)


def test_a_shortened_log_takes_no_more_lines(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(FedCoWProError, match="damaged"):
        filled(path, 1)


def test_half_a_line_of_an_interrupted_writing_is_cut_off_and_noted(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl")
    with path.open("a") as file:
        file.write('{"number": 6, "ti')
    assert problems(path) == ["the last line is not whole"]
    filled(path, 1)
    entries, wrong, _ = read_audit(path)
    assert wrong == []
    assert [entry.event.kind for entry in entries[5:]] == [REPAIR, "train"]
    assert "17 bytes" in entries[5].event.reason


def test_a_line_that_was_written_before_the_crash_counts(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl", 2)
    head = (tmp_path / "log.jsonl.head").read_text()
    filled(path, 1)
    (tmp_path / "log.jsonl.head").write_text(head)  # the crash came between line and head
    assert problems(path) == []
    filled(path, 1)
    assert [entry.number for entry in read_audit(path)[0]] == [1, 2, 3, 4]


def taken(path: Path) -> int:
    """How many lines a site reads, which refuses a broken log, before it adds one."""
    with AuditLog(path).session() as session:
        lines = session.tally().trained
        session.append(Event("site", "north", "in", "train", "allowed"))
    return lines


@pytest.mark.parametrize("lines", [5, 200])
def test_a_message_verifies_no_line_that_was_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """Whichever process wrote it: what was counted is in the head, and only the last line is looked at again."""
    path, digests = filled(tmp_path / "log.jsonl", lines), []
    real = audit_module._digest
    monkeypatch.setattr(audit_module, "_digest", lambda content: digests.append(1) or real(content))
    assert [taken(path) for _ in range(10)] == list(range(lines, lines + 10))
    assert len(digests) == 3 * 10, "the last line twice and the new one, however long the log is"
    assert problems(path) == []


def test_a_log_of_unknown_state_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of an earlier version, or one that was copied."""
    old, path = filled(tmp_path / "old.jsonl", 20), tmp_path / "log.jsonl"
    path.write_bytes(old.read_bytes())
    head = json.loads((tmp_path / "old.jsonl.head").read_text())
    (tmp_path / "log.jsonl.head").write_text(json.dumps({name: head[name] for name in ("lines", "size", "digest")}))
    digests: list[int] = []
    real = audit_module._digest
    monkeypatch.setattr(audit_module, "_digest", lambda content: digests.append(1) or real(content))
    assert [taken(path) for _ in range(3)] == [20, 21, 22]
    assert 20 <= len(digests) < 2 * 20


def test_the_counts_are_those_of_the_lines(tmp_path: Path) -> None:
    """A head that tells less than there is lets a message pass that should not, and shows in the audit."""
    path, head = filled(tmp_path / "log.jsonl", 3), tmp_path / "log.jsonl.head"
    with AuditLog(path).session() as session:
        session.append(Event("site", "north", "in", "weights", "allowed", "run", 1, facts={"norm": 2.5}))
        session.append(Event("site", "north", "in", "train", "refused", "run", 1))
        found = session.tally()
    assert (found.trained, found.of_run, found.norms, len(found.recent)) == (3, {"run": 3}, {"run": 2.5}, 3)
    told = json.loads(head.read_text())
    head.write_text(json.dumps({**told, "tally": {**told["tally"], "trained": 1}}))
    assert problems(path) == ["its head counts other lines than there are"]
    head.write_text(json.dumps({**told, "tally": {"trained": "x"}}))
    with pytest.raises(FedCoWProError, match="no head of a log"):
        taken(path)


def test_the_last_two_days_are_kept() -> None:
    event = Event("site", "north", "in", "train", "allowed", "run")
    times = [f"2026-01-{day:02d}T12:00:00.000+00:00" for day in (1, 2, 3, 4, 9)]
    tally = Tally()
    for moment in times[:4]:
        tally.add(event, moment)
    assert tally.recent == times[2:4]
    tally.add(event, times[4])
    assert (tally.trained, tally.recent) == (5, times[4:])


@pytest.mark.parametrize("change", [replaced(1, "allowed", "refused"), replaced(6, "allowed", "refused")])
@pytest.mark.parametrize("way", ["in place", "renamed", "time set back"])
def test_a_change_shows_to_a_process_that_knows_the_log(tmp_path: Path, change: Change, way: str) -> None:
    path = filled(tmp_path / "log.jsonl", 5)
    assert [taken(path), taken(path)] == [5, 6]
    time.sleep(0.02)  # the file system's clock
    before = path.stat()
    changed = "".join(line + "\n" for line in change(path.read_text().splitlines()))
    target = tmp_path / "other" if way == "renamed" else path
    target.write_text(changed)
    target.replace(path)
    if way == "time set back":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    for _ in range(2):
        with pytest.raises(FedCoWProError, match="damaged"):
            taken(path)


def test_a_cut_shows_to_a_process_that_knows_the_log(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl", 5)
    taken(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(FedCoWProError, match="damaged"):
        taken(path)


def test_a_forged_head_shows_to_a_process_that_knows_the_log(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl", 5)
    taken(path)
    head = tmp_path / "log.jsonl.head"
    head.write_text(json.dumps({**json.loads(head.read_text()), "digest": "0" * 64}))
    with pytest.raises(FedCoWProError, match="damaged"):
        taken(path)


def test_lines_of_another_process_are_read_and_verified(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl", 5)
    assert taken(path) == 5
    code = (
        "import sys; from pathlib import Path; from fedcowpro.federated.governance.audit_log import AuditLog, Event\n"
        "AuditLog(Path(sys.argv[1])).append(Event('site', 'other', 'in', 'train', 'allowed'))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert [taken(path), taken(path)] == [7, 8]
    assert problems(path) == []


def test_two_processes_write_one_log(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fedcowpro.federated.governance.audit_log import AuditLog, Event\n"
        "log = AuditLog(Path(sys.argv[1]))\n"
        "for number in range(25): log.append(Event('site', sys.argv[2], 'in', 'train', 'allowed', round=number))\n"
    )
    path = tmp_path / "log.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    entries, wrong, _ = read_audit(path)
    assert wrong == []
    assert [entry.event.round for entry in entries if entry.event.site == "a"] == list(range(25))
    assert len(entries) == 50


def test_no_log_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="no file"):
        read_audit(tmp_path / "log.jsonl")


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_log_interrupted_in_its_first_line_goes_on(tmp_path: Path, cut: int) -> None:
    line = filled(tmp_path / "other.jsonl", 1).read_bytes()
    path = tmp_path / "log.jsonl"
    path.write_bytes(line[:cut])  # and no head, as earlier versions left it
    filled(path, 2)
    entries, wrong, head = read_audit(path)
    assert (wrong, head.lines) == ([], len(entries))
    assert [entry.event.kind for entry in entries] == ([REPAIR] if cut else []) + ["train", "train"]


@pytest.mark.parametrize("room", range(0, 700, 70))
def test_a_full_disk_at_the_first_line_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """So many bytes fit, of the head and the line together."""
    path, left = tmp_path / "log.jsonl", [room]
    real = os.fsync

    def fsync(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size > left[0]:
            os.ftruncate(descriptor, left[0])
            left[0] = 0
            raise OSError(28, "No space left on device")
        left[0] -= size
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(audit_module.os, "fsync", fsync)
        with contextlib.suppress(OSError):
            filled(path, 1)
    filled(path, 2)
    assert problems(path) == []


def test_deeply_nested_lines_are_no_entries(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl", 2)
    deep = b"[" * 100_000 + b"]" * 100_000 + b"\n"
    path.write_bytes(path.read_bytes() + deep)
    assert "line 3 is no entry of a log" in problems(path)
    with pytest.raises(FedCoWProError, match="line 3 is no entry"):
        filled(path, 1)
    path.with_name("log.jsonl.head").write_bytes(deep)
    with pytest.raises(FedCoWProError, match="no head of a log"):
        filled(path, 1)
