"""Bands of spatial frequencies: what each one holds, and that their weights act in training and inference."""

from __future__ import annotations

import pytest
import torch

from fedcowpro.config import ModelConfig
from fedcowpro.model.feature_maps import weigh_bands
from fedcowpro.model.segmenter import build_model


def wave(down: int, across: int, size: int = 32) -> torch.Tensor:
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij")
    return torch.cos(2 * torch.pi * (down * y + across * x) / size)[None, None]


@pytest.mark.parametrize(
    ("down", "across", "band"),
    [(0, 0, 0), (6, 0, 0), (0, 7, 1), (4, 5, 0), (5, 5, 1), (0, 15, 1), (11, 11, 1), (12, 12, 2), (16, 16, 2)],
)
def test_a_wave_is_multiplied_by_the_weight_of_its_band(down: int, across: int, band: int) -> None:
    weights = (2.0, 3.0, 5.0)
    # 0.3 and 0.7 of the diagonal's 16 sqrt 2 are 6.8 and 15.8 waves.
    torch.testing.assert_close(weigh_bands(wave(down, across), weights), weights[band] * wave(down, across))


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 2, 15, 24)])
def test_the_bands_are_a_partition(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    one_by_one = [weigh_bands(features, [float(band == kept) for band in range(3)]) for kept in range(3)]
    torch.testing.assert_close(sum(one_by_one), features)
    torch.testing.assert_close(weigh_bands(features, (1.0, 1.0, 1.0)), features)
    low, middle, _ = one_by_one
    assert abs(float((low * middle).sum())) < 1e-2 * float(features.square().sum())


def test_features_are_weighed_and_keep_their_gradient() -> None:
    plain, weighed = (
        build_model(ModelConfig(encoder="tiny", channels=8, bands=bands), 0) for bands in (None, (0.5, 1.0, 0.0))
    )
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(weighed.encode(images), weigh_bands(plain.encode(images), (0.5, 1.0, 0.0)))
    weighed.encode(images).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in weighed.parameters())


def test_a_band_that_is_left_out_has_no_gradient() -> None:
    torch.autograd.gradcheck(
        lambda x: weigh_bands(x, (0.0, 1.0, 2.0)), torch.randn(1, 1, 6, 7, dtype=torch.float64, requires_grad=True)
    )
    features = torch.ones(1, 1, 8, 8, requires_grad=True)  # the mean alone
    weigh_bands(features, (0.0, 1.0, 1.0)).sum().backward()
    assert features.grad is not None
    assert features.grad.abs().max() < 1e-6
