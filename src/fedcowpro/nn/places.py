"""Where a pixel lies in its slice, as further features: coordinates beside what the encoder sees (as CoordConv)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def append_places(features: Float[Tensor, "b c h w"], weight: float) -> Float[Tensor, "b c+8 h w"]:
    """Unit vectors of features, followed by 8 channels that tell the row and the column.

    Coordinates as features are CoordConv's (Liu et al. 2018, arXiv 1807.03247). Here a row is the angle r, from
    -pi/2 at the upper edge to pi/2 at the lower one, and a column likewise q, so that the cosine of two pixels is

        (cos of their features + weight² (cos(r - r') + cos(q - q')) / 2) / (1 + weight²).

    The channels sum to 0: correlation, which takes their mean off, sees them as the cosine does.
    """
    rows, columns = (_wave(side, features) for side in features.shape[-2:])
    shape = (len(features), 4, *features.shape[-2:])
    places = weight / 2 * torch.cat((rows[:, :, None].expand(shape), columns[:, None, :].expand(shape)), dim=1)
    return torch.cat((F.normalize(features), places), dim=1)


def _wave(side: int, like: Tensor) -> Float[Tensor, "4 s"]:
    angles = math.pi * ((torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side - 0.5)
    return torch.stack((angles.cos(), -angles.cos(), angles.sin(), -angles.sin()))
