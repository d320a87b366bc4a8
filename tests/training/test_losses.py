"""Loss terms: by hand, at their bounds, and with a gradient that is the function's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from common import TINY
from fedcowpro.config import HeadConfig, LossConfig
from fedcowpro.model.segmenter import Segmenter, build_model, upsample
from fedcowpro.training.losses import (
    cross_entropy,
    edge_dice,
    edges,
    episode_losses,
    feature_losses,
    spatial_dice,
    tversky,
)

OPERATORS = ("sobel", "morphological", "laplacian")
TERMS = ("cross_entropy", "alignment", "spatial_dice", "edge_dice")


def square(size: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    mask = torch.zeros(1, size, size, dtype=dtype)
    mask[0, 4:10, 5:12] = 1
    return mask


@pytest.fixture(scope="module")
def model() -> Segmenter:
    """Its pooling cells are small enough for pictures of 64 x 64 pixels."""
    return build_model(TINY.model_copy(update={"head": HeadConfig(train_window=2)}), 0)


def episode(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two episodes of 64 x 64 pixels: a bright square on noise, moved between support and query."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 1, 64, 64, generator=generator) * 0.3
    masks = torch.zeros(4, 64, 64, dtype=torch.long)
    for index, mask in enumerate(masks):
        mask[8 + 4 * index : 40 + 4 * index, 12:44] = 1
    images += 2 * masks[:, None]
    return images[:2], masks[:2], images[2:], masks[2:]


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[0.0, 1.0]], [[2.0, -1.0]]])[None]  # (1, 2, 1, 2)
    target = torch.tensor([[[1, 0]]])
    # -log p of the right class: pixel 0 has logits (0, 2) and is foreground, pixel 1 has (1, -1) and is background.
    wrong = math.log(1 + math.exp(-2))
    assert cross_entropy(logits, target).item() == pytest.approx(wrong)
    other = torch.tensor([[[1, 1]]])
    far = math.log(1 + math.exp(2))
    assert cross_entropy(logits, other, 0.05).item() == pytest.approx((wrong + far) / 2)
    mixed = torch.tensor([[[0, 1]]])
    found = cross_entropy(logits, mixed, 0.05).item()
    assert found == pytest.approx((0.05 * math.log(1 + math.exp(2)) + far) / 1.05)


def test_cross_entropy_is_torchs_weighted_mean() -> None:
    logits, target = torch.randn(3, 2, 8, 8), torch.randint(2, (3, 8, 8))
    weight = torch.tensor([0.05, 1.0])
    expected = [torch.nn.functional.cross_entropy(logits[i : i + 1], target[i : i + 1], weight) for i in range(3)]
    assert torch.allclose(cross_entropy(logits, target, 0.05), torch.stack(expected))


def test_spatial_dice_by_hand() -> None:
    probability = torch.tensor([[[0.5, 0.25], [0.0, 1.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert spatial_dice(probability, target).item() == pytest.approx(1 - 2 * 1.5 / (1.75 + 2), abs=1e-5)


def test_tversky_by_hand() -> None:
    probability = torch.tensor([[[0.5, 0.25], [0.0, 1.0]]])
    target = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    # TP = 1.5, FP = 0.25, FN = 1.5
    expected = 1 - 1.5 / (1.5 + 0.3 * 0.25 + 0.7 * 1.5)
    assert tversky(probability, target).item() == pytest.approx(expected, abs=1e-5)
    other = 1 - 1.5 / (1.5 + 0.9 * 0.25 + 0.2 * 1.5)
    assert tversky(probability, target, 0.9, 0.2).item() == pytest.approx(other, abs=1e-5)
    assert tversky(probability, target, 0.5, 0.5).item() == pytest.approx(
        spatial_dice(probability, target).item(), abs=1e-5
    )
    empty = torch.zeros(1, 2, 2)
    assert tversky(target, target).item() == tversky(empty, empty).item() == 0
    assert tversky(1 - target, target).item() == pytest.approx(1, abs=1e-4)


def test_tversky_of_hard_masks_is_cowpros_index() -> None:
    generator = torch.Generator().manual_seed(0)
    found, truth = (torch.rand(3, 9, 9, generator=generator) < 0.4 for _ in range(2))
    right, too_much, missed = (
        (pair[0] & pair[1]).sum((1, 2)) for pair in ((found, truth), (found, ~truth), (~found, truth))
    )
    expected = 1 - right / (right + 0.3 * too_much + 0.7 * missed)
    assert torch.allclose(tversky(found.float(), truth.float()), expected, atol=1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
def test_dice_terms_are_0_when_right_and_1_when_disjoint(operator: str) -> None:
    mask = square()
    assert spatial_dice(mask, mask).item() == pytest.approx(0, abs=1e-6)
    assert edge_dice(mask, mask, operator).item() == pytest.approx(0, abs=1e-6)
    other = torch.zeros_like(mask)
    other[0, 13:, :3] = 1
    assert spatial_dice(other, mask).item() == pytest.approx(1, abs=1e-5)
    assert edge_dice(other, mask, operator).item() == pytest.approx(1, abs=1e-4)
    soft = torch.nn.functional.avg_pool2d(mask[:, None], 3, 1, 1)[:, 0]
    assert edge_dice(soft, soft, operator).item() == pytest.approx(0, abs=1e-5)  # a soft edge that is right
    assert 0 < edge_dice(soft, mask, operator).item() < 1


@pytest.mark.parametrize("operator", OPERATORS)
def test_empty_masks_have_finite_terms(operator: str) -> None:
    empty = torch.zeros(1, 8, 8)
    probability = torch.full((1, 8, 8), 0.3, requires_grad=True)
    for target in (empty, empty + 1):
        total = spatial_dice(probability, target) + edge_dice(probability, target, operator)
        assert total.isfinite().all()
        (gradient,) = torch.autograd.grad(total.sum(), probability)
        assert gradient.isfinite().all()
    assert spatial_dice(empty, empty).item() == pytest.approx(0)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_straight_step_has_edges_of_strength_1(operator: str) -> None:
    for step in (torch.zeros(1, 6, 8), torch.zeros(1, 8, 6).transpose(1, 2)):
        step[:, :, 4:] = 1
        for picture in (step, step.transpose(1, 2).contiguous(), 1 - step):
            found = edges(picture, operator)
            assert found.max().item() == pytest.approx(1, abs=1e-5)
            # Two pixels wide, along the whole step; the frame of the picture is no edge.
            assert int((found > 0.5).sum()) == 2 * 6
            assert found.min().item() == pytest.approx(0, abs=1e-5)


def test_sobel_is_the_length_of_the_gradient() -> None:
    y, x = torch.meshgrid(torch.arange(7.0), torch.arange(7.0), indexing="ij")
    found = edges((3 * x + 4 * y)[None], "sobel")[0, 1:-1, 1:-1]
    assert torch.allclose(found, torch.full_like(found, 10.0))  # a central difference of two pixels


@pytest.mark.parametrize("operator", OPERATORS)
def test_gradients_of_mask_terms_are_those_of_the_functions(operator: str) -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(2, 5, 5, generator=generator, dtype=torch.float64).requires_grad_()
    target = (torch.rand(2, 5, 5, generator=generator) < 0.5).double()
    assert torch.autograd.gradcheck(lambda p: spatial_dice(p, target), probability)
    assert torch.autograd.gradcheck(lambda p: tversky(p, target), probability)
    assert torch.autograd.gradcheck(lambda p: edge_dice(p, target, operator), probability)


@pytest.mark.parametrize("term", ["spatial_dice", "edge_dice", "tversky"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_mask_terms_teach_the_encoder(model: Segmenter, term: str, operator: str) -> None:
    """The reference's Tversky term is taken from the argmax and has no gradient; these have one."""
    config = LossConfig.model_validate({**dict.fromkeys(TERMS, 0.0), term: 1.0, "edge_operator": operator})
    terms, _ = episode_losses(model, *episode(), config)
    assert set(terms) == {term, "total"}
    gradients = torch.autograd.grad(terms["total"], list(model.encoder.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-6


def test_a_step_downhill_lowers_each_term(model: Segmenter) -> None:
    support, support_mask, query, query_mask = episode()
    features = model.encode(torch.cat((support, query))).detach()
    for term in (*TERMS, "tversky"):
        config = LossConfig.model_validate({**dict.fromkeys(TERMS, 0.0), term: 1.0})
        leaves = [part.clone().requires_grad_() for part in features.chunk(2)]
        before = feature_losses(model, leaves[0], support_mask, leaves[1], query_mask, config)[0]["total"]
        steps = torch.autograd.grad(before, leaves)
        length = torch.stack([step.square().sum() for step in steps]).sum().sqrt()
        moved = [leaf - 1e-2 * step / length for leaf, step in zip(leaves, steps, strict=True)]
        after = feature_losses(model, moved[0], support_mask, moved[1], query_mask, config)[0]["total"]
        assert after.item() < before.item(), term


@pytest.mark.parametrize("off", TERMS)
def test_each_term_can_be_switched_off_and_weighted(model: Segmenter, off: str) -> None:
    weights = {"cross_entropy": 2.0, "alignment": 3.0, "spatial_dice": 0.5, "edge_dice": 0.25}
    full, _ = episode_losses(model, *episode(), LossConfig.model_validate(weights))
    total = sum(weights[name] * full[name].item() for name in TERMS)
    assert full["total"].item() == pytest.approx(total, rel=1e-5)
    less, _ = episode_losses(model, *episode(), LossConfig.model_validate({**weights, off: 0.0}))
    assert set(less) == {*TERMS, "total"} - {off}
    assert less["total"].item() == pytest.approx(total - weights[off] * full[off].item(), rel=1e-4)


def test_background_weight_and_dice_on_alignment_have_an_effect(model: Segmenter) -> None:
    def terms(**changes: Any) -> dict[str, float]:
        found, _ = episode_losses(model, *episode(), LossConfig.model_validate(changes))
        return {name: value.item() for name, value in found.items()}

    plain, heavy, both = terms(), terms(background_weight=1.0), terms(dice_on_alignment=True)
    assert heavy["cross_entropy"] != pytest.approx(plain["cross_entropy"], rel=1e-3)
    assert heavy["alignment"] == pytest.approx(plain["alignment"])  # unweighted in either case
    assert both["alignment"] > plain["alignment"]
    assert both["spatial_dice"] == pytest.approx(plain["spatial_dice"])
    assert "tversky" not in plain
    more, missed = terms(tversky=2.0), terms(tversky=2.0, tversky_alpha=0.1, tversky_beta=0.9)
    assert more["total"] == pytest.approx(plain["total"] + 2 * more["tversky"], rel=1e-5)
    assert more["alignment"] == pytest.approx(plain["alignment"])
    assert missed["tversky"] != pytest.approx(more["tversky"], rel=1e-3)
    aligned = terms(tversky=2.0, spatial_dice=0, edge_dice=0, dice_on_alignment=True)
    assert plain["alignment"] < aligned["alignment"] < plain["alignment"] + 2


def test_support_views_count_together_and_each_is_aligned(model: Segmenter) -> None:
    model.eval()
    support, support_mask, query, query_mask = episode()
    thrice = (part.repeat_interleave(3, 0) for part in (support, support_mask))
    one, logits = episode_losses(model, support, support_mask, query, query_mask, LossConfig())
    same, repeated = episode_losses(model, *thrice, query, query_mask, LossConfig())
    # The same view three times changes no weighted mean of prototypes.
    assert torch.allclose(logits, repeated, atol=1e-3)
    for name in one:
        assert same[name].item() == pytest.approx(one[name].item(), abs=1e-3)
    both, both_mask = support.flip(0), support_mask.flip(0)
    pairs = (torch.stack((a, b), 1).flatten(0, 1) for a, b in ((support, both), (support_mask, both_mask)))
    only = LossConfig(cross_entropy=0, spatial_dice=0, edge_dice=0)
    features = [model.encode(part) for part in (support, both)]
    terms, _ = episode_losses(model, *pairs, query, query_mask, only)
    # The prediction from both support views is the mask with which the query segments either of them.
    window = model.config.head.train_window
    joint = torch.stack(features, 1).flatten(0, 1)
    masks = torch.stack((support_mask, both_mask), 1).flatten(0, 1).float()
    encoded = model.encode(query)
    predicted = model.compare(encoded, joint, masks, window).argmax(1).float()
    losses = [
        cross_entropy(upsample(model.compare(part, encoded, predicted, window), (64, 64)), mask)
        for part, mask in zip(features, (support_mask, both_mask), strict=True)
    ]
    model.train()
    assert terms["alignment"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_a_batch_is_the_mean_of_its_episodes(model: Segmenter) -> None:
    model.eval()  # normalisation by the batch would tie episodes together
    parts = episode()
    together, logits = episode_losses(model, *parts, LossConfig())
    alone = [episode_losses(model, *(part[i : i + 1] for part in parts), LossConfig())[0] for i in range(2)]
    model.train()
    assert logits.shape == (2, 2, 64, 64)
    for name, value in together.items():
        assert value.item() == pytest.approx((alone[0][name] + alone[1][name]).item() / 2, abs=1e-5)


def test_an_episode_without_predicted_background_does_not_align(model: Segmenter) -> None:
    """Its alignment counts 0, and its neighbour in the batch is not touched."""
    _, support_mask, _, query_mask = episode()
    support = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    small = support_mask[:, 4::8, 4::8].float()[:, None]
    direction = torch.randn(1, 8, 1, 1, generator=torch.Generator().manual_seed(1))
    support = support * 0.1 + direction * small - direction * (1 - small)
    query = support.clone()
    query[1] = direction  # looks like foreground everywhere
    query.requires_grad_()
    config = LossConfig(cross_entropy=0, spatial_dice=0, edge_dice=0)
    both, _ = feature_losses(model, support, support_mask, query, query_mask, config)
    first, _ = feature_losses(model, support[:1], support_mask[:1], query[:1], query_mask[:1], config)
    assert both["alignment"].item() == pytest.approx(first["alignment"].item() / 2, rel=1e-4)
    (gradient,) = torch.autograd.grad(both["total"], query)
    assert gradient.isfinite().all()
    assert gradient[0].any()
    assert not gradient[1].any()
