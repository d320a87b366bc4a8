"""Plain text of facts and tables, as `show` prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN = "not recorded"


def versions_text(record: Mapping[str, Any]) -> str:
    """The versions of a record in one line."""
    return ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()) or UNKNOWN


def facts_text(facts: Mapping[str, object]) -> str:
    """Names and values, a line each."""
    width = max(map(len, facts)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in facts.items())


def columns_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length with aligned columns, indented."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def indented(text: str) -> str:
    """Lines of text, indented."""
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())
