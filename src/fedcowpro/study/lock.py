"""A folder for one process at a time: a lock that ends with the processes that hold it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedcowpro.core.errors import FedCoWProError

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

_PATIENCE = 30.0  # seconds; the workers of a killed study notice at once, or after the step that they are in


@contextmanager
def locked(file: Path) -> Iterator[int | None]:
    """Hold the lock of `file`; yields its descriptor, which child processes can inherit to hold it too.

    Args:
        file: made where it is missing; its folder exists.

    Raises:
        FedCoWProError: another process holds it.
    """
    if fcntl is None:
        yield None
        return
    with file.open("a") as stream:
        started = time.monotonic()
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() - started > _PATIENCE:
                    raise FedCoWProError(
                        f"another process works in {file.parent}", "one at a time", "wait for it, or end it"
                    ) from error
            time.sleep(0.2)
        yield stream.fileno()
