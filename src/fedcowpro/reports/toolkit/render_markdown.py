"""A document as Markdown: the same words and tables; charts and pictures are left to the HTML page."""

from __future__ import annotations

import re

from fedcowpro.reports.toolkit.blocks import (
    Block,
    Cell,
    Chart,
    Command,
    Document,
    Finding,
    Grid,
    Heading,
    Items,
    Raw,
    Text,
    Value,
)

_WITHOUT = "Charts are on the HTML page of the same comparison (`--out` with the ending .html)."


def to_markdown(document: Document) -> str:
    """The page as Markdown (tables as GitHub and pandoc read them)."""
    parts = [f"# {plain(document.title)}", plain(document.lead)]
    if any(isinstance(block, Chart) for section in document.sections for block in section.blocks):
        parts.append(_WITHOUT)
    for section in document.sections:
        parts.append(f"## {plain(section.title)}")
        parts += [text for block in section.blocks if (text := _block(block))]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text in which nothing is taken for markup; on one line."""
    # An underscore inside a word, as in paths, is none to Markdown.
    return re.sub(r"([\\`*<>\[\]|#~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", " ".join(text.split()))


def _block(block: Block) -> str:
    match block:
        case Text():
            return plain(block.text)
        case Heading():
            return f"### {plain(block.text)}"
        case Items():
            return "\n".join(f"- {plain(item)}" for item in block.items)
        case Finding():
            return f"**{plain(block.verdict)}** {plain(block.text)}"
        case Grid():
            return _grid(block)
        case Command():
            # A fence longer than any row of backticks inside.
            longest = max(map(len, re.findall(r"`+", block.lines)), default=0)
            fence = "`" * max(3, longest + 1)
            return f"{plain(block.name)}\n\n{fence}\n{block.lines}\n{fence}"
        case Chart() | Raw():
            return ""


def _grid(grid: Grid) -> str:
    lines = [_line([plain(cell) for cell in grid.head])]
    words = min(grid.words, len(grid.head))
    lines.append(_line(["---"] * words + ["---:"] * (len(grid.head) - words)))
    lines += [_line([_cell(cell) for cell in row]) for row in grid.rows]
    table = "\n".join(lines)
    return f"{plain(grid.caption)}\n\n{table}" if grid.caption else table


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    if not isinstance(cell, Value):
        return plain(cell)
    below = f" ({plain(cell.below)})" if cell.below else ""
    return f"{plain(cell.main)}{f' {cell.mark}' if cell.mark else ''}{below}"
