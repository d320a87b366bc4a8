"""Scores of the prototype heads: as naive implementations have them, and defined in every empty case."""

from __future__ import annotations

import pytest
import torch
from head_cases import KINDS, head, model_with, random_episode
from torch import Tensor

from fedcowpro.config import HeadConfig, LossConfig
from fedcowpro.model.head import score, score_classes
from fedcowpro.model.prototypes import PrototypeSet, prototypes_of_class
from fedcowpro.training.losses import episode_losses, feature_losses

ALL = pytest.mark.parametrize("kind", KINDS)
CENTRED = ("cowpro", "cowpro-raw")


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def correlation(a: Tensor, b: Tensor) -> Tensor:
    return cosine(a - a.mean(), b - b.mean())


def naive(q: Tensor, prototypes: list[Tensor], config: HeadConfig) -> Tensor:
    """One pixel, as the papers' texts have it: weights, then a prototype for this pixel, then a score."""
    similarity = correlation if config.kind in CENTRED else cosine
    found = torch.stack([similarity(q, p) for p in prototypes])
    if config.kind == "nearest-support":
        return config.temperature * found.max()
    weights = (config.temperature * found).softmax(0)
    if config.kind == "cowpro-raw":
        return config.temperature * cosine(q, torch.einsum("p,pc->c", weights, torch.stack(prototypes)))
    centred = [p - p.mean() if config.kind in CENTRED else p for p in prototypes]
    mixed = torch.einsum("p,pc->c", weights, torch.stack([p / p.norm() for p in centred]))
    q = q - q.mean() if config.kind in CENTRED else q
    return config.temperature * q @ mixed / q.norm()


@ALL
@pytest.mark.parametrize("foreground", [False, True])
def test_equals_a_prototype_for_each_pixel(kind: str, foreground: bool) -> None:
    config = head(kind)
    query, support, masks = random_episode(2, 1)
    prototypes = prototypes_of_class(support, masks, 1, 2, config, foreground)
    found = score(query, prototypes, config)
    for index in range(2):
        vectors = list(prototypes.vectors[index][prototypes.valid[index]])
        expected = [naive(q, vectors, config) for q in query[index].flatten(1).T]
        assert torch.allclose(found[index].flatten(), torch.stack(expected), atol=1e-10)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_at_once_equal_one_class_at_a_time(kind: str, dtype: torch.dtype) -> None:
    config = head(kind)
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(3, 6, 4, 5, generator=generator).to(dtype)
    vectors = torch.randn(20, 6, generator=generator).to(dtype)
    member = torch.rand(20, 4, generator=generator) < 0.3
    member[:, 2] = False  # a class without any prototype
    member[:, 3] = torch.arange(20) == 7  # and one with a single one
    together = score_classes(query, vectors, member, config)
    assert together.shape == (3, 4, 4, 5)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for index in range(4):
        prototypes = PrototypeSet(vectors.expand(3, -1, -1), member[:, index].expand(3, -1))
        assert torch.allclose(together[:, index], score(query, prototypes, config), atol=tolerance)
    assert not together[:, 2].any()


@ALL
def test_far_prototypes_are_not_lost_in_float32(kind: str) -> None:
    """A class of which every prototype points the other way, beside one that fits: weights differ by exp(-40)."""
    query = torch.tensor([1.0, -1.0, 0.0, 0.0]).reshape(1, 4, 1, 1)
    vectors = torch.tensor([[1.0, -1.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0]])
    scores = score_classes(query, vectors, torch.eye(2, dtype=torch.bool), head(kind))[0, :, 0, 0]
    assert scores.tolist() == pytest.approx([20, -20], abs=1e-4)


@ALL
def test_scores_ignore_a_factor_and_those_of_cowpro_an_offset_of_features(kind: str) -> None:
    config = head(kind, temperature=7.0)
    query, support, masks = random_episode(1, 1)
    prototypes = prototypes_of_class(support, masks, 1, 2, config, foreground=True)
    found = score(query, prototypes, config)
    assert torch.allclose(score(3 * query, prototypes, config), found, atol=1e-10)
    # The raw mixture is compared by cosine, so only its weights ignore the offset.
    assert torch.allclose(score(query + 5, prototypes, config), found, atol=1e-10) == (kind == "cowpro")
    assert 3 < float(found.abs().max()) <= 7


def test_one_prototype_scores_alike_in_all_heads_of_cosine() -> None:
    query, support, _ = random_episode(1, 1)
    prototypes = PrototypeSet(support[:, :, :1, 0].transpose(1, 2), torch.ones(1, 1, dtype=torch.bool))
    expected = 20 * torch.nn.functional.cosine_similarity(query, support[:, :, :1, :1])
    for kind in ("cowpro-raw", "alpnet", "panet", "nearest-support"):
        assert torch.allclose(score(query, prototypes, head(kind)), expected, atol=1e-12)
    assert not torch.allclose(score(query, prototypes, head("cowpro")), expected, atol=0.1)


def test_the_nearest_support_finds_itself() -> None:
    """Segmenting the support with itself gives its own mask, where a mean of two looks fits neither."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(1, 8, 8)
    masks[:, 2:5, 1:7] = 1
    one, other, rest = torch.randn(3, 6, generator=generator)
    support = rest[None, :, None, None].repeat(1, 1, 8, 8)
    support[:, :, 2:5, 1:4], support[:, :, 2:5, 4:7] = one[:, None, None], other[:, None, None]
    scores = model_with(head("nearest-support")).compare(support, support, masks, 4)
    assert torch.equal(scores.argmax(1), masks.long())
    assert torch.allclose(scores[0].amax(0), torch.tensor(20.0))
    mean = model_with(head("panet")).compare(support, support, masks, 4)
    assert float(mean[0, 1][masks[0] > 0].max()) < 19.5


def areas(area: str) -> Tensor:
    """Masks (2, 8, 8) of two episodes, the second of another kind in the same batch."""
    masks = torch.zeros(2, 8, 8, dtype=torch.float64)
    if area == "everywhere":
        masks += 1
    elif area == "too small":
        masks[:, 3, 3] = 1
    elif area == "thin":
        masks[:, 3, 3] = 0.2  # covers no feature pixel by half
    masks[1, :4] = 1 - masks[1, :4]
    return masks


@ALL
@pytest.mark.parametrize("area", ["everywhere", "nowhere", "too small", "thin"])
def test_empty_cases_have_finite_scores_and_gradients(kind: str, area: str) -> None:
    query, support, _ = random_episode(2, 1)
    query.requires_grad_(), support.requires_grad_()
    scores = model_with(head(kind)).compare(query, support, areas(area), 4)
    scores.square().sum().backward()
    assert scores.isfinite().all()
    assert query.grad is not None
    assert support.grad is not None
    assert query.grad.isfinite().all()
    assert support.grad.isfinite().all()
    if area == "everywhere":
        assert not scores[0, 0].any()  # no background: no evidence either way
        assert scores[0, 1].any()
    if area == "nowhere":
        assert not scores[0, 1].any()  # the masked mean of nothing is zero
        assert scores[0, 0].any()
    if area in ("too small", "thin"):
        assert scores[0, 1].any()  # by the masked mean
    assert scores[1].any()


@ALL
def test_constant_features_have_finite_gradients(kind: str) -> None:
    """Zero vectors, and for correlation those without variance, have no direction: score 0, gradient finite."""
    query, support, masks = random_episode(1, 1)
    query, support = torch.full_like(query, 2.0).requires_grad_(), torch.zeros_like(support).requires_grad_()
    for one, other in ((query, support), (support, query)):
        scores = model_with(head(kind)).compare(one, other, masks, 2)
        gradients = torch.autograd.grad(scores.sum(), (query, support))
        assert not scores.any()
        assert all(gradient.isfinite().all() for gradient in gradients)


@ALL
@pytest.mark.parametrize("side", [1, 3], ids=["small mask", "large mask"])
def test_gradients_are_those_of_the_function(kind: str, side: int) -> None:
    """Two support views, both classes; a small mask has a prototype of one pixel, and takes `alpnet`'s fallback."""
    query, support, _ = random_episode(1, 2, channels=3, side=4)
    masks = torch.zeros(2, 4, 4, dtype=torch.float64)
    masks[:, :side, :side] = 1
    model = model_with(head(kind, train_window=2, threshold=0.4))

    def run(q: Tensor, s: Tensor) -> Tensor:
        return model.compare(q, s, masks, 1)

    assert torch.autograd.gradcheck(run, (query.requires_grad_(), support.requires_grad_()))


@ALL
def test_every_head_teaches_the_encoder(kind: str) -> None:
    model = model_with(head(kind, train_window=2))
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, 64, 64, dtype=torch.long)
    masks[0, 8:40, 12:44], masks[1, 16:48, 12:44] = 1, 1
    images = torch.randn(2, 1, 64, 64, generator=generator) * 0.3 + 2 * masks[:, None]
    terms, logits = episode_losses(model, images[:1], masks[:1], images[1:], masks[1:], LossConfig())
    assert logits.isfinite().all()
    gradients = torch.autograd.grad(terms["total"], list(model.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-6


@ALL
def test_a_step_downhill_lowers_the_loss(kind: str) -> None:
    model = model_with(head(kind, train_window=2))
    query, support, _ = random_episode(1, 1)
    masks = torch.zeros(1, 64, 64, dtype=torch.long)
    masks[:, 8:40, 16:56] = 1
    leaves = support.requires_grad_(), query.requires_grad_()
    before = feature_losses(model, support, masks, query, masks, LossConfig())[0]["total"]
    steps = torch.autograd.grad(before, leaves)
    length = torch.stack([step.square().sum() for step in steps]).sum().sqrt()
    moved = [leaf - 1e-3 * step / length for leaf, step in zip(leaves, steps, strict=True)]
    after = feature_losses(model, moved[0], masks, moved[1], masks, LossConfig())[0]["total"]
    assert after.item() < before.item()
