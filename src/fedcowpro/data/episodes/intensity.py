"""Changes of a slice's appearance that leave its geometry: gamma, curves of grey values, random convolutions.

Random convolutions follow GIN and their blending IPA (Ouyang et al., "Causality-inspired single-source domain
generalization", arXiv 2111.12525); curves follow the non-linear intensity transformation of Models Genesis
(arXiv 2004.07882), with straight pieces in place of a Bezier curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_LAYERS = (1, 2, 2, 2, 1)  # channels before, between and after the four random convolutions
_KNOTS = 5  # of a curve of grey values, at equal distances
_SPANS = 8  # the control points of a blending map lie an eighth of the slice's side apart


@dataclass(frozen=True)
class Networks:
    """Random shallow networks, one for each of N views.

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


def draw_map(count: int, size: int, generator: torch.Generator) -> Float[Tensor, "n s s"]:
    """Smooth random maps that span 0..1: cubic B-splines through a grid of uniform random control points.

    As in the authors' code, control points are an eighth of the side apart, and each map is rescaled.
    """
    controls = torch.rand(count, _SPANS + 3, _SPANS + 3, generator=generator)
    basis = _cubic_b_splines(size)
    maps = basis @ controls @ basis.T
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def _cubic_b_splines(size: int) -> Float[Tensor, "s k"]:
    """Weight of each control point at each pixel: uniform cubic B-splines, non-negative, each row sums to 1."""
    place = torch.linspace(0, _SPANS, size)[:, None]
    distance = (place - torch.arange(-1, _SPANS + 2)).abs()
    near = 2 / 3 - distance.square() + distance**3 / 2
    return torch.where(distance < 1, near, (2 - distance).clamp_min(0) ** 3 / 6)


def draw_knots(count: int, curve: float, invert: float, generator: torch.Generator) -> Float[Tensor, "n k"]:
    """Values of curves of grey values at equally spaced places of 0..1; the identity where nothing is drawn.

    Args:
        curve: probability of a random curve: uniform knots, rescaled to span 0..1. It need not be monotone: order and
            contrast of tissues change, as between modalities.
        invert: probability of a curve that is mirrored, so that bright becomes dark.
    """
    curved = torch.rand(count, generator=generator) < curve
    inverted = torch.rand(count, generator=generator) < invert
    random = torch.rand(count, _KNOTS, generator=generator)
    low, high = random.amin(1, keepdim=True), random.amax(1, keepdim=True)
    knots = torch.where(curved[:, None], (random - low) / (high - low), torch.linspace(0, 1, _KNOTS))
    return torch.where(inverted[:, None], knots.flip(1), knots)


def apply_curves(
    images: Float[Tensor, "n h w"], bodies: Bool[Tensor, "n h w"], knots: Float[Tensor, "n k"]
) -> Float[Tensor, "n h w"]:
    """Grey values of the body, between its least and its greatest, along a curve with straight pieces.

    What is not body stays; so does a slice with the identity, bit for bit, and one whose body has one grey value.
    """
    changed = (knots != torch.linspace(0, 1, knots.shape[1])).any(1).nonzero()[:, 0]
    if len(changed) == 0:
        return images
    image, body, values = images[changed], bodies[changed], knots[changed]
    low = image.masked_fill(~body, torch.inf).amin((1, 2), keepdim=True)
    reach = image.masked_fill(~body, -torch.inf).amax((1, 2), keepdim=True) - low
    pieces = values.shape[1] - 1
    place = ((image - low) / reach.clamp_min(1e-5)).clamp(0, 1).masked_fill(~body, 0) * pieces
    piece = place.long().clamp_max(pieces - 1)
    start = values.gather(1, piece.flatten(1)).view_as(image)
    end = values.gather(1, piece.flatten(1) + 1).view_as(image)
    curved = low + reach * (start + (place - piece) * (end - start))
    return images.index_copy(0, changed, torch.where(body & (reach > 0), curved, image))


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
    original = images[chosen]
    x = original[None]
    for index, kernel in enumerate(networks.kernels):
        bias = networks.offsets[index][chosen].flatten() if networks.offsets else None
        x = F.conv2d(x, kernel[chosen].flatten(0, 1), bias, padding=1, groups=len(chosen))
        if index + 1 < len(networks.kernels):
            x = F.leaky_relu(x)
    alpha = networks.blend[chosen, None, None]
    return images.index_copy(0, chosen, with_energy_of(original, alpha * x[0] + (1 - alpha) * original))


def pseudo_correlation(
    images: Float[Tensor, "n h w"], first: Networks, second: Networks, maps: Float[Tensor, "n h w"]
) -> Float[Tensor, "n h w"]:
    """Two random convolutions of each slice, the first where its map is 1, the second where it is 0 (IPA).

    So one tissue looks different in different places, and what lies together no longer looks alike. The blend gets
    the slice's energy back, which the original leaves out. Slices with `blend` 0 stay as they are.
    """
    mixed = maps * random_convolutions(images, first) + (1 - maps) * random_convolutions(images, second)
    return torch.where(first.blend[:, None, None] > 0, with_energy_of(images, mixed), images)


def with_energy_of(images: Float[Tensor, "n h w"], changed: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """`changed`, scaled to the Frobenius norm of `images`, each slice on its own."""
    scale = images.flatten(1).norm(dim=1) / changed.flatten(1).norm(dim=1).clamp_min(1e-5)
    return changed * scale[:, None, None]
