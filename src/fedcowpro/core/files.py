"""Files that are whole or not there, and digests of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that `path` is at any time either what it was or the whole new content.

    It is written beside its place under a name of its own, flushed to the disk and renamed; missing folders are made.

    Args:
        content: text is written as UTF-8, its line ends as they are, names of files that are no UTF-8 as their bytes.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is short, as that of the file may be as long as the disk allows.
    temporary = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None:  # the name that the user gave, instead of the temporary one
            error.filename, error.filename2 = os.fspath(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of a folder's files; 16 hex digits."""
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        if file != path:
            total.update(os.fsencode(file.relative_to(path)))
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]
