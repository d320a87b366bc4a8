"""Pages that need no other file and no network: a template, the one style sheet, and what fills them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template

from fedcowpro.core.files import write_atomic
from fedcowpro.reports.toolkit.html import Html


def write_page(out: Path, template: str, **parts: Html) -> None:
    """Fill a template of this package and write it; an existing file is replaced as a whole.

    Args:
        out: file to write; missing folders are made.
        template: name of the template's file.
        parts: what stands for each `$name`, save `$style`.
    """
    folder = files("fedcowpro.reports.toolkit")
    style = folder.joinpath("style.css").read_text(encoding="utf-8")
    page = Template(folder.joinpath(template).read_text(encoding="utf-8"))
    write_atomic(out, page.substitute(style=style, **parts))
