"""Pages that need no other file and no network: a template, the one style sheet, and what fills them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template

from fedcowpro.evaluate.markup import Html
from fedcowpro.evaluate.protocol import replace_text


def write_page(out: Path, template: str, **parts: Html) -> None:
    """Fill a template of this package and write it; an existing file is replaced as a whole.

    Args:
        out: file to write; missing folders are made.
        template: name of the template's file.
        parts: what stands for each `$name`, save `$style`.
    """
    folder = files("fedcowpro.evaluate")
    style = folder.joinpath("style.css").read_text(encoding="utf-8")
    page = Template(folder.joinpath(template).read_text(encoding="utf-8"))
    replace_text(out, page.substitute(style=style, **parts))
