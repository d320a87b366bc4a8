"""Strong augmentation of labelled slices: one volume has to stand for all patients and scanners.

Shapes: affine and elastic; grey values: exponent, curve, bias field, noise, blur. No mirror images: they would make a
right kidney of a left one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fedcowpro.core.device import generator_on


@dataclass(frozen=True)
class Distortion:
    """How strong; lengths are shares of half a slice's side.

    Attributes:
        angle: degrees to either side.
        scale, aspect: largest logarithm of the size and of width over height.
        shear, shift: largest.
        elastic: standard deviations of the displacement on 8 and on 20 knots.
        gamma: largest logarithm of the exponent.
        curve: largest change at the 6 knots of the curve of grey values.
        bias: standard deviation of the logarithm of the field.
        noise: largest standard deviation, in units of the slices.
        convolution: probability that a sample passes through random convolutions (Ouyang et al. 2021, GIN).
    """

    angle: float = 15.0
    scale: float = 0.22
    aspect: float = 0.1
    shear: float = 0.12
    shift: float = 0.15
    elastic: tuple[float, float] = (0.025, 0.008)
    gamma: float = 0.6
    curve: float = 0.12
    bias: float = 0.15
    noise: float = 0.12
    convolution: float = 0.0


def distort(
    images: Float[Tensor, "b 3 h w"],
    labels: Float[Tensor, "b h w"],
    weights: Float[Tensor, "b h w"],
    config: Distortion,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """The same random movement of images, labels (nearest) and weights, and random grey values of the images.

    Args:
        images: slices with their neighbours.
        labels: label values.
        weights: of the voxels in the loss, 0..1.
        generator: source of all draws, on the CPU; noise is drawn where the images are.
    """
    grid = _grid(images.shape, config, generator, images.device)
    floor = images.amin((1, 2, 3), keepdim=True)
    moved = F.grid_sample(images - floor, grid, align_corners=False) + floor
    maps = F.grid_sample(torch.stack((labels, weights), 1), grid, mode="nearest", align_corners=False)
    return _recolour(moved, config, generator), maps[:, 0], maps[:, 1]


def _grid(
    shape: torch.Size, config: Distortion, generator: torch.Generator, device: torch.device
) -> Float[Tensor, "b h w 2"]:
    count, _, height, width = shape
    angle = torch.deg2rad(_uniform(generator, config.angle, count))
    size = torch.exp(_uniform(generator, config.scale, count))
    aspect = torch.exp(_uniform(generator, config.aspect, count))
    shear = _uniform(generator, config.shear, count)
    across, down = _uniform(generator, config.shift, count), _uniform(generator, config.shift, count)
    cos, sin, ratio = torch.cos(angle), torch.sin(angle), height / width
    matrix = torch.stack(
        (
            torch.stack((cos * size * aspect, (shear - sin) * size * ratio, across), -1),
            torch.stack((sin * size / ratio, cos * size / aspect, down), -1),
        ),
        1,
    )
    grid = F.affine_grid(matrix.to(device), [count, 1, height, width], align_corners=False)
    for knots, sigma in zip((8, 20), config.elastic, strict=True):
        coarse = torch.randn(count, 2, knots, knots, generator=generator) * sigma
        moves = F.interpolate(coarse.to(device), size=(height, width), mode="bicubic", align_corners=False)
        grid = grid + moves.permute(0, 2, 3, 1)
    return grid


def _recolour(
    images: Float[Tensor, "b 3 h w"], config: Distortion, generator: torch.Generator
) -> Float[Tensor, "b 3 h w"]:
    count, _, height, width = images.shape
    low = images.amin((1, 2, 3), keepdim=True)
    span = (images.amax((1, 2, 3), keepdim=True) - low).clamp_min(1e-3)
    device = images.device
    exponent = torch.exp(_uniform(generator, config.gamma, count)).view(-1, 1, 1, 1)
    grey = ((images - low) / span).clamp_(1e-6, 1) ** exponent.to(device)
    field = torch.randn(count, 1, 4, 4, generator=generator) * config.bias
    grey = grey * torch.exp(F.interpolate(field.to(device), size=(height, width), mode="bicubic", align_corners=False))
    curved = _chosen(generator, 0.5, count)
    if len(curved):
        changes = _uniform(generator, config.curve, len(curved), 6).to(device)
        curved = curved.to(device)
        grey[curved] = _bend(grey[curved], changes)
    out = grey * span + low
    convolved = _chosen(generator, config.convolution, count)
    if len(convolved):
        convolved = convolved.to(device)
        out[convolved] = _convolve(out[convolved], generator)
    strength = (torch.rand(count, 1, 1, 1, generator=generator)) * config.noise
    noise = torch.randn(out.shape, generator=generator_on(device, generator), device=device)
    out = out + noise * strength.to(device)
    blurred = _chosen(generator, 0.25, count)
    if len(blurred):
        blurred = blurred.to(device)
        out[blurred] = F.avg_pool2d(out[blurred], 3, 1, 1)
    return out


def _bend(grey: Float[Tensor, "b 3 h w"], changes: Float[Tensor, "b n"]) -> Float[Tensor, "b 3 h w"]:
    """Grey values 0..1 through a piecewise linear curve; black stays black."""
    knots = torch.linspace(0, 1, changes.shape[1], device=changes.device) + changes
    knots[:, 0] = 0
    position = grey.clamp(0, 1) * (changes.shape[1] - 1)
    left = position.floor().clamp_max(changes.shape[1] - 2).long()
    below = knots.gather(1, left.flatten(1)).view_as(grey)
    above = knots.gather(1, left.flatten(1) + 1).view_as(grey)
    return below + (above - below) * (position - left)


def _convolve(images: Float[Tensor, "b 3 h w"], generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Four random convolutions, the same for neighbouring slices, mixed with the image at its energy."""
    count, channels, height, width = images.shape
    x = images.transpose(0, 1).reshape(channels, count, height, width)
    for index, (inputs, outputs) in enumerate(((1, 2), (2, 2), (2, 2), (2, 1))):
        kernel = 3 if torch.rand(1, generator=generator) < 0.5 else 1
        weight = torch.randn(count * outputs, inputs, kernel, kernel, generator=generator)
        offset = torch.randn(count * outputs, generator=generator)
        x = F.conv2d(x, weight.to(images.device), offset.to(images.device), padding=kernel // 2, groups=count)
        x = F.leaky_relu(x) if index < 3 else x
    share = torch.rand(count, 1, 1, 1, generator=generator).to(images.device)
    mixed = share * x.reshape(channels, count, height, width).transpose(0, 1) + (1 - share) * images
    energy = images.flatten(1).norm(dim=1) / mixed.flatten(1).norm(dim=1).clamp_min(1e-6)
    return mixed * energy.view(-1, 1, 1, 1)


def _uniform(generator: torch.Generator, largest: float, *shape: int) -> Tensor:
    return (torch.rand(*shape, generator=generator) * 2 - 1) * largest


def _chosen(generator: torch.Generator, probability: float, count: int) -> Tensor:
    """Positions of those of `count` that are chosen."""
    return (torch.rand(count, generator=generator) < probability).nonzero()[:, 0]
