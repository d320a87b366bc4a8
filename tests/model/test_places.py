"""Coordinates beside features: how far apart two pixels lie changes how alike they are, and by how much."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fedcowpro.model.feature_maps import append_places


def test_likeness_is_of_features_and_places_in_their_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 6, 4, generator=generator, dtype=torch.float64)
    weight = 0.7
    placed = append_places(features, weight)
    assert placed.shape == (2, 13, 6, 4)
    (row, column), (other_row, other_column) = (1, 3), (5, 0)
    ours = F.cosine_similarity(placed[0, :, row, column], placed[1, :, other_row, other_column], dim=0)
    of_features = F.cosine_similarity(features[0, :, row, column], features[1, :, other_row, other_column], dim=0)
    down, across = math.pi * (row - other_row) / 6, math.pi * (column - other_column) / 4
    expected = (of_features + weight**2 * (math.cos(down) + math.cos(across)) / 2) / (1 + weight**2)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 4, 3, 5)])
def test_places_are_the_same_in_all_slices_and_sum_to_nothing(shape: tuple[int, ...]) -> None:
    places = append_places(torch.randn(shape, generator=torch.Generator().manual_seed(1)), 2.0)[:, -8:]
    torch.testing.assert_close(places.sum(1), torch.zeros(shape[0], *shape[2:]), atol=1e-6, rtol=0)
    torch.testing.assert_close(places, places[:1].expand_as(places))
    torch.testing.assert_close(places.square().sum(1).sqrt(), torch.full((shape[0], *shape[2:]), 2.0))
