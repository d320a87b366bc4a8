"""A document as one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from string import Template

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
    Section,
    Text,
    Value,
)
from fedcowpro.reports.toolkit.html import Html, join, picture, table, text

_WHOLE = 9  # letters of a word that is not broken


def to_html(document: Document) -> str:
    """The page, in the style of the other pages."""
    folder = files("fedcowpro.reports.toolkit")
    template = folder.joinpath("comparison.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        style=folder.joinpath("style.css").read_text(encoding="utf-8"),
        title=text(document.title),
        lead=text(document.lead),
        sections=join([_section(section) for section in document.sections]),
    )


def _section(section: Section) -> Html:
    parts: list[str] = [Html(f"<h2>{text(section.title)}</h2>")]
    # Neighbours of one kind share a container: charts a grid, findings a list.
    for kind, blocks in groupby(section.blocks, type):
        parts.append(_together(kind, list(blocks)))
    return Html(f"<section>\n{join(parts)}\n</section>")


def _together(kind: type[Block], blocks: Sequence[Block]) -> Html:
    inner = join([_block(block) for block in blocks])
    if kind is Chart:
        return Html(f'<div class="charts">{inner}</div>')
    return Html(f'<ul class="findings">{inner}</ul>') if kind is Finding else inner


def _block(block: Block) -> Html:
    match block:
        case Text():
            note = ' class="note"' if block.kind == "note" else ""
            return Html(f"<p{note}>{text(block.text)}</p>")
        case Heading():
            return Html(f"<h3>{text(block.text)}</h3>")
        case Items():
            return Html(f"<ul>{''.join(f'<li>{text(item)}</li>' for item in block.items)}</ul>")
        case Finding():
            kind = "shown" if block.shown else "open"
            return Html(f'<li class="{kind}"><strong>{text(block.verdict)}</strong> {text(block.text)}</li>')
        case Grid():
            words = "all" if block.words >= len(block.head) else block.words
            cell = _word if words == "all" else _cell
            rows = [[cell(one) for one in row] for row in block.rows]
            grid = table(block.head, rows, kind=f"dense words-{words}")
            # Not the table's own caption: that would be as wide as the table, which scrolls on a phone.
            return join([Html(f'<p class="note">{text(block.caption)}</p>'), grid]) if block.caption else grid
        case Chart():
            figure = picture(block.draw(), block.alt, block.caption)
            return Html(f'<div class="wide">{figure}</div>') if block.wide else figure
        case Command():
            return Html(f'<p class="note">{text(block.name)}</p><pre>{text(block.lines)}</pre>')
        case Raw():
            return block.html


def _word(cell: Cell) -> Html:
    """A cell of a table of words, whose long ones break anywhere in print; a number stays whole."""
    whole = isinstance(cell, str) and len(cell) <= _WHOLE and " " not in cell
    return Html(f'<span class="whole">{text(cell)}</span>') if whole else _cell(cell)


def _cell(cell: Cell) -> Html:
    if not isinstance(cell, Value):
        return text(cell)
    mark = f'<span class="mark">{text(cell.mark)}</span>' if cell.mark else ""
    below = f'<span class="range">{text(cell.below)}</span>' if cell.below else ""
    return Html(f"{text(cell.main)}{mark}{below}")
