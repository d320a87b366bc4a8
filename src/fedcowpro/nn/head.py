"""CoWPro's head: local and global prototypes, weighted per query pixel by their correlation with it.

Source: CoWPro, arXiv 2408.06235; local prototypes and the alignment idea from SSL-ALPNet, arXiv 2007.09886.
The weighted sum of the scores equals the score of the weighted sum of prototypes, so no prototype per pixel
is ever built.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fedcowpro.config import HeadConfig

_NORM_FLOOR = 1e-4


@dataclass(frozen=True)
class Bag:
    """Prototypes of one class: vectors (B, P, C) and which of them exist (B, P)."""

    vectors: Float[Tensor, "b p c"]
    valid: Bool[Tensor, "b p"]

    def __len__(self) -> int:
        return self.vectors.shape[1]


def masks_to_features(masks: Float[Tensor, "b h w"], size: tuple[int, int]) -> Float[Tensor, "b fh fw"]:
    """Masks at feature resolution by bilinear sampling, as in the reference (small masks can vanish)."""
    return F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def build_bag(
    features: Float[Tensor, "b c h w"],
    masks: Float[Tensor, "b h w"],
    window: int,
    threshold: float,
    with_global: bool,
) -> Bag:
    """Prototypes of the masked area.

    Args:
        features: support features.
        masks: coverage in 0..1 at feature resolution.
        window: side of the pooling cells that become local prototypes.
        threshold: a cell counts when its mean coverage exceeds this.
        with_global: append the masked mean over the whole slice (foreground); it always counts, and is the
            zero vector, with correlation 0 to everything, when the mask is empty.
    """
    vectors = F.avg_pool2d(features, window).flatten(2).transpose(1, 2)
    valid = F.avg_pool2d(masks[:, None], window).flatten(1) > threshold
    if with_global:
        vectors = torch.cat((vectors, masked_mean(features, masks)[:, None]), dim=1)
        valid = torch.cat((valid, torch.ones_like(valid[:, :1])), dim=1)
    return Bag(vectors, valid)


def masked_mean(features: Float[Tensor, "b c h w"], masks: Float[Tensor, "b h w"]) -> Float[Tensor, "b c"]:
    """Global prototype: sum(F m) / (sum(m) + 1e-5)."""
    return torch.einsum("bchw,bhw->bc", features, masks) / (masks.sum((1, 2))[:, None] + 1e-5)


def merge_shots(bag: Bag, shots: int) -> Bag:
    """Join the bags of consecutive `shots` along the batch: (B*shots, P, C) to (B, shots*P, C)."""
    batch, count, channels = bag.vectors.shape
    return Bag(
        bag.vectors.reshape(batch // shots, shots * count, channels),
        bag.valid.reshape(batch // shots, shots * count),
    )


def score(query: Float[Tensor, "b c h w"], bag: Bag, config: HeadConfig) -> Float[Tensor, "b h w"]:
    """Similarity of every query pixel to a bag, in -temperature..temperature.

    With prototypes p_j and query vector q: s_j = corr(q, p_j), w = softmax(T s), score = sum_j w_j T s_j.
    With `aggregate: raw`, the same weights mix the original prototypes and the score is T cos(q, sum w_j p_j).
    A class without any prototype scores 0 everywhere: correlation 0, no evidence either way.
    """
    pixels = query.flatten(2).transpose(1, 2)
    scores = config.temperature * _unit(_centre(pixels)) @ _unit(_centre(bag.vectors)).transpose(1, 2)
    exists = bag.valid.any(1)
    # Bags without a prototype keep finite logits (their result is overwritten), so that no NaN enters a gradient.
    keep = bag.valid | ~exists[:, None]
    weights = scores.masked_fill(~keep[:, None, :], float("-inf")).softmax(dim=-1)
    if config.aggregate == "centred":
        result = (weights * scores).sum(-1)
    else:
        gram = bag.vectors @ bag.vectors.transpose(1, 2)
        length = ((weights @ gram) * weights).sum(-1).clamp_min(_NORM_FLOOR**2).sqrt()
        dot = (weights * (_unit(pixels) @ bag.vectors.transpose(1, 2))).sum(-1)
        result = config.temperature * dot / length
    return (result * exists[:, None]).unflatten(1, query.shape[-2:])


def score_classes(
    query: Float[Tensor, "b c h w"],
    vectors: Float[Tensor, "p c"],
    member: Bool[Tensor, "p m"],
    config: HeadConfig,
) -> Float[Tensor, "b m h w"]:
    """`score` of M classes whose bags are drawn from the same P vectors, with one correlation for all of them.

    Column m of `member` says which vectors are prototypes of class m. Sums of exponentials over a class are
    matrix products with `member`.
    """
    if config.aggregate == "raw":
        bags = (Bag(vectors.expand(len(query), -1, -1), column.expand(len(query), -1)) for column in member.T)
        return torch.stack([score(query, bag, config) for bag in bags], dim=1)
    pixels = _unit(_centre(query.flatten(2).transpose(1, 2)))
    scores = config.temperature * pixels @ _unit(_centre(vectors)).T
    # Shifted by each pixel's maximum: the smallest weight is exp(-2 temperature), far above float32's underflow.
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    columns = member.to(scores.dtype)
    result = (weights * scores) @ columns / (weights @ columns).clamp_min(torch.finfo(scores.dtype).tiny)
    return result.transpose(1, 2).unflatten(2, query.shape[-2:])


def _centre(vectors: Tensor) -> Tensor:
    return vectors - vectors.mean(-1, keepdim=True)


def _unit(vectors: Tensor) -> Tensor:
    # The clamp under the root keeps the gradient of the zero vector finite.
    return vectors / vectors.square().sum(-1, keepdim=True).clamp_min(_NORM_FLOOR**2).sqrt()
