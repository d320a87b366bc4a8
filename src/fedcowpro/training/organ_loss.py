"""What a network for organs minimises: cross-entropy and Dice that know what an annotation does not say."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedcowpro.training.pool import Pool


def organ_loss(
    logits: Float[Tensor, "b k h w"],
    labels: Tensor,
    weights: Float[Tensor, "b h w"],
    known: Bool[Tensor, "b k"],
    balance: Float[Tensor, " k"],
) -> Float[Tensor, ""]:
    """Weighted cross-entropy plus one minus the mean Dice of the organs over the batch (Milletari et al. 2016).

    Where a sample's annotation does not know an organ, its background is "background or that organ", and the organ's
    Dice leaves the sample out.

    Args:
        logits: of background and organs.
        labels: (b, h, w), 0..k.
        weights: of the voxels, 0..1.
        known: per sample; the background always is. On the CPU: what is left out must not wait for a GPU.
        balance: weight of each class in the cross-entropy.
    """
    logs = logits.log_softmax(1)
    probabilities = logs.exp()
    if not bool(known.all()):
        apart = (known & (torch.arange(known.shape[1]) > 0)).to(logits.device)
        merged = logs.masked_fill(apart[..., None, None], -math.inf)
        logs = torch.cat((merged.logsumexp(1, keepdim=True), logs[:, 1:]), 1)
    shares = balance[labels] * weights
    entropy = -(logs.gather(1, labels[:, None])[:, 0] * shares).sum() / shares.sum().clamp_min(1)
    terms = []
    for organ in range(1, logits.shape[1]):
        rows = known[:, organ].nonzero()[:, 0]
        if not len(rows):
            continue
        rows = rows.to(logits.device)
        truth, p, w = (labels[rows] == organ).float(), probabilities[rows, organ], weights[rows]
        terms.append(1 - (2 * (p * truth * w).sum() + 1) / (((p + truth) * w).sum() + 1))
    return entropy + torch.stack(terms).mean() if terms else entropy


def class_balance(pool: Pool) -> Float[Tensor, " k"]:
    """Weights of the classes: the square root of how much rarer than background each is, 1 for background.

    Without them the small organs have not begun to be learned after several hundred steps.
    """
    decided = pool.weights > 0
    counts = torch.stack([((pool.labels == k) & decided).sum() for k in range(pool.known.shape[1])]).float()
    return (counts[0] / counts.clamp_min(1)).clamp_min(1).sqrt()
