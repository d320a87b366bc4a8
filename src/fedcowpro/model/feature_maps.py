"""Spatial frequencies of feature maps, weighed in three bands.

FAMNet (arXiv 2412.09319) finds that what differs between imaging techniques lies in the low and high frequencies of
features, and matches support and query band by band with learnt attention. Here a band has one fixed weight and
nothing is learnt; the bands are those of its published code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_LOW, _HIGH = 0.3, 0.7  # ends of the bands, as parts of the largest frequency that a map can have in any direction


def weigh_bands(features: Float[Tensor, "b c h w"], weights: Sequence[float]) -> Float[Tensor, "b c h w"]:
    """Features whose low, middle and high frequencies are multiplied by three weights; (1, 1, 1) changes nothing.

    The mean of a map is its lowest frequency. Maps are continued periodically, as the Fourier transform has them.
    """
    height, width = features.shape[-2:]
    device = features.device
    down, across = torch.fft.fftfreq(height, device=device), torch.fft.rfftfreq(width, device=device)
    radius = (down[:, None].square() + across.square()).sqrt() / 0.5**0.5
    low, middle, high = weights
    gains = torch.where(radius <= _LOW, low, torch.where(radius < _HIGH, middle, high)).to(features)
    return torch.fft.irfft2(torch.fft.rfft2(features) * gains, s=(height, width))
