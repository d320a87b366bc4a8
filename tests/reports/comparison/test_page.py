"""The HTML page stands alone, is the same every time, and shows no patient."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from made import RESAMPLES, scores, write_study

from fedcowpro.reports.comparison.page import compare_page
from html_page import Page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three arms with names that are markup, two of them trained; many clients in one."""
    arms = {"plain": 0.0, "<b>a & $x$</b>": 0.1, "many | *": 0.05}
    rows = scores(arms, sites=["ct", "mr"], cases=5, seeds=[0, 1], every_metric=True)
    clients = {"plain": [], "<b>a & $x$</b>": ["ct-1", "mr-1"], "many | *": [f"c{n}" for n in range(14)]}
    return write_study(tmp_path_factory.mktemp("made") / "study", rows, clients, "plain", {"ct": "ct", "mr": "mr"})


def page_of(study: Path, name: str, **options: Any) -> str:
    command = f"fedcowpro compare {study.name} --out page"
    out = compare_page([study], study.parent / name, command=command, resamples=RESAMPLES, **options)
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(study: Path) -> str:
    return page_of(study, "page.html")


@pytest.fixture(scope="module")
def markdown(study: Path) -> str:
    return page_of(study, "page.md")


def test_the_page_needs_nothing_from_outside(html: str) -> None:
    page = Page(html)
    assert page.links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert not {"script", "link", "iframe", "object", "b"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html
    # Differences by site, two of every case and two of its volumes, five curves.
    assert len(page.alts) == 1 + 2 + 2 + 5
    assert all(page.alts)
    assert "<b>a & $x$</b>" in page.text
    assert "nan" not in page.text.lower().split()
    assert "data:image/png" not in html


def test_html_and_markdown_have_the_same_tables(html: str, markdown: str) -> None:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    numbers = [cell for line in lines for cell in re.findall(r"\d\.\d{3}", line)]
    assert len(numbers) > 150
    # The same numbers as often, in the same order; sentences have some more.
    rest = iter(re.findall(r"\d\.\d{3}", Page(html).text))
    assert all(number in rest for number in numbers)
    assert r"many \| \*" in markdown
    assert r"\<b\>a & $x$\</b\>" in markdown
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    rules = [index for index, line in enumerate(lines) if line.startswith("| ---")]
    for start, end in pairwise([*rules, len(lines) + 1]):  # as many cells in each row as in its heading
        assert set(cells[start - 1 : end - 1]) == {cells[start]}


def test_the_same_input_gives_the_same_bytes(study: Path, html: str, markdown: str) -> None:
    assert page_of(study, "again.html") == html
    assert page_of(study, "other.md", seed=1) != markdown


def test_provenance_names_files_digests_and_commands(study: Path, markdown: str) -> None:
    digest = hashlib.sha256((study / "table.csv").read_bytes()).hexdigest()[:16]
    for expected in (
        digest, "2026-01-02T03:04:05+00:00", "fedcowpro 0.1.0", "abababababababab", "bootstrap resamples from seed 0",
        "results/", str(study / "sites" / "ct"), "fedcowpro compare study --out page",
    ):  # fmt: skip
        assert expected in markdown, expected
