"""A folder for one study at a time, by a lock that ends with the process that holds it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedcowpro.core.errors import FedCoWProError


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, FOLDER/.lock, which stays there.

    Args:
        wait: where another process holds it, say so on standard error and wait until that has ended.

    Raises:
        FedCoWProError: another process holds it, without `wait`.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise FedCoWProError(
                f"another process works in {folder}", "one at a time", "wait for it, or end it"
            ) from error
        print(f"Another study works in {folder}; this one waits until that has ended.", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
