"""Which code this is: a digest of the installed sources of fedcowpro."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_LENGTH = 32  # hex digits
_ENDINGS = (".py", ".yaml", ".toml")


def sources_digest(root: Path) -> str:
    """Digest of all sources below a folder: names and contents, in the order of their names, 32 hex digits."""
    digest = hashlib.sha256()
    files = {file.relative_to(root).as_posix(): file for file in root.rglob("*") if file.suffix in _ENDINGS}
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:_LENGTH]


@cache
def package_digest() -> str:
    """Digest of the installed package, looked at once per process."""
    return sources_digest(Path(__file__).parents[1])
