"""The HTML page stands alone, is the same every time, and shows no patient unless asked."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import scores, table, write_study
from test_answer import Written

from common import PLAIN, TINY
from conftest import RESAMPLES
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import plan_episodes
from fedcowpro.evaluation.protocol import read_results
from fedcowpro.evaluation.run import evaluate_episode
from fedcowpro.evaluation.statistics.cells import Cells, Missing
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.reports.comparison.cases import picks
from fedcowpro.reports.comparison.page import compare_page

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects text, links and pictures, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.alts: list[str | None] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.alts.append(given.get("alt"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


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
    # Differences by site, two of every case, ranks, five curves, pseudo-labels, two of costs.
    assert len(page.alts) == 1 + 2 + 1 + 5 + 1 + 2
    assert all(page.alts)
    assert "<b>a & $x$</b>" in page.text
    assert "nan" not in page.text.lower().split()
    assert "data:image/png" not in html
    assert "There are no pictures of cases on this page, because they show patients" in page.text


def test_html_and_markdown_have_the_same_tables(html: str, markdown: str) -> None:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    numbers = [cell for line in lines for cell in re.findall(r"\d\.\d{3}", line)]
    assert len(numbers) > 200
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


@pytest.fixture
def scored(ct_site: Site, tmp_path: Path) -> Path:
    """Scores of a tiny model and its encoder on case 3 of a site, with the episodes beside them."""
    plan = plan_episodes({"ct": ct_site}, supports=["1"], queries=["3"], organs=["liver", "spleen"])
    rows = []
    for method, seed in (("plain", 5), ("untrained", 5)):
        model = build_model(TINY, seed, project=method == "plain")
        for episode in plan.episodes:
            rows += evaluate_episode(OneShotPredictor(model, PLAIN), {"ct": ct_site}, episode, method=method, seed=seed)
    file = table(tmp_path / "scores.csv", rows)
    plan.save(tmp_path / "scores.episodes.json")
    return file


def test_pictures_are_of_the_scored_predictions(
    scored: Path, ct_site: Site, tiny_checkpoint: Path, written: Written
) -> None:
    sites, models = {"ct": ct_site.path}, {"plain": tiny_checkpoint, "untrained": tiny_checkpoint}
    given = {"sites": sites, "models": models, "name": "page.html"}
    html = written(scored, pictures=True, **given)
    page = Page(html)
    assert html.count("data:image/png") == 4 * 2  # four panels of the one case, by both methods
    rows = read_results(scored)
    for method in models:
        mine = rows[(rows.method == method) & (rows.protocol == "whole-volume")]
        # The settings of inference came from the table, not from the card: the same Dice comes out.
        assert f"segmented by '{method}' (seed 5): whole-volume Dice {mine.dice.mean():.3f}. Slice" in page.text
    assert "Pictures of slices show patients" in page.text
    assert "in the table:" not in page.text


def test_pictures_need_the_sites_and_models_of_the_scores(
    scored: Path, ct_site: Site, tiny_checkpoint: Path, written: Written, tmp_path: Path
) -> None:
    with pytest.raises(FedCoWProError, match=r"--pictures: no model of '(plain|untrained)'"):
        written(scored, pictures=True, name="page.html", sites={"ct": ct_site.path})
    models = {"plain": tiny_checkpoint, "untrained": tiny_checkpoint}
    with pytest.raises(FedCoWProError, match="--pictures: no folder of site 'ct'"):
        written(scored, pictures=True, name="page.html", models=models)
    episodes = tmp_path / "scores.episodes.json"
    episodes.write_text(episodes.read_text().replace(ct_site.labelled_digest, "0" * 16))
    with pytest.raises(FedCoWProError, match=f"has the digest {ct_site.labelled_digest}"):
        written(scored, pictures=True, name="page.html", models=models, sites={"ct": ct_site.path})


def test_cases_are_picked_by_their_scores() -> None:
    dice = np.array([[0.5, 0.9, 0.1, 0.7, 0.6], [0.5, 0.7, 0.1, 0.9, 0.4]])
    cells = Cells(
        "whole-volume", tuple(("ct", name) for name in "abcde"), {"m": (0, 1)}, {"m": dice},
        Missing(0, 5, 0, 5, {}), True, 1, True,
    )  # fmt: skip
    found = picks(cells, "m")
    assert [(pick.which, pick.case) for pick in found] == [("best", "b"), ("median", "a"), ("worst", "c")]
    assert found[0].dice == pytest.approx(0.8)
