"""Losses of FedCoWPro as pure functions; every term has a gradient.

L = CE_w + L_align (CoWPro) + L_ds (spatial Dice) + L_es (edge Dice) (FedCoWPro, arXiv 2503.23507). The paper's
abstract names the two Dice terms without formulas; those below are our reading (docs/method.md). A Tversky term can be
added; CoWPro's code has it on the argmax, where it has no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fedcowpro.config import LossConfig
from fedcowpro.model.segmenter import Segmenter, upsample

_EPS = 1e-5


def cross_entropy(
    logits: Float[Tensor, "b 2 h w"], target: Int[Tensor, "b h w"], background_weight: float = 1.0
) -> Float[Tensor, " b"]:
    """Two-class cross-entropy per episode: weighted mean over pixels, divided by the sum of the weights."""
    weight = logits.new_tensor([background_weight, 1.0])
    loss = F.cross_entropy(logits, target, weight=weight, reduction="none").sum((1, 2))
    return loss / weight[target].sum((1, 2))


def spatial_dice(probability: Float[Tensor, "b h w"], target: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """1 - (2 sum p y + e) / (sum p + sum y + e) per episode."""
    overlap = (probability * target).sum((1, 2))
    return 1 - (2 * overlap + _EPS) / (probability.sum((1, 2)) + target.sum((1, 2)) + _EPS)


def tversky(
    probability: Float[Tensor, "b h w"], target: Float[Tensor, "b h w"], alpha: float = 0.3, beta: float = 0.7
) -> Float[Tensor, " b"]:
    """1 - (TP + e) / (TP + alpha FP + beta FN + e) per episode (Salehi et al. 2017, arXiv 1706.05721).

    Soft counts: TP = sum p y, FP = sum p (1 - y), FN = sum (1 - p) y. With alpha = beta = 1/2 this is the spatial Dice
    term, but for e.
    """
    right = (probability * target).sum((1, 2))
    too_much, missed = probability.sum((1, 2)) - right, target.sum((1, 2)) - right
    return 1 - (right + _EPS) / (right + alpha * too_much + beta * missed + _EPS)


def edge_dice(
    probability: Float[Tensor, "b h w"], target: Float[Tensor, "b h w"], operator: str = "sobel"
) -> Float[Tensor, " b"]:
    """Dice between edge maps E with squared denominator: 1 - (2 sum E_p E_y + e) / (sum E_p^2 + sum E_y^2 + e).

    The squared form is 0 for a perfect soft edge map and cannot leave 0..1.
    """
    a, b = edges(probability, operator), edges(target, operator)
    return 1 - (2 * (a * b).sum((1, 2)) + _EPS) / (a.square().sum((1, 2)) + b.square().sum((1, 2)) + _EPS)


def edges(maps: Float[Tensor, "b h w"], operator: str) -> Float[Tensor, "b h w"]:
    """Edge strength, non-negative; a unit step across a straight edge gives 1.

    operator: `sobel` (gradient magnitude), `morphological` (3x3 maximum minus minimum) or `laplacian`
    (magnitude of the 4-neighbour Laplacian).
    """
    x = F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")
    if operator == "morphological":
        return (F.max_pool2d(x, 3, 1) + F.max_pool2d(-x, 3, 1))[:, 0]
    if operator == "laplacian":
        kernel = maps.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
        return F.conv2d(x, kernel)[:, 0].abs()
    across = maps.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
    gradient = F.conv2d(x, torch.stack((across, across.T))[:, None])
    # The tiny constant keeps the root differentiable where the map is flat.
    return (gradient.square().sum(1) + 1e-12).sqrt()


def episode_losses(
    model: Segmenter,
    support: Float[Tensor, "n 1 h w"],
    support_mask: Int[Tensor, "n h w"],
    query: Float[Tensor, "b 1 h w"],
    query_mask: Int[Tensor, "b h w"],
    config: LossConfig,
) -> tuple[dict[str, Tensor], Float[Tensor, "b 2 h w"]]:
    """Mean loss terms of a batch of episodes and the query's logits at image resolution.

    Terms whose weight is 0 are not computed. `total` is the weighted sum. There are n = B * views support slices; the
    views of a query are consecutive.
    """
    features = model.encode(torch.cat((support, query)))
    support_features, query_features = features.split((len(support), len(query)))
    return feature_losses(model, support_features, support_mask, query_features, query_mask, config)


def feature_losses(
    model: Segmenter,
    support: Float[Tensor, "n c fh fw"],
    support_mask: Int[Tensor, "n h w"],
    query: Float[Tensor, "b c fh fw"],
    query_mask: Int[Tensor, "b h w"],
    config: LossConfig,
) -> tuple[dict[str, Tensor], Float[Tensor, "b 2 h w"]]:
    """As `episode_losses`, from features."""
    size = (query_mask.shape[-2], query_mask.shape[-1])
    window = model.config.head.train_window
    scores = model.compare(query, support, support_mask.to(query.dtype), window)
    logits = upsample(scores, size)
    terms = {}
    if config.cross_entropy:
        terms["cross_entropy"] = cross_entropy(logits, query_mask, config.background_weight)
    terms |= _mask_terms(logits, query_mask, config)
    if config.alignment:
        terms["alignment"] = _alignment(model, support, support_mask, query, scores, window, config)
    means = {name: value.mean() for name, value in terms.items()}
    weights = config.model_dump()
    means["total"] = torch.stack([weights[name] * value for name, value in means.items()]).sum()
    return means, logits


def _mask_terms(logits: Tensor, target: Tensor, config: LossConfig) -> dict[str, Tensor]:
    probability, truth = logits.softmax(1)[:, 1], target.to(logits.dtype)
    terms = {}
    if config.spatial_dice:
        terms["spatial_dice"] = spatial_dice(probability, truth)
    if config.edge_dice:
        terms["edge_dice"] = edge_dice(probability, truth, config.edge_operator)
    if config.tversky:
        terms["tversky"] = tversky(probability, truth, config.tversky_alpha, config.tversky_beta)
    return terms


def _alignment(
    model: Segmenter,
    support: Tensor,
    support_mask: Tensor,
    query: Tensor,
    scores: Tensor,
    window: int,
    config: LossConfig,
) -> Float[Tensor, " n"]:
    """Roles swapped (PANet): the query's hard prediction segments each of its support images.

    An episode whose prediction leaves no background prototype teaches nothing and counts 0.
    """
    predicted = scores.argmax(1).to(query.dtype)
    views = len(support) // len(query)
    if views > 1:
        query, predicted = query.repeat_interleave(views, 0), predicted.repeat_interleave(views, 0)
    pooled_background = F.avg_pool2d(1 - predicted[:, None], window).flatten(1)
    usable = (pooled_background > model.config.head.threshold).any(1)
    reverse = model.compare(support, query, predicted, window)
    logits = upsample(reverse, (support_mask.shape[-2], support_mask.shape[-1]))
    loss = cross_entropy(logits, support_mask)
    if config.dice_on_alignment:
        more = _mask_terms(logits, support_mask, config)
        loss = loss + sum(getattr(config, name) * value for name, value in more.items())
    return loss * usable
