"""The prototype head equals the reference and a naive implementation, and has an answer to every empty case."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from common import TINY, Arrays
from fedcowpro.config import HeadConfig, LossConfig
from fedcowpro.losses import feature_losses
from fedcowpro.nn.head import Bag, build_bag, masked_mean, masks_to_features, merge_shots, score, score_classes
from fedcowpro.nn.segmenter import Segmenter, build_model

OURS = ("hard", "tiny_fg_vanishes_at_32", "fg_everywhere_in_pred")
ALL = (*OURS, "regular", "small_fg_no_local_proto")
HEAD, RAW = HeadConfig(), HeadConfig(aggregate="raw")
PUBLISHED = LossConfig(spatial_dice=0, edge_dice=0)


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return build_model(TINY, 0)


def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.tensor(array, dtype=dtype)[None]


def off(found: Tensor, expected: np.ndarray) -> float:
    """Largest difference."""
    return float((found.detach()[0].double() - torch.tensor(expected, dtype=torch.float64)).abs().max())


def check_scores(model: Segmenter, arrays: Arrays, dtype: torch.dtype, tolerance: float) -> None:
    support, query = tensor(arrays["feat_support"], dtype), tensor(arrays["feat_query"], dtype)
    mask = tensor(arrays["support_fg_256"], dtype)
    for window, name in ((4, "train"), (2, "val")):
        assert off(model.compare(query, support, mask, window), arrays[f"cowpro_{name}_scores_32"]) < tolerance


def check_losses(model: Segmenter, arrays: Arrays, dtype: torch.dtype, tolerance: float, gradient: float) -> None:
    support, query = tensor(arrays["feat_support"], dtype), tensor(arrays["feat_query"], dtype)
    support.requires_grad_(), query.requires_grad_()
    masks = [tensor(arrays[name], torch.int64) for name in ("support_fg_256", "query_label_256")]
    terms, _ = feature_losses(model, support, masks[0], query, masks[1], PUBLISHED)
    terms["total"].backward()
    assert terms["cross_entropy"].item() == pytest.approx(float(arrays["cowpro_loss_ce_weighted"]), abs=tolerance)
    # The reference swallows an exception where the prediction has no background, and goes on with 0.
    alignment = np.nan_to_num(arrays["cowpro_align_ce"])
    assert terms["alignment"].item() == pytest.approx(float(alignment), abs=tolerance)
    assert support.grad is not None
    assert query.grad is not None
    assert off(support.grad, arrays["cowpro_grad_feat_support"]) < gradient
    assert off(query.grad, arrays["cowpro_grad_feat_query"]) < gradient


@pytest.mark.parametrize("case", OURS)
def test_equals_the_reference(model: Segmenter, oracle: Callable[[str], Arrays], case: str) -> None:
    arrays = oracle(f"proto_{case}")
    check_scores(model, arrays, torch.float32, 1e-5)
    check_scores(model, arrays, torch.float64, 1e-12)
    check_losses(model, arrays, torch.float32, 1e-6, 1e-6)
    check_losses(model, arrays, torch.float64, 1e-12, 1e-8)  # these gradients are kept as float32


@pytest.mark.parametrize("case", ALL)
def test_equals_the_whole_reference(model: Segmenter, golden: Callable[[str], Arrays], case: str) -> None:
    arrays = golden(f"proto_{case}")
    check_scores(model, arrays, torch.float32, 1e-5)
    check_scores(model, arrays, torch.float64, 1e-12)
    check_losses(model, arrays, torch.float32, 1e-6, 1e-6)
    check_losses(model, arrays, torch.float64, 1e-12, 1e-12)


@pytest.mark.parametrize("case", ALL)
def test_masks_and_logits_of_the_whole_reference(model: Segmenter, golden: Callable[[str], Arrays], case: str) -> None:
    arrays = golden(f"proto_{case}")
    support, query = tensor(arrays["feat_support"], torch.float64), tensor(arrays["feat_query"], torch.float64)
    foreground = tensor(arrays["support_fg_256"], torch.float64)
    assert off(masks_to_features(foreground, (32, 32)), arrays["support_fg_32"]) == 0
    masks = [tensor(arrays[name], torch.int64) for name in ("support_fg_256", "query_label_256")]
    _, logits = feature_losses(model, support, masks[0], query, masks[1], PUBLISHED)
    assert off(logits[:, :, ::4, ::4], arrays["cowpro_train_logits_256_stride4"]) < 1e-12
    np.testing.assert_array_equal(logits[0].argmax(0), arrays["cowpro_train_pred_256"])


def random_episode(batch: int, shots: int, seed: int = 0, channels: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Query features (B, C, 8, 8), support features and masks (B * shots, ...), float64."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, channels, 8, 8, generator=generator, dtype=torch.float64)
    support = torch.randn(batch * shots, channels, 8, 8, generator=generator, dtype=torch.float64)
    masks = torch.zeros(batch * shots, 8, 8, dtype=torch.float64)
    for index, mask in enumerate(masks):
        mask[index % 4 : index % 4 + 4, 2:7] = 1
    return query, support, masks


def naive(query: Tensor, prototypes: list[Tensor], config: HeadConfig) -> Tensor:
    """One slice, pixel by pixel, as the paper's text has it: weights, then a prototype for this pixel, then a score."""

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(), b - b.mean()
        return a @ b / (a.norm() * b.norm())

    out = torch.zeros(query.shape[1:], dtype=query.dtype)
    for y in range(query.shape[1]):
        for x in range(query.shape[2]):
            q = query[:, y, x]
            weights = torch.stack([config.temperature * correlation(q, p) for p in prototypes]).softmax(0)
            if config.aggregate == "raw":
                mixed = sum(w * p for w, p in zip(weights, prototypes, strict=True))
                similarity = q @ mixed / (q.norm() * mixed.norm())  # type: ignore[arg-type, union-attr]
            else:
                units = [(p - p.mean()) / (p - p.mean()).norm() for p in prototypes]
                mixed = sum(w * p for w, p in zip(weights, units, strict=True))
                similarity = (q - q.mean()) @ mixed / (q - q.mean()).norm()  # type: ignore[arg-type]
            out[y, x] = config.temperature * similarity
    return out


@pytest.mark.parametrize("config", [HEAD, RAW], ids=["centred", "raw"])
def test_equals_a_prototype_for_each_pixel(config: HeadConfig) -> None:
    query, support, masks = random_episode(2, 1)
    for with_global in (False, True):
        bag = build_bag(support, masks, 2, 0.95, with_global)
        found = score(query, bag, config)
        for index in range(2):
            prototypes = list(bag.vectors[index][bag.valid[index]])
            assert torch.allclose(found[index], naive(query[index], prototypes, config), atol=1e-10)


def test_bag_holds_covered_cells_and_the_masked_mean() -> None:
    _, support, masks = random_episode(2, 1)
    bag = build_bag(support, masks, 2, 0.95, with_global=True)
    assert bag.vectors.shape == (2, 17, 6)
    # Rows 0-3 and columns 2-6: cells (0 and 1, 1 and 2) are covered; column 3 of the cells only by half.
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0:2, 1:3] = True
    assert torch.equal(bag.valid[0, :16].reshape(4, 4), expected)
    assert bag.valid[0, 16]
    assert torch.allclose(bag.vectors[0, 5], support[0, :, 2:4, 2:4].mean((1, 2)))
    assert torch.allclose(bag.vectors[0, 16], support[0, :, 0:4, 2:7].mean((1, 2)), rtol=1e-5)
    assert len(build_bag(support, masks, 2, 0.95, with_global=False)) == 16
    half = build_bag(support, masks, 2, 0.4, with_global=False)
    assert int(half.valid[0].sum()) == 6
    exact = build_bag(support, masks * 0.5, 2, 0.5, with_global=False)
    assert not exact.valid.any()  # strictly more


@pytest.mark.parametrize("config", [HEAD, RAW], ids=["centred", "raw"])
def test_several_shots_are_one_bag(model: Segmenter, config: HeadConfig) -> None:
    query, support, masks = random_episode(2, 3)
    bags = build_bag(support, masks, 2, 0.95, with_global=True)
    merged = score(query, merge_shots(bags, 3), config)
    for index in range(2):
        parts = slice(3 * index, 3 * index + 3)
        joined = Bag(bags.vectors[parts].flatten(0, 1)[None], bags.valid[parts].flatten()[None])
        assert torch.allclose(merged[index : index + 1], score(query[index : index + 1], joined, config), atol=1e-12)
    both = model.compare(query, support, masks, 2)
    assert torch.allclose(both[:, 1], score(query, merge_shots(bags, 3), HEAD), atol=1e-12)
    one_by_one = torch.cat([model.compare(query[i : i + 1], support[3 * i : 3 * i + 3], masks[3 * i : 3 * i + 3], 2)
                            for i in range(2)])  # fmt: skip
    assert torch.allclose(both, one_by_one, atol=1e-12)


def test_a_repeated_shot_changes_nothing(model: Segmenter) -> None:
    query, support, masks = random_episode(1, 1)
    once = model.compare(query, support, masks, 2)
    twice = model.compare(query, support.repeat(2, 1, 1, 1), masks.repeat(2, 1, 1), 2)
    assert torch.allclose(once, twice, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("config", [HEAD, RAW], ids=["centred", "raw"])
def test_classes_at_once_equal_one_class_at_a_time(config: HeadConfig, dtype: torch.dtype) -> None:
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
        bag = Bag(vectors.expand(3, -1, -1), member[:, index].expand(3, -1))
        assert torch.allclose(together[:, index], score(query, bag, config), atol=tolerance)
    assert not together[:, 2].any()


def test_far_prototypes_are_not_lost_in_float32() -> None:
    """A class of which every prototype is anticorrelated, beside one that fits: weights differ by exp(-40)."""
    query = torch.tensor([1.0, -1.0, 0.0, 0.0]).reshape(1, 4, 1, 1)
    vectors = torch.tensor([[1.0, -1.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0]])
    scores = score_classes(query, vectors, torch.eye(2, dtype=torch.bool), HEAD)[0, :, 0, 0]
    assert scores.tolist() == pytest.approx([20, -20], abs=1e-4)


def test_scores_ignore_an_offset_and_a_factor_of_features() -> None:
    query, support, masks = random_episode(1, 1)
    bag = build_bag(support, masks, 2, 0.95, with_global=False)
    assert torch.allclose(score(3 * query + 5, bag, HEAD), score(query, bag, HEAD), atol=1e-10)
    assert float(score(query, bag, HEAD).abs().max()) <= HEAD.temperature


@pytest.mark.parametrize("config", [HEAD, RAW], ids=["centred", "raw"])
@pytest.mark.parametrize("area", ["everywhere", "nowhere", "too small"])
def test_empty_cases_have_finite_scores_and_gradients(config: HeadConfig, area: str) -> None:
    query, support, _ = random_episode(2, 1)
    masks = torch.zeros(2, 8, 8, dtype=torch.float64)
    if area == "everywhere":
        masks += 1
    elif area == "too small":
        masks[:, 3, 3] = 1
    masks[1, :4] = 1 - masks[1, :4]  # beside an episode of another kind in the same batch
    query.requires_grad_(), support.requires_grad_()
    background = build_bag(support, 1 - masks, 4, 0.95, with_global=False)
    foreground = build_bag(support, masks, 4, 0.95, with_global=True)
    scores = torch.stack([score(query, bag, config) for bag in (background, foreground)], dim=1)
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
    assert scores[1].any()


def test_constant_features_have_finite_gradients(model: Segmenter) -> None:
    """Vectors without variance over channels have no direction: correlation 0, gradient finite."""
    query, support, masks = random_episode(1, 1)
    query, support = torch.full_like(query, 2.0).requires_grad_(), torch.zeros_like(support).requires_grad_()
    scores = model.compare(query, support, masks, 2)
    scores.sum().backward()
    assert not scores.any()
    assert query.grad is not None
    assert support.grad is not None
    assert query.grad.isfinite().all()
    assert support.grad.isfinite().all()


@pytest.mark.parametrize("config", [HEAD, RAW], ids=["centred", "raw"])
def test_gradients_are_those_of_the_function(config: HeadConfig) -> None:
    query, support, masks = (part[..., :4, :4] for part in random_episode(1, 1, channels=4))

    def run(q: Tensor, s: Tensor) -> Tensor:
        return score(q, build_bag(s, masks, 2, 0.4, with_global=True), config)

    assert torch.autograd.gradcheck(run, (query.requires_grad_(), support.requires_grad_()))


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
