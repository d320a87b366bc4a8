"""A checkpoint's card keeps its head; `evaluate` compares with another one, and says so in its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import TINY
from fedcowpro.cli import main
from fedcowpro.config import HeadConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.protocol import read_results
from fedcowpro.model.checkpoint import save_checkpoint
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.loading import load_predictor


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A model with a head of its own settings."""
    config = TINY.model_copy(update={"head": HeadConfig(kind="alpnet", temperature=9, test_window=1)})
    path = tmp_path / "model.safetensors"
    card = {"model": config.model_dump(mode="json"), "seed": 5, "data": {"size": 64}}
    save_checkpoint(path, build_model(config, 5).state_dict(), card)
    return path


def test_the_card_keeps_the_head_and_another_one_keeps_its_other_settings(checkpoint: Path) -> None:
    assert load_predictor(checkpoint).predictor.model.config.head == HeadConfig(
        kind="alpnet", temperature=9, test_window=1
    )
    loaded = load_predictor(checkpoint, head="panet")
    expected = HeadConfig(kind="panet", temperature=9, test_window=1)
    assert loaded.predictor.model.config.head == expected
    assert loaded.untrained().predictor.model.config.head == expected
    with pytest.raises(FedCoWProError, match="'unet'"):
        load_predictor(checkpoint, head="unet")


def test_evaluate_with_another_head_and_other_scales(checkpoint: Path, ct_site: Site, tmp_path: Path) -> None:
    scores = {}
    for name, options in {
        "own": [],
        "nearest": ["--head", "nearest-support"],
        "scaled": ["--scales", "0.5, 1,1.5"],
    }.items():
        out = tmp_path / f"{name}.csv"
        main_arguments = ["evaluate", "--model", str(checkpoint), "--site", str(ct_site.path), "--out", str(out)]
        with pytest.raises(SystemExit) as end:
            main([*main_arguments, "--untrained", "--organs", "liver", *options])
        assert end.value.code == 0
        scores[name] = read_results(out)
    assert [set(rows["head"]) for rows in scores.values()] == [{"alpnet"}, {"nearest-support"}, {"alpnet"}]
    assert [set(rows["scales"]) for rows in scores.values()] == [{"1"}, {"1"}, {"0.5+1+1.5"}]
    assert set(scores["nearest"]["method"]) == {"untrained", "fedcowpro"}
    for name in ("nearest", "scaled"):
        assert not (scores[name]["dice"] == scores["own"]["dice"]).all()
