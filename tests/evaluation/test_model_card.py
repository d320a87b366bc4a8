"""The model card: complete, without names, the same each time, and true."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import TINY
from fedcowpro.config import ExperimentConfig, SiteConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.model_card import write_model_card
from fedcowpro.evaluation.protocol import Row, write_results
from fedcowpro.evaluation.statistics.bootstrap import draw
from fedcowpro.evaluation.statistics.intervals import RESAMPLES, Draws
from fedcowpro.federated.server.run_folder import CompleteRound, RunFolder
from fedcowpro.federated.server.server_app import model_card
from fedcowpro.federated.site.local_training import SiteFacts
from fedcowpro.model.checkpoint import save_checkpoint
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.loading import default_model
from fedcowpro.reports.show import show

SECTIONS = [
    "Model details", "Intended use", "Factors", "Metrics", "Training data", "Training",
    "Evaluation data and quantitative analyses", "Ethical considerations", "Caveats and recommendations", "How to load",
]  # fmt: skip
CONFIG = ExperimentConfig(seed=3, model=TINY, sites=(SiteConfig(name="saint-mary", path=Path("/data/saint-mary")),))
FACTS = [
    SiteFacts("saint-mary", "ct", 3, 30, 64, "b1" * 8, '{"size": 64}'),
    SiteFacts("hill", "mr", 2, 21, 64, "a2" * 8, '{"size": 64}'),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, as `federate` leaves it."""
    folder = RunFolder(tmp_path / "run")
    folder.start(CONFIG, FACTS, resume=False)
    folder.finish(CompleteRound(10, build_model(TINY, 3).state_dict(), {}), model_card(CONFIG, FACTS, 10))
    return folder.path


def row(method: str, case: str, organ: str, dice: float, **rest: Any) -> Row:
    given = {"seed": 3, "site": "hill", "protocol": "whole-volume", "support_site": "hill", "support_case": "1"}
    return Row(method=method, case=case, organ=organ, dice=dice, support_slices="3", **{**given, **rest})


def lines(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_a_finished_run_has_a_card_that_names_no_site(run: Path) -> None:
    text = (run / "MODEL_CARD.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert not any(name in text for name in ("saint-mary", "hill", "/data", "| None |", str(run)))
    for fact in (
        "- Sites: 2", "- Modalities: ct at 1 site, mr at 1 site", "- Training cases: 5",
        "- Slices: 51 of 64 x 64 pixels",
        f"- Digests of the sites' data: {'a2' * 8}, {'b1' * 8}", "- Round: 10 of 10", "- Seed: 3",
        "| train.lr | 0.0005 |", "| augment.zoom | 0.9, 1.2 |", "| prepare.ct.size | 64 |", "Not a medical device",
        "no proof against\nreconstruction", "as stated by the user: not stated", "Training saw no labels",
        f"- Digest of the settings: {CONFIG.model_copy(update={'sites': ()}).digest()}",
    ):  # fmt: skip
        assert fact in text, fact


def test_it_is_the_same_each_time(run: Path) -> None:
    first = (run / "MODEL_CARD.md").read_bytes()
    assert write_model_card(run / "model.safetensors").read_bytes() == first
    assert {file.name for file in run.iterdir()} >= {"MODEL_CARD.md", "model.json"}
    assert not [file for file in run.iterdir() if "tmp" in file.name]


def test_results_have_means_and_intervals(run: Path, tmp_path: Path) -> None:
    dice = np.random.default_rng(1).uniform(0.4, 0.9, (2, 13))
    rows = [
        row("fedcowpro", f"{c:02}", organ, dice[o, c]) for o, organ in enumerate(("liver", "spleen")) for c in range(13)
    ]
    rows += [row("fedcowpro", f"{c:02}", "gallbladder", math.nan) for c in range(2)]
    rows += [row("untrained", "0", "liver", 0.25, site="a|b")]
    write_results(tmp_path / "results.csv", rows)
    text = write_model_card(run, tmp_path / "results.csv", "CC BY 4.0").read_text()
    assert "as stated by the user: CC BY 4.0" in text
    table = lines(text.partition("## Evaluation")[2])

    def wanted(organ: str, values: np.ndarray) -> list[str]:
        generator = np.random.default_rng(0)
        interval = Draws(draw(generator, 13, RESAMPLES), generator).interval([values[None]], 0.95)
        ends = f"{interval.low:.3f} to {interval.high:.3f}"
        return ["whole-volume", "fedcowpro", "hill (mr)", organ, f"{values.mean():.3f}", ends, "13"]

    assert wanted("liver", dice[0]) in table
    assert wanted("spleen", dice[1]) in table
    assert wanted("all organs", dice.mean(axis=0)) in table
    assert ["whole-volume", "fedcowpro", "hill (mr)", "gallbladder", "not defined", "-", "0"] in table
    assert "| untrained | a\\|b | liver | 0.250 | - | 1 |" in text
    assert "One seed of fedcowpro" in text
    write_results(tmp_path / "mixed.csv", [row("m", "1", "liver", 0.5), row("m", "1", "liver", 0.6)])
    before = (run / "MODEL_CARD.md").read_bytes()
    with pytest.raises(FedCoWProError, match="two rows"):
        write_model_card(run, tmp_path / "mixed.csv")
    assert (run / "MODEL_CARD.md").read_bytes() == before


def test_its_example_of_loading_works(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (run / "MODEL_CARD.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(run)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["predictor"].model.config == TINY


def test_a_checkpoint_alone_has_a_card_of_what_it_knows(tmp_path: Path) -> None:
    state = build_model(TINY, 5).state_dict()
    save_checkpoint(tmp_path / "own.safetensors", state, {"model": {"encoder": "lite0", "weights": None}, "seed": 5})
    out = write_model_card(tmp_path / "own.safetensors")
    assert out.name == "own.MODEL_CARD.md"
    text = out.read_text()
    assert "Not recorded in this checkpoint." in text
    assert "ImageNet weights of EfficientNet-Lite0" in text
    assert "Apache-2.0" in text
    assert "| model.weights | none |" in text
    with pytest.raises(FedCoWProError, match="no readable file"):
        write_model_card(tmp_path / "nothing.safetensors")


def test_the_model_of_the_package_has_a_card_of_its_own(tmp_path: Path) -> None:
    """It was trained at no site of a federation."""
    for suffix in (".safetensors", ".json"):
        shutil.copy(default_model().with_suffix(suffix), tmp_path)
    text = write_model_card(tmp_path / default_model().name).read_text()
    assert "- Training cases: 12" in text
    assert "Sites:" not in text
    assert "12 cases and 288 slices\n" in show(tmp_path / default_model().name)


def test_settings_of_another_run_are_left_out(run: Path) -> None:
    card = model_card(CONFIG.model_copy(update={"seed": 4}), FACTS, 10)
    save_checkpoint(run / "model.safetensors", build_model(TINY, 3).state_dict(), card)
    text = write_model_card(run).read_text()
    assert "settings are not beside this checkpoint" in text
    assert "train.lr" not in text
    assert "a2a2" not in text


def test_texts_of_others_are_neither_markdown_nor_html(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>[a](http://b)|\n## Intended use\x1b[2J"
    facts = [SiteFacts("hill", evil, 3, 30, 64, evil, '{"size": 64}')]
    folder = RunFolder(tmp_path / "run")
    folder.start(CONFIG, facts, resume=False)
    folder.finish(CompleteRound(10, build_model(TINY, 3).state_dict(), {}), model_card(CONFIG, facts, 10))
    text = folder.card_file.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert "\x1b" not in text
    assert "<img" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;\\[a\\](http://b)\\|" in text
