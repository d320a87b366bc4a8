"""Spatial frequencies of feature maps, weighed in three bands.

FAMNet (arXiv 2412.09319) finds that what differs between imaging techniques lies in the low and high frequencies of
features, and matches support and query band by band with learnt attention. Here a band has one fixed weight and
nothing is learnt; the bands are those of its published code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LOW, _HIGH = 0.3, 0.7  # ends of the bands, as parts of the largest frequency that a map can have in any direction


def weigh_bands(features: Float[Tensor, "b c h w"], weights: Sequence[float]) -> Float[Tensor, "b c h w"]:
    """Features whose low, middle and high frequencies are multiplied by three weights; (1, 1, 1) changes nothing.

    The mean of a map is its lowest frequency. Maps are continued periodically, as the Fourier transform has them.
    """
    height, width = features.shape[-2:]
    down, across = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    radius = (down[:, None].square() + across.square()).sqrt() / 0.5**0.5
    low, middle, high = weights
    gains = torch.where(radius <= _LOW, low, torch.where(radius < _HIGH, middle, high)).to(features)
    return torch.fft.irfft2(torch.fft.rfft2(features) * gains, s=(height, width))


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
