"""Texts of others: fit to be shown, and JSON that cannot exhaust the reader."""

from __future__ import annotations

import json
from typing import Any

_SHOWN = 80  # characters of a value in a sentence


def printable(text: object, length: int = _SHOWN) -> str:
    """A text of somebody else on one line, without control characters, cut to a length."""
    line = "".join(letter if letter.isprintable() else "?" for letter in str(text)[: 4 * length])
    return line if len(line) <= length else f"{line[:length]}..."


def from_json(text: str | bytes) -> Any:
    """A JSON text as Python objects.

    Raises:
        ValueError: no JSON, or nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
