"""Building a model, its modes, and its scores' way back to the image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common import TINY
from fedcowpro.config import ModelConfig
from fedcowpro.model.checkpoint import state_digest
from fedcowpro.model.lite0 import Lite0Encoder
from fedcowpro.model.segmenter import build_model, upsample

LITE0 = ModelConfig(encoder="lite0", channels=128)


@pytest.mark.parametrize(
    "config", [TINY, LITE0, ModelConfig(encoder="resnet18", channels=16)], ids=["tiny", "lite0", "resnet18"]
)
def test_same_seed_same_weights(config: ModelConfig) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one = state_digest(build_model(config, 3).state_dict())
    assert torch.equal(torch.random.get_rng_state(), before)  # nothing is taken from the global generator
    torch.manual_seed(8)
    assert state_digest(build_model(config, 3).state_dict()) == one
    assert state_digest(build_model(config, 4).state_dict()) != one


def test_a_seed_changes_the_projection_only_where_weights_are_pretrained() -> None:
    one, two = build_model(LITE0, 0).state_dict(), build_model(LITE0, 1).state_dict()
    assert [name for name in one if not torch.equal(one[name], two[name])] == ["project.weight"]
    fresh = build_model(LITE0, 0, pretrained=False).state_dict()
    assert not torch.equal(fresh["encoder._conv_stem.weight"], one["encoder._conv_stem.weight"])


def test_without_projection_features_are_the_encoders() -> None:
    encoder = Lite0Encoder().eval()
    encoder.load_imagenet()
    images = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = encoder(images)
        for config, project in ((LITE0, False), (ModelConfig(encoder="lite0", channels=None), True)):
            model = build_model(config, 0, project=project).eval()
            assert torch.allclose(model.encode(images), expected, atol=1e-4)
        assert build_model(LITE0, 0).eval().encode(images).shape == (1, 128, 8, 8)


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_normalisation_keeps_its_statistics(frozen: bool) -> None:
    model = build_model(TINY.model_copy(update={"frozen_norm": frozen}), 0).train()
    layer = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    before = layer.running_mean.clone()
    model.encode(torch.randn(4, 1, 32, 32) + 3)
    assert torch.equal(layer.running_mean, before) == frozen
    assert not model.eval().training
    assert model.train().training


def test_scores_return_to_the_image_in_place() -> None:
    """Each feature cell lies over its 8 x 8 pixels: no shift by half a cell."""
    scores = torch.zeros(1, 2, 8, 8)
    scores[0, 1, 2, 5] = 1
    image = upsample(scores, (64, 64))
    assert image.shape == (1, 2, 64, 64)
    weight = image[0, 1] / image[0, 1].sum()
    centre = [float((weight.sum(1 - axis) * torch.arange(64)).sum()) for axis in (0, 1)]
    assert centre == pytest.approx([2 * 8 + 3.5, 5 * 8 + 3.5])
