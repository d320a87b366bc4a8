"""What a session may use, and errors with an HTTP status."""

from __future__ import annotations

from dataclasses import dataclass

from fedcowpro.core.errors import FedCoWProError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of one server; sizes in bytes.

    Attributes:
        upload: of all files of one upload, as they are sent.
        expanded: of one volume after decompression, with 4 bytes per voxel.
        files: of one upload, archive or folder.
        volumes: open at once in a session.
        memory: of the volumes of a session with their features.
        sessions: at once.
        idle: seconds without a request after which a session is dropped.
    """

    upload: int = 512 * MEBIBYTE
    expanded: int = 1024 * MEBIBYTE
    files: int = 4000
    volumes: int = 64
    memory: int = 4096 * MEBIBYTE
    sessions: int = 16
    idle: float = 3600.0


class Refused(FedCoWProError):
    """A request that is not answered as asked.

    Args:
        status: HTTP status.
        got, expected, remedy: as for `FedCoWProError`.
    """

    def __init__(self, status: int, got: str, expected: str, remedy: str) -> None:
        self.status = status
        super().__init__(got, expected, remedy)


def size_text(size: float) -> str:
    """Bytes in words, as '12 MB'."""
    for unit, divisor in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if size >= divisor:
            return f"{size / divisor:.3g} {unit}"
    return f"{size:.0f} bytes"
