"""What a user should know of a file: collected where someone asks for it, else an ordinary warning.

`warnings.catch_warnings` changes the whole process, so that one thread would get what belongs to another. Here each
thread, and each task of an event loop, has its own list.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LIST: ContextVar[list[str] | None] = ContextVar("notes", default=None)


def inform(text: str, stacklevel: int = 1) -> None:
    """Say something to the user: to the innermost `collecting` of this thread, or as a `UserWarning`."""
    found = _LIST.get()
    if found is None:
        warnings.warn(text, stacklevel=stacklevel + 1)
    elif text not in found:
        found.append(text)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """The notes from within, in order and each once; they go nowhere else."""
    found: list[str] = []
    before = _LIST.set(found)
    try:
        yield found
    finally:
        _LIST.reset(before)
