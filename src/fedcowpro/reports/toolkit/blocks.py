"""What a page is made of, before it is HTML or Markdown: both show the same words and the same tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fedcowpro.reports.toolkit.html import MISSING, Html


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
class Finding:
    """One answer: its verdict and the numbers behind it; `shown` = the data show a difference."""

    verdict: str
    text: str
    shown: bool


@dataclass(frozen=True)
class Grid:
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


@dataclass(frozen=True)
class Raw:
    """HTML that has no place in Markdown, such as pictures of slices."""

    html: Html


Block = Text | Heading | Items | Finding | Grid | Chart | Command | Raw


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
) -> list[Grid]:
    """A wide table as several narrow ones.

    Args:
        head: one heading per column.
        rows: cells.
        first: how many columns stand in every one of them.
        most: how many others one has.
        words: how many columns are words.
    """
    rest = range(first, len(head))
    grids = []
    for start in range(0, len(rest), most) or [0]:
        chosen = [*range(first), *rest[start : start + most]]
        rows_here = tuple(tuple(row[i] for i in chosen) for row in rows)
        grids.append(Grid(tuple(head[i] for i in chosen), rows_here, words=words))
    return grids


def listed(names: Sequence[str], last: str = "and") -> str:
    """'a, b and c'."""
    return f"{', '.join(names[:-1])} {last} {names[-1]}" if len(names) > 1 else "".join(names)


def count(n: int, noun: str) -> str:
    """'1 case', '2 cases'."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def shown(value: object) -> str:
    """A recorded value as text; a dash where there is none."""
    return MISSING if value is None or value == "" or value != value else str(value)
