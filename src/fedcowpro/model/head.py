"""The prototype heads' scores: how similar each query pixel is to the prototypes of a class.

Sources: CoWPro, arXiv 2408.06235; SSL-ALPNet, arXiv 2007.09886; PANet, arXiv 1908.06391. With CoWPro's centred
prototypes the weighted sum of the scores equals the score of the weighted sum of prototypes, so no prototype per
pixel is ever built.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedcowpro.config import HeadConfig
from fedcowpro.model.prototypes import PrototypeSet

_NORM_FLOOR = 1e-4
_PIXELS = 256  # compared at once


def score(query: Float[Tensor, "b c h w"], prototypes: PrototypeSet, config: HeadConfig) -> Float[Tensor, "b h w"]:
    """Similarity of every query pixel to the prototypes of a class, in -temperature..temperature.

    With prototypes p_j, query vector q and temperature T, s_j is corr(q, p_j) for `cowpro` and `cowpro-raw`, else
    cos(q, p_j), and w = softmax(T s).
    `cowpro`, `alpnet`, `panet`: sum_j w_j T s_j (`panet` has one prototype, so this is T s_1).
    `cowpro-raw`: T cos(q, sum_j w_j p_j). `nearest-support`: T max_j s_j.
    A class without any prototype scores 0 everywhere: similarity 0, no evidence either way.
    """
    pixels = query.flatten(2).transpose(1, 2)
    scores = config.temperature * _direction(pixels, config) @ _direction(prototypes.vectors, config).transpose(1, 2)
    exists = prototypes.valid.any(1)
    # Classes without a prototype keep finite logits (their result is overwritten), so that no NaN enters a gradient.
    keep = prototypes.valid | ~exists[:, None]
    logits = scores.masked_fill(~keep[:, None, :], float("-inf"))
    if config.kind == "nearest-support":
        result = logits.amax(-1)
    else:
        weights = logits.softmax(dim=-1)
        if config.kind == "cowpro-raw":
            result = config.temperature * (_unit(pixels) * _unit(weights @ prototypes.vectors)).sum(-1)
        else:
            result = (weights * scores).sum(-1)
    return (result * exists[:, None]).unflatten(1, query.shape[-2:])


def score_classes(
    query: Float[Tensor, "b c h w"],
    vectors: Float[Tensor, "p c"],
    member: Bool[Tensor, "p m"],
    config: HeadConfig,
) -> Float[Tensor, "b m h w"]:
    """`score` of M classes whose prototypes are among the same P vectors, with one matrix of similarities for all.

    Column m of `member` says which vectors are prototypes of class m.
    """
    pixels = query.flatten(2).transpose(1, 2)
    if config.kind in ("nearest-support", "cowpro-raw"):
        of_slice = _nearest if config.kind == "nearest-support" else _mixed
        # A slice at a time: the matrix of similarities is some ten megabytes.
        result = torch.cat([of_slice(part, vectors, member, config) for part in pixels.split(1)]).transpose(1, 2)
    else:
        result = _weighted(pixels, vectors, member, config)
    return result.unflatten(2, query.shape[-2:])


def _weighted(
    pixels: Float[Tensor, "b x c"], vectors: Float[Tensor, "p c"], member: Bool[Tensor, "p m"], config: HeadConfig
) -> Float[Tensor, "b m x"]:
    """`score` of the heads that weigh their prototypes' scores by a softmax.

    Some pixels at a time and in the same memory, so that similarities and weights stay in the processor's cache.
    """
    directions, classes = config.temperature * _direction(vectors, config), member.to(pixels.dtype).T.contiguous()
    space = pixels.new_empty(2, len(vectors) * min(_PIXELS, pixels.shape[1]))
    result = pixels.new_empty(len(pixels), len(classes), pixels.shape[1])
    for of_slice, out in zip(_direction(pixels, config), result, strict=True):
        for part, sums in zip(of_slice.split(_PIXELS), out.split(_PIXELS, dim=1), strict=True):
            scores, weights = (one[: len(vectors) * len(part)].view(len(vectors), -1) for one in space)
            torch.mm(directions, part.T, out=scores)
            torch.exp(scores, out=weights)  # neither overflows nor vanishes: |score| <= temperature <= 80
            totals = (classes @ weights).clamp_min(torch.finfo(weights.dtype).tiny)
            torch.div(classes @ weights.mul_(scores), totals, out=sums)
    return result


def _mixed(
    pixels: Float[Tensor, "b x c"], vectors: Float[Tensor, "p c"], member: Bool[Tensor, "p m"], config: HeadConfig
) -> Float[Tensor, "b x m"]:
    """`score` of `cowpro-raw`: the prototypes themselves are weighed."""
    scores = config.temperature * _direction(pixels, config) @ _direction(vectors, config).T
    weights = scores.exp()
    totals = (weights @ member.to(scores.dtype)).clamp_min(torch.finfo(scores.dtype).tiny)
    return config.temperature * _similarity_to_mixtures(pixels, weights, vectors, member, totals)


def _nearest(
    pixels: Float[Tensor, "b x c"], vectors: Float[Tensor, "p c"], member: Bool[Tensor, "p m"], config: HeadConfig
) -> Float[Tensor, "b x m"]:
    """T times the largest similarity to a vector of each class; 0 for a class without any."""
    pixels, vectors = config.temperature * _direction(pixels, config), _direction(vectors, config)
    result = pixels.new_full((*pixels.shape[:2], member.shape[1]), float("-inf"))
    for index, classes in _alike(member):
        best = (pixels @ vectors[index].T).amax(-1, keepdim=True)
        result = torch.where(classes, result.maximum(best), result)
    return torch.where(member.any(0), result, 0.0)


def _similarity_to_mixtures(
    pixels: Float[Tensor, "b x c"],
    weights: Float[Tensor, "b x p"],
    vectors: Float[Tensor, "p c"],
    member: Bool[Tensor, "p m"],
    totals: Float[Tensor, "b x m"],
) -> Float[Tensor, "b x m"]:
    """Cosine of each pixel with the weighted mean of each class's vectors."""
    mixtures = [torch.zeros_like(pixels) for _ in range(member.shape[1])]
    for index, classes in _alike(member):
        part = weights[..., index] @ vectors[index]
        for number in classes.nonzero()[:, 0].tolist():
            mixtures[number] = mixtures[number] + part
    directions = _unit(torch.stack(mixtures, dim=2) / totals[..., None])
    return (_unit(pixels)[:, :, None] * directions).sum(-1)


def _alike(member: Bool[Tensor, "p m"]) -> Iterator[tuple[Int[Tensor, " k"], Bool[Tensor, " m"]]]:
    """Vectors that are prototypes of the same classes, and those classes: each vector once, in few parts."""
    patterns, numbers = member.unique(dim=0, return_inverse=True)
    for number, classes in enumerate(patterns):
        if classes.any():
            yield (numbers == number).nonzero()[:, 0], classes


def _direction(vectors: Tensor, config: HeadConfig) -> Tensor:
    """Unit vectors whose dot products are the head's similarity: correlation over channels, or cosine."""
    if config.kind in ("cowpro", "cowpro-raw"):
        vectors = vectors - vectors.mean(-1, keepdim=True)
    return _unit(vectors)


def _unit(vectors: Tensor) -> Tensor:
    # The clamp under the root keeps the gradient of the zero vector finite.
    return vectors / vectors.square().sum(-1, keepdim=True).clamp_min(_NORM_FLOOR**2).sqrt()
