"""The record of a run's releases: what differential privacy counts, rounds that were repeated among them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from fedcowpro.core.text import from_json


class Releases:
    """A file with a line for each noised update or mean of a run, written before it can leave.

    Nothing takes a line away: a round that is done again, after a crash or by choice, is a release more. A line that a
    crash cut short counts, too.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def rates(self) -> list[float]:
        """Of each release so far the chance that a site had to be in it (`note`); none where there is no file."""
        return [_rate(line) for line in self._content().split(b"\n") if line]

    def note(self, number: int, rate: float) -> None:
        """One more release, of the round `number`; on the disk when this returns.

        Args:
            rate: chance of each site, drawn by itself and in secret, to be in it; 1 where sampling does not count.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"round": number, "rate": rate, "time": now}).encode() + b"\n"
        before = self._content()
        with self._path.open("ab") as stream:
            stream.write(line if before.endswith(b"\n") or not before else b"\n" + line)
            stream.flush()
            os.fsync(stream.fileno())
        if not before:
            _keep_name(self._path.parent)

    def _content(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""


def _rate(line: bytes) -> float:
    """What a line says, and the worst where it cannot be read."""
    try:
        return min(1.0, max(0.0, float(from_json(line)["rate"])))
    except (ValueError, KeyError, TypeError):
        return 1.0


def _keep_name(folder: Path) -> None:
    """A new file's name is on the disk, too; some systems do it by themselves and open no folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
