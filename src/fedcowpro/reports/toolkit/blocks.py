"""What a page is made of, before it is HTML or Markdown: both show the same words and the same tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Value:
    """A table's cell with a second line, such as a mean above its interval; `mark` follows the first line."""

    main: str
    below: str = ""
    mark: str = ""


Cell = str | Value


@dataclass(frozen=True)
class Text:
    """A paragraph; a note is set smaller."""

    text: str
    kind: Literal["plain", "note"] = "plain"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """One answer: its verdict and the numbers behind it; `shown` = the data show a difference."""

    verdict: str
    text: str
    shown: bool


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row names it, and so many cells are words, the others numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    words: int = 1


@dataclass(frozen=True)
class Chart:
    """A picture, drawn on HTML pages only: what gives its data URI, and what it shows in words."""

    draw: Callable[[], str]
    alt: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Command:
    """Lines for a shell, and what they make."""

    name: str
    lines: str


Block = Text | Heading | Items | Verdict | Table | Chart | Command


@dataclass(frozen=True)
class Section:
    """A part of the page with its heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A whole page."""

    title: str
    lead: str
    sections: tuple[Section, ...]


def columns(
    head: Sequence[str], rows: Sequence[Sequence[Cell]], first: int, most: int = 5, words: int = 1
) -> list[Table]:
    """A wide table as several narrow ones.

    Args:
        head: one heading per column.
        rows: cells.
        first: how many columns stand in every one of them.
        most: how many others one has.
        words: how many columns are words.
    """
    rest = range(first, len(head))
    tables = []
    for start in range(0, len(rest), most) or [0]:
        chosen = [*range(first), *rest[start : start + most]]
        rows_here = tuple(tuple(row[i] for i in chosen) for row in rows)
        tables.append(Table(tuple(head[i] for i in chosen), rows_here, words=words))
    return tables
