"""Patients' names and numbers out of messages: archives name folders and files by them, and messages name files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import collecting, inform

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

HIDDEN = "***"
_LONG = 5  # letters or digits: a shorter word is hidden only where it stands alone, a shorter number never


def identifiers_of(header: Dataset) -> frozenset[str]:
    """What names the patient of a header: parts of the name, alone and run together, and the number; lower case."""
    parts = [part for part in re.split(r"[\W_]+", _plain(str(header.get("PatientName") or ""))) if len(part) > 1]
    number = _plain(str(header.get("PatientID") or "")).strip()
    identifiers = {*parts, "".join(parts), "".join(reversed(parts))}
    identifiers |= {one for one in (number, *re.findall(r"\d+", number)) if len(one) >= _LONG}
    return frozenset(word for word in identifiers if len(word) > 1 and not (word.isdigit() and len(word) < _LONG))


def redact(text: str, identifiers: Collection[str]) -> str:
    """The text with `***` in place of identifiers, whatever their case and accents."""
    plain = _plain(text, lower=False)
    if not identifiers:
        return text
    pattern = "|".join(_pattern(word) for word in sorted(identifiers, key=len, reverse=True))
    hidden = re.sub(pattern, HIDDEN, plain, flags=re.IGNORECASE)
    return text if hidden == plain else hidden


@contextmanager
def redacting_errors(identifiers: Collection[str]) -> Iterator[None]:
    """Errors from within do not have the identifiers. They are changed, not replaced: a cause would still have them.

    Raises:
        FedCoWProError, OSError: those from within.
    """
    try:
        yield
    except FedCoWProError as error:
        FedCoWProError.__init__(
            error, *(redact(part, identifiers) for part in (error.got, error.expected, error.remedy))
        )
        raise
    except OSError as error:
        if error.filename is not None:
            error.filename = redact(str(error.filename), identifiers)
        raise


@contextmanager
def redacting(identifiers: Collection[str]) -> Iterator[None]:
    """Errors and notes from within do not have the identifiers; the notes come at the end.

    Raises:
        FedCoWProError, OSError: as `redacting_errors`.
    """
    notes: list[str] = []
    try:
        with redacting_errors(identifiers), collecting() as notes:
            yield
    finally:
        for note in notes:
            inform(redact(note, identifiers), stacklevel=4)


def _pattern(word: str) -> str:
    return re.escape(word) if len(word) >= _LONG else rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"


def _plain(text: str, *, lower: bool = True) -> str:
    """Without accents."""
    parted = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in parted if not unicodedata.combining(letter))
    return plain.lower() if lower else plain
