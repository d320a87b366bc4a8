"""Which prototypes each head takes from its support, and that training and inference take the same."""

from __future__ import annotations

import pytest
import torch
from head_cases import KINDS, head, model_with, random_episode
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedcowpro.model.head import score, score_classes
from fedcowpro.model.prototypes import (
    PrototypeSet,
    masked_mean,
    masks_to_features,
    pool_cells,
    prototypes_of_class,
    prototypes_of_organs,
    select_prototypes,
)

ALL = pytest.mark.parametrize("kind", KINDS)
WITH_CELLS = ("cowpro", "cowpro-raw", "alpnet")


@pytest.mark.parametrize("kind", WITH_CELLS)
def test_bag_holds_covered_cells_and_the_masked_mean(kind: str) -> None:
    _, support, masks = random_episode(2, 1)
    config = head(kind, train_window=2)
    prototypes = prototypes_of_class(support, masks, 1, 2, config, foreground=True)
    assert prototypes.vectors.shape == (2, 17, 6)
    # Rows 0-3 and columns 2-6: cells (0 and 1, 1 and 2) are covered; column 3 of the cells only by half.
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0:2, 1:3] = True
    assert torch.equal(prototypes.valid[0, :16].reshape(4, 4), expected)
    assert prototypes.valid[0, 16]
    assert torch.allclose(prototypes.vectors[0, 5], support[0, :, 2:4, 2:4].mean((1, 2)))
    assert torch.allclose(prototypes.vectors[0, 16], support[0, :, 0:4, 2:7].mean((1, 2)), rtol=1e-5)
    assert len(prototypes_of_class(support, masks, 1, 2, config, foreground=False)) == 16
    half = prototypes_of_class(support, masks, 1, 2, head(kind, threshold=0.4), foreground=False)
    assert int(half.valid[0].sum()) == 6
    exact = prototypes_of_class(support, masks * 0.5, 1, 2, head(kind, threshold=0.5), foreground=False)
    assert not exact.valid.any()  # strictly more


def only(prototypes: PrototypeSet, index: int = 0) -> Tensor:
    """The prototypes that count, with equal ones once."""
    return prototypes.vectors[index][prototypes.valid[index]].unique(dim=0)


def square(side: int, start: int = 0) -> Tensor:
    mask = torch.zeros(8, 8, dtype=torch.float64)
    mask[start : start + side, start : start + side] = 1
    return mask


def test_a_small_foreground_of_alpnet_is_its_mean_alone() -> None:
    """Decided by the training window also where cells of the test window are covered; background is not affected."""
    _, support, _ = random_episode(2, 1)
    masks = torch.stack((square(3), square(4)))
    for window in (2, 4):
        prototypes = prototypes_of_class(support, masks, 1, window, head("alpnet"), foreground=True)
        assert torch.equal(only(prototypes), masked_mean(support, masks)[:1])
        assert len(only(prototypes, 1)) == {2: 5, 4: 2}[window]
        assert (
            len(only(prototypes_of_class(support, masks, 1, window, head("cowpro"), foreground=True)))
            == {2: 2, 4: 1}[window]
        )
        behind = prototypes_of_class(support, 1 - masks, 1, window, head("alpnet"), foreground=False)
        assert int(behind.valid[0].sum()) == {2: 12, 4: 3}[window]
    # The window of training is a setting.
    prototypes = prototypes_of_class(support, masks, 1, 2, head("alpnet", train_window=2), foreground=True)
    assert len(only(prototypes)) == 2


def test_alpnet_decides_over_all_slices() -> None:
    _, support, _ = random_episode(1, 2)
    small, large = square(2), square(4, 4)
    both = torch.stack((small, small))
    prototypes = prototypes_of_class(support, both, 2, 2, head("alpnet"), foreground=True)
    assert torch.allclose(only(prototypes), masked_mean(support, both).mean(0))  # the average, as published
    mixed = torch.stack((small, large))
    found = only(prototypes_of_class(support, mixed, 2, 2, head("alpnet"), foreground=True))
    expected = only(prototypes_of_class(support, mixed, 2, 2, head("cowpro"), foreground=True))
    assert torch.equal(found, expected)
    assert len(found) == 1 + 4 + 2


def test_panet_has_one_average_per_class_whatever_window_and_threshold() -> None:
    _, support, masks = random_episode(2, 3)
    for foreground, coverage in ((True, masks), (False, 1 - masks)):
        prototypes = prototypes_of_class(support, coverage, 3, 4, head("panet"), foreground)
        assert prototypes.vectors.shape == (2, 1, 6)
        assert prototypes.valid.all()
        means = [(support * coverage[:, None])[i].sum((1, 2)) / coverage[i].sum() for i in range(6)]
        assert torch.allclose(prototypes.vectors[1, 0], torch.stack(means[3:]).mean(0), rtol=1e-5)
        other = prototypes_of_class(support, coverage, 3, 2, head("panet", threshold=0.1), foreground)
        assert torch.equal(prototypes.vectors, other.vectors)


def test_nearest_support_has_all_pixels_that_are_covered_by_more_than_half() -> None:
    _, support, _ = random_episode(1, 2)
    masks = torch.zeros(2, 8, 8, dtype=torch.float64)
    masks[0, 2, 3:6] = torch.tensor([0.5, 0.75, 1.0])
    front, back = (
        prototypes_of_class(support, part, 2, 4, head("nearest-support", threshold=0.9), foreground)
        for part, foreground in ((masks, True), (1 - masks, False))
    )
    assert torch.equal(only(front), support[0, :, 2, 4:6].T.unique(dim=0))
    assert int(back.valid.sum()) == 2 * 64 - 3  # half belongs to neither
    thin = masks * 0.4
    prototypes = prototypes_of_class(support, thin, 2, 4, head("nearest-support"), foreground=True)
    assert torch.allclose(only(prototypes), masked_mean(support, thin).mean(0))


@ALL
def test_several_support_views_are_taken_together(kind: str) -> None:
    query, support, masks = random_episode(2, 3)
    config = head(kind, train_window=2)
    model = model_with(config)
    both = model.compare(query, support, masks, 2)
    one_by_one = torch.cat([model.compare(query[i : i + 1], support[3 * i : 3 * i + 3], masks[3 * i : 3 * i + 3], 2)
                            for i in range(2)])  # fmt: skip
    assert torch.allclose(both, one_by_one, atol=1e-12)
    prototypes = prototypes_of_class(support, masks, 3, 2, config, foreground=True)
    assert torch.allclose(both[:, 1], score(query, prototypes, config), atol=1e-12)
    if kind in WITH_CELLS:
        cells = torch.cat([pool_cells(support[i : i + 1], 2, config)[0] for i in range(3)])
        assert torch.equal(prototypes.vectors[0, : len(cells)], cells)
        assert torch.equal(prototypes.vectors[0, len(cells) :], masked_mean(support, masks)[:3])


@ALL
def test_a_repeated_shot_changes_nothing(kind: str) -> None:
    query, support, masks = random_episode(1, 1)
    model = model_with(head(kind))
    once = model.compare(query, support, masks, 2)
    twice = model.compare(query, support.repeat(2, 1, 1, 1), masks.repeat(2, 1, 1), 2)
    assert torch.allclose(once, twice, atol=1e-12)


@ALL
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_training_and_inference_score_alike(kind: str, data: st.DataObject) -> None:
    """`compare` with some slices as support views = `score_classes` among several organs, for the group of those."""
    draw = data.draw
    slices, organs = draw(st.integers(1, 4), "slices"), draw(st.integers(1, 3), "organs")
    window = draw(st.sampled_from((1, 2, 4)), "window")
    config = head(kind, train_window=draw(st.sampled_from((2, 4)), "train_window"))
    query, support, _ = random_episode(1, slices, draw(st.integers(0, 1000), "seed"))
    model, groups = model_with(config), []
    for _ in range(organs):
        masks = torch.zeros(slices, 8, 8, dtype=torch.float64)
        for mask in masks:
            top, left = draw(st.integers(0, 7)), draw(st.integers(0, 7))
            height, width = draw(st.integers(0, 8)), draw(st.integers(0, 8))
            mask[top : top + height, left : left + width] = draw(st.sampled_from((0.25, 0.75, 1.0, 1.0)))
        used = draw(st.lists(st.integers(0, slices - 1), min_size=1, max_size=slices, unique=True), "used")
        groups.append((masks, used, ()))
    vectors, member = prototypes_of_organs(support, groups, window, config)
    assert member.shape == (len(vectors), 2 * organs)
    together = score_classes(query, vectors, member, config)
    for index, (masks, used, _) in enumerate(groups):
        alone = model.compare(query, support[used], masks[used], window)
        assert torch.allclose(together[:, 2 * index : 2 * index + 2], alone, atol=1e-10)


def test_the_bank_has_each_cell_once() -> None:
    _, support, masks = random_episode(1, 3)
    groups = [(masks, (0, 1), ()), (1 - masks, (2,), ()), (masks, (1,), ())]
    pooled = 3 * 16 + 4
    for kind, count in zip(KINDS, (pooled, pooled, pooled, 6, 3 * 64), strict=True):
        vectors, member = prototypes_of_organs(support, groups, 2, head(kind, train_window=2))
        assert len(vectors) == len(member) == count


@ALL
def test_prototypes_of_groups_at_once_equal_one_at_a_time(kind: str) -> None:
    _, support, masks = random_episode(1, 4)
    config = head(kind)
    slices = torch.tensor([[0, 1], [3, 2]])
    for foreground in (False, True):
        both = select_prototypes(support, masks, slices, 2, config, foreground)
        for index in range(2):
            one = select_prototypes(support, masks, slices[index : index + 1], 2, config, foreground)
            for name in ("local", "whole", "exists"):
                assert torch.equal(getattr(both, name)[index], getattr(one, name)[0])


def test_masks_are_sampled_at_the_centre_of_a_cell() -> None:
    """The mean of the central 2 x 2 of 8 x 8 pixels: a small mask can vanish, as in the reference."""
    mask = torch.zeros(1, 64, 64)
    mask[0, 0:3, 0:3] = 1
    mask[0, 11:13, 19:21] = 1
    found = masks_to_features(mask, (8, 8))
    assert found[0, 0, 0] == 0
    assert found[0, 1, 2] == 1
    assert found.sum() == 1


def test_the_masked_mean_of_nothing_is_zero() -> None:
    features = torch.ones(1, 3, 4, 4)
    assert not masked_mean(features, torch.zeros(1, 4, 4)).any()
