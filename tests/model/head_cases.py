"""What the tests of heads share: their kinds, random episodes and a model to compare with."""

from __future__ import annotations

import torch
from torch import Tensor

from common import TINY
from fedcowpro.config import HeadConfig
from fedcowpro.model.segmenter import Segmenter, build_model

KINDS = ("cowpro", "cowpro-raw", "alpnet", "panet", "nearest-support")


def head(kind: str, **settings: float) -> HeadConfig:
    return HeadConfig.model_validate({"kind": kind, **settings})


def model_with(config: HeadConfig) -> Segmenter:
    return build_model(TINY.model_copy(update={"head": config}), 0)


def random_episode(
    batch: int, views: int, seed: int = 0, channels: int = 6, side: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    """Query features (B, C, side, side), support features and masks (B * views, ...), float64."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, channels, side, side, generator=generator, dtype=torch.float64)
    support = torch.randn(batch * views, channels, side, side, generator=generator, dtype=torch.float64)
    masks = torch.zeros(batch * views, side, side, dtype=torch.float64)
    for index, mask in enumerate(masks):
        mask[index % 4 : index % 4 + 4, 2:7] = 1
    return query, support, masks
