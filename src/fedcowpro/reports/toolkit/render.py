"""Pages by templates: one HTML file that needs no other and no network, or Markdown. Text is escaped by Jinja."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedcowpro.core.files import write_atomic
from fedcowpro.reports.toolkit.blocks import Block, Chart, Document

Sections = Iterable[tuple[str, Markup]]


def to_html(title: str, lead: str, sections: Sections, story: Sequence[str] = ()) -> str:
    """A page of sections, each with its heading; `story` stands below the lead, a paragraph each."""
    return _HTML.get_template("page.html").render(title=title, lead=lead, story=story, sections=sections)


def write_page(out: Path, title: str, lead: str, sections: Sections, story: Sequence[str] = ()) -> None:
    """Write such a page; an existing file is replaced as a whole, missing folders are made."""
    write_atomic(out, to_html(title, lead, sections, story))


def document_html(document: Document) -> str:
    """A document as such a page."""
    blocks = _HTML.get_template("blocks.html")
    sections = ((one.title, Markup(blocks.render(blocks=one.blocks))) for one in document.sections)
    return to_html(document.title, document.lead, sections)


def document_markdown(document: Document) -> str:
    """The same words and tables as Markdown (as GitHub and pandoc read it), without the charts."""
    charts = any(isinstance(block, Chart) for section in document.sections for block in section.blocks)
    page = _MARKDOWN.get_template("page.md")
    return page.render(title=document.title, lead=document.lead, sections=document.sections, charts=charts)


def plain(text: str) -> str:
    """Text in which Markdown takes nothing for markup; on one line."""
    # An underscore inside a word, as in paths, is none to Markdown.
    return re.sub(r"([\\`*<>\[\]|#~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", " ".join(text.split()))


def _fence(lines: str) -> str:
    """A fence longer than any row of backticks inside."""
    return "`" * max(3, 1 + max(map(len, re.findall(r"`+", lines)), default=0))


def _kind(block: Block) -> str:
    return type(block).__name__


def _neighbours(blocks: Iterable[Block]) -> list[tuple[str, list[Block]]]:
    """Neighbours of one kind together: they share a container."""
    return [(kind, list(group)) for kind, group in groupby(blocks, _kind)]


def _environment(autoescape: bool) -> Environment:
    found = Environment(
        loader=PackageLoader("fedcowpro.reports.toolkit"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"plain": plain, "fence": _fence, "kind": _kind, "neighbours": _neighbours}
    return found


_HTML, _MARKDOWN = _environment(True), _environment(False)
parts: Any = _HTML.get_template("parts.html").module  # macros, which return escaped HTML
