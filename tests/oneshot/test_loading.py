"""A predictor from a checkpoint: the card's settings, what replaces them, and the network before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common import TINY
from fedcowpro.config import InferConfig, ModelConfig, PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.model.checkpoint import save_checkpoint, state_digest
from fedcowpro.model.lite0 import Lite0Encoder
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.loading import load_predictor


def save(folder: Path, config: ModelConfig = TINY, **card: object) -> Path:
    state = build_model(config, 2).state_dict()
    changed = {name: tensor + 0.01 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_checkpoint(folder / "model.safetensors", changed, {"model": config.model_dump(mode="json"), "seed": 2, **card})
    return folder


def test_settings_come_from_the_card_unless_they_are_replaced(tmp_path: Path) -> None:
    inference = InferConfig(support_slices=5, flip=True)
    settings = PrepareConfig(modality="ct", size=64, window=(-200, 300))
    path = save(
        tmp_path,
        inference=inference.model_dump(mode="json"),
        prepare={"ct": settings.model_dump(mode="json")},
        data={"size": 64},
    )
    loaded = load_predictor(path)
    assert loaded.predictor.config == inference
    assert loaded.seed == 2
    assert loaded.prepare["ct"] == settings
    # No training site had MR: defaults, but slices of the size that the network knows.
    assert loaded.prepare["mr"] == PrepareConfig(modality="mr", size=64)
    replaced = load_predictor(path, {"support_slices": "all"}).predictor.config
    assert replaced == inference.model_copy(update={"support_slices": "all"})
    assert load_predictor(path / "model.safetensors").seed == 2


def test_a_bare_card_takes_defaults(tmp_path: Path) -> None:
    loaded = load_predictor(save(tmp_path))
    assert loaded.predictor.config == InferConfig()
    assert loaded.prepare["mr"] == PrepareConfig(modality="mr")


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="inference settings: field 'colour'"):
        load_predictor(save(tmp_path), {"colour": 1})
    with pytest.raises(FedCoWProError, match="field 'modality'"):
        load_predictor(save(tmp_path, prepare={"ct": {"modality": "pet"}}))


@pytest.mark.parametrize("channels", [None, 16])
def test_untrained_is_the_imagenet_encoder_alone(tmp_path: Path, channels: int | None) -> None:
    loaded = load_predictor(save(tmp_path, ModelConfig(encoder="lite0", channels=channels)), {"flip": True})
    before = loaded.untrained()
    encoder = Lite0Encoder()
    encoder.load_imagenet()
    assert state_digest(before.predictor.model.encoder.state_dict()) == state_digest(encoder.state_dict())
    assert before.predictor.config == loaded.predictor.config
    assert not before.predictor.model.training
    with torch.no_grad():
        assert before.predictor.model.encode(torch.zeros(1, 1, 64, 64)).shape == (1, 152, 8, 8)
