"""Federations in which few parameters train and travel, and the rest of the model stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedcowpro.config import ExperimentConfig, ModelConfig
from fedcowpro.federated.monitoring.rounds import read_rounds
from fedcowpro.federated.run import federate
from fedcowpro.federated.site.local_training import hold_still, learnt_names
from fedcowpro.model.checkpoint import load_tensors
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.loading import load_predictor

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
MODEL = {"encoder": "tiny", "channels": 8, "adapter_rank": 2, "frozen_norm": True}


def settings(experiment: Experiment, model: dict[str, Any] | None = None, **federation: Any) -> ExperimentConfig:
    plain = experiment(rounds=2, local_steps=2, weighting="uniform").model_dump()
    plain["model"] |= MODEL | (model or {})
    plain["federation"] |= federation
    return ExperimentConfig.model_validate(plain)


@pytest.mark.parametrize(
    ("trainable", "prefixes"),
    [
        (["projection"], ("project.",)),
        (["adapter"], ("adapter.",)),
        (["normalisation"], ("encoder.layers.1.", "encoder.layers.4.", "encoder.layers.7.")),
        (["adapter", "projection"], ("adapter.", "project.")),
    ],
)
def test_only_what_is_named_trains_and_travels(
    sites: Sites, experiment: Experiment, tmp_path: Path, trainable: list[str], prefixes: tuple[str, ...]
) -> None:
    config = settings(experiment, trainable=trainable)
    found = load_tensors(federate(config, sites, tmp_path, progress=False))
    start = build_model(config.model, config.seed).state_dict()
    moved = {name for name in found if not torch.equal(found[name], start[name])}
    assert moved
    assert all(name.startswith(prefixes) for name in moved)
    assert {name.partition(".")[0] for name in moved} == {prefix.partition(".")[0] for prefix in prefixes}
    few = sum(start[name].numel() for name in start if name.startswith(prefixes) and "running" not in name
              and "tracked" not in name)  # fmt: skip
    for record in read_rounds(tmp_path / "metrics.jsonl"):
        for site in record.sites:
            assert 4 * few < site.bytes_up < 4 * few + 3000  # what else is in a reply: names, shapes, numbers
            assert site.update_norm > 0


def test_noise_is_added_to_what_travels_only(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    privacy = {"mechanism": "central", "clip": 0.01, "noise_multiplier": 100.0, "randomness": "seed"}
    config = settings(experiment, trainable=["adapter"], privacy=privacy, rounds=1)
    found = load_tensors(federate(config, sites, tmp_path, progress=False))
    start = build_model(config.model, config.seed).state_dict()
    moved = {name for name in found if not torch.equal(found[name], start[name])}
    assert moved == {"adapter.down.weight", "adapter.up.weight"}
    (record,) = read_rounds(tmp_path / "metrics.jsonl")
    count = sum(start[name].numel() for name in moved)
    assert record.step_norm == pytest.approx(100 * 0.01 / len(sites) * np.sqrt(count), rel=0.4)


def test_an_adapter_changes_nothing_before_it_has_learnt(tmp_path: Path) -> None:
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    model, without = (
        build_model(ModelConfig(encoder="tiny", channels=8, adapter_rank=rank), 3).eval() for rank in (2, None)
    )
    torch.testing.assert_close(model.encode(images), without.encode(images), rtol=0, atol=0)
    hold_still(model, ["adapter"])
    assert learnt_names(model) == {"adapter.down.weight", "adapter.up.weight"}
    hold_still(without, [])
    assert learnt_names(without) == {name for name, _ in without.named_parameters()}


def test_a_model_with_an_adapter_is_read_back(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    model = federate(settings(experiment, trainable=["adapter"], rounds=1), sites, tmp_path, progress=False)
    assert load_predictor(model).predictor is not None


@pytest.mark.parametrize(
    ("model", "federation", "words"),
    [
        ({"channels": None}, {"trainable": ["projection"]}, r"set model\.channels"),
        ({"adapter_rank": None}, {"trainable": ["adapter"]}, r"set model\.adapter_rank"),
        ({"frozen_norm": False}, {"trainable": ["adapter"]}, "frozen_norm"),
        ({}, {"trainable": ["adapter"], "normalisation": "local"}, "averaged"),
        ({}, {"trainable": ["head"]}, "trainable"),
    ],
)
def test_settings_that_cannot_be(
    experiment: Experiment, model: dict[str, Any], federation: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(experiment, model, **federation)
