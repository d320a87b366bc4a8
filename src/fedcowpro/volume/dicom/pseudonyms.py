"""Names for cases that lead back to a patient only for who has the site's key and its archive."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import sys
from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.volume.dicom.series import Series

KEY_BYTES = 32
_LETTERS = 12  # 60 bits: two of a million volumes share a name with a chance of about 1 to 2 million


def pseudonym(key: bytes, series: Series) -> str:
    """A name for a volume: 'p-' and 12 letters and digits, the same for the same volume and key.

    HMAC-SHA-256 of PatientID, StudyInstanceUID, SeriesInstanceUID and the volume's number within the series. The
    UIDs name the image wherever the files lie; the patient's id keeps cases apart where an anonymiser has given
    several patients the same UIDs. Names, dates and descriptions do not enter: archives correct them later. All of
    these can be guessed or looked up, so a plain hash would be no secret: the key is what protects.

    Args:
        key: the site's secret, at least 32 bytes; it must not leave the site.
        series: the volume.

    Raises:
        FedCoWProError: a key that is too short.
    """
    if len(key) < KEY_BYTES:
        raise FedCoWProError(f"a key of {len(key)} bytes", f"{KEY_BYTES} random bytes", "use load_or_make_key")
    fields = (series.identity.patient, series.identity.study, series.uid, str(series.number))
    # With their lengths, so that no two lists of fields make the same message.
    message = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (value.encode() for value in fields))
    digest = hmac.new(key, message, hashlib.sha256).digest()
    return f"p-{base64.b32encode(digest).decode().lower()[:_LETTERS]}"


def load_or_make_key(path: Path) -> bytes:
    """Read the site's key; where the file is absent, make it: 32 random bytes as hex, for its owner only.

    Raises:
        FedCoWProError: the file holds something else.
    """
    path = Path(path)
    if not path.exists():
        _make(path)
    text = path.read_bytes().strip()
    if not re.fullmatch(rb"[0-9a-f]{%d}" % (2 * KEY_BYTES), text):
        raise FedCoWProError(
            f"{path}: damaged key",
            f"{2 * KEY_BYTES} hex digits",
            "restore it from a backup; with a new key (delete the file) every DICOM case gets a new name",
        )
    if sys.platform != "win32" and path.stat().st_mode & 0o077:
        inform(f"{path}: others can read this key; chmod 600 keeps it secret", stacklevel=2)
    return bytes.fromhex(text.decode())


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{secrets.token_hex(KEY_BYTES)}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)  # unlike a rename it does not replace the key of a process that was faster
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
