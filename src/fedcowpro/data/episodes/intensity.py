"""Changes of a slice's appearance that leave its geometry: gamma and random convolutions.

Random convolutions follow GIN (Ouyang et al., "Causality-inspired single-source domain generalization",
arXiv 2111.12525).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LAYERS = (1, 2, 2, 2, 1)  # channels before, between and after the four random convolutions


@dataclass(frozen=True)
class Networks:
    """Random shallow networks, one for each of N views; on the CPU.

    Attributes:
        blend: (N,) share of the network's output in the picture; 0 leaves it out.
        kernels: four tensors (N, out, in, 3, 3).
        offsets: four tensors (N, out), added to the layers' outputs; none = 0.
    """

    blend: Float[Tensor, " n"]
    kernels: tuple[Float[Tensor, "n _ _ 3 3"], ...]
    offsets: tuple[Float[Tensor, "n _"], ...] = ()


def draw_kernels(count: int, generator: torch.Generator) -> tuple[Float[Tensor, "n _ _ 3 3"], ...]:
    """Standard normal weights; each layer of each network is 1x1 or 3x3, with equal chance."""
    kernels = []
    for inputs, outputs in pairwise(_LAYERS):
        kernel = torch.randn(count, outputs, inputs, 3, 3, generator=generator)
        pointwise = torch.rand(count, generator=generator) < 0.5
        kernel[pointwise] *= torch.zeros(3, 3).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(1.0))
        kernels.append(kernel)
    return tuple(kernels)


def draw_offsets(count: int, generator: torch.Generator) -> tuple[Float[Tensor, "n _"], ...]:
    """Standard normal, one for each layer's output channel."""
    return tuple(torch.randn(count, outputs, generator=generator) for outputs in _LAYERS[1:])


def apply_gamma(images: Float[Tensor, "n h w"], gamma: Float[Tensor, " n"]) -> Float[Tensor, "n h w"]:
    """r ((x - min + e) / r)^gamma + min with r = max - min + e, e = 1e-5, per slice."""
    low = images.amin((1, 2), keepdim=True)
    reach = images.amax((1, 2), keepdim=True) - low + 1e-5
    return reach * ((images - low + 1e-5) / reach) ** gamma[:, None, None] + low


def random_convolutions(images: Float[Tensor, "n h w"], networks: Networks) -> Float[Tensor, "n h w"]:
    """Blend each slice with its image under a random shallow network; its energy (Frobenius norm) stays."""
    chosen = (networks.blend > 0).nonzero()[:, 0]
    if len(chosen) == 0:
        return images
    device, place = images.device, chosen.to(images.device)
    original = images[place]
    x = original[None]
    for index, kernel in enumerate(networks.kernels):
        bias = networks.offsets[index][chosen].flatten().to(device) if networks.offsets else None
        x = F.conv2d(x, kernel[chosen].flatten(0, 1).to(device), bias, padding=1, groups=len(chosen))
        if index + 1 < len(networks.kernels):
            x = F.leaky_relu(x)
    alpha = networks.blend[chosen, None, None].to(device)
    return images.index_copy(0, place, with_energy_of(original, alpha * x[0] + (1 - alpha) * original))


def with_energy_of(images: Float[Tensor, "n h w"], changed: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """`changed`, scaled to the Frobenius norm of `images`, each slice on its own."""
    scale = images.flatten(1).norm(dim=1) / changed.flatten(1).norm(dim=1).clamp_min(1e-5)
    return changed * scale[:, None, None]
