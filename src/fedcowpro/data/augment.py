"""Two random views of a slice: affine and elastic deformation on one grid, then a change of appearance.

`sample_views` draws the parameters, `apply_views` applies them: a view can be replayed and tested. Ranges and
composition follow SSL-ALPNet's 'sabs_aug' (arXiv 2007.09886); random convolutions follow GIN (Ouyang et al.,
"Causality-inspired single-source domain generalization", arXiv 2111.12525), without its random offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fedcowpro.config import AugmentConfig

_GIN_LAYERS = (1, 2, 2, 2, 1)  # channels before, between and after the four random convolutions


@dataclass(frozen=True)
class Views:
    """Parameters of N views of slices of side `size`.

    Attributes:
        matrix: (N, 3, 3) forward maps in pixels, input (x, y, 1) to output.
        elastic: (N, size, size, 2) displacement (x, y) in pixels, added to the sampling position.
        gamma: (N,) exponents; 1 leaves the appearance.
        blend: (N,) share of the random convolutions' output in the picture; 0 leaves it out.
        kernels: four tensors (N, out, in, 3, 3) of random convolutions.
    """

    matrix: Float[Tensor, "n 3 3"]
    elastic: Float[Tensor, "n s s 2"]
    gamma: Float[Tensor, " n"]
    blend: Float[Tensor, " n"]
    kernels: tuple[Float[Tensor, "n _ _ 3 3"], ...]


def sample_views(count: int, size: int, config: AugmentConfig, generator: torch.Generator) -> Views:
    """Draw `count` views; every draw comes from `generator`."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    rotation = uniform(-config.rotation, config.rotation)
    shift_x = uniform(-config.translation, config.translation)
    shift_y = uniform(-config.translation, config.translation)
    shear = uniform(-config.shear, config.shear)
    matrix = affine_matrix(rotation, shift_x, shift_y, shear, uniform(*config.zoom), size)
    field = torch.rand(count, 2, size, size, generator=generator) * 2 - 1
    elastic = smooth(field, config.elastic_sigma).permute(0, 2, 3, 1) * config.elastic_alpha
    gamma = uniform(*config.gamma)
    used = torch.rand(count, generator=generator) < config.random_convolution
    blend = torch.rand(count, generator=generator) * used
    kernels = []
    for inputs, outputs in pairwise(_GIN_LAYERS):
        kernel = torch.randn(count, outputs, inputs, 3, 3, generator=generator)
        pointwise = torch.rand(count, generator=generator) < 0.5  # GIN draws 1x1 or 3x3 for each layer
        kernel[pointwise] *= torch.zeros(3, 3).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(1.0))
        kernels.append(kernel)
    return Views(matrix, elastic, gamma, blend, tuple(kernels))


def affine_matrix(
    rotation: Tensor, shift_x: Tensor, shift_y: Tensor, shear: Tensor, zoom: Tensor, size: int
) -> Float[Tensor, "n 3 3"]:
    """zoom * shear * translation * rotation in pixels; rotation and zoom about size/2, shear about the corner.

    Args:
        rotation, shear: degrees, (N,). shift_x, shift_y: pixels, (N,). zoom: factor, (N,).
    """
    n, centre = len(rotation), size / 2
    cos, sin = torch.cos(torch.deg2rad(rotation)), torch.sin(torch.deg2rad(rotation))
    eye = torch.eye(3).repeat(n, 1, 1)
    to_centre, from_centre, turn, move, skew, scale = (eye.clone() for _ in range(6))
    to_centre[:, :2, 2], from_centre[:, :2, 2] = -centre, centre
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = cos, sin, -sin, cos
    move[:, 0, 2], move[:, 1, 2] = shift_x, shift_y
    skew[:, 0, 1], skew[:, 1, 1] = -torch.sin(torch.deg2rad(shear)), torch.cos(torch.deg2rad(shear))
    scale[:, 0, 0] = scale[:, 1, 1] = zoom
    return from_centre @ scale @ to_centre @ skew @ move @ from_centre @ turn @ to_centre


def smooth(fields: Float[Tensor, "n k h w"], sigma: float) -> Float[Tensor, "n k h w"]:
    """Gaussian blur with a kernel of 4 sigma + 1 pixels (21 for sigma 5, as in the reference), reflected border."""
    radius = max(1, round(2 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(fields.dtype)
    flat = fields.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="reflect"), kernel[None, None, None])
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="reflect"), kernel[None, None, :, None])
    return flat[:, 0].unflatten(0, fields.shape[:2])


def apply_views(
    images: Float[Tensor, "n s s"], masks: Float[Tensor, "n s s"], views: Views
) -> tuple[Float[Tensor, "n s s"], Float[Tensor, "n s s"]]:
    """Deform images and masks (0 or 1) together and change the images' appearance.

    Outside the slice lies the slice's minimum (air); the reference puts the mean there.
    """
    size = images.shape[-1]
    floor = images.amin((1, 2), keepdim=True)
    stacked = torch.stack((images - floor, masks), dim=1)
    warped = F.grid_sample(stacked, sampling_grid(views, size), mode="bilinear", align_corners=True)
    image, mask = warped[:, 0] + floor, (warped[:, 1] > 0.5).to(masks.dtype)
    return random_convolutions(apply_gamma(image, views.gamma), views), mask


def sampling_grid(views: Views, size: int) -> Float[Tensor, "n s s 2"]:
    """Where each output pixel is read from, in grid_sample's coordinates (align_corners)."""
    n = len(views.matrix)
    axis = torch.arange(size, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), dim=-1).reshape(1, -1, 3) @ torch.linalg.inv(
        views.matrix
    ).transpose(1, 2)
    pixels = points[..., :2].reshape(n, size, size, 2) + views.elastic
    return pixels * (2 / (size - 1)) - 1


def apply_gamma(images: Float[Tensor, "n h w"], gamma: Float[Tensor, " n"]) -> Float[Tensor, "n h w"]:
    """r ((x - min + e) / r)^gamma + min with r = max - min + e, e = 1e-5, per slice."""
    low = images.amin((1, 2), keepdim=True)
    reach = images.amax((1, 2), keepdim=True) - low + 1e-5
    return reach * ((images - low + 1e-5) / reach) ** gamma[:, None, None] + low


def random_convolutions(images: Float[Tensor, "n h w"], views: Views) -> Float[Tensor, "n h w"]:
    """Blend each slice with its image under a random shallow network; its energy (Frobenius norm) stays."""
    chosen = (views.blend > 0).nonzero()[:, 0]
    if len(chosen) == 0:
        return images
    original = images[chosen]
    x = original[None]
    for index, kernel in enumerate(views.kernels):
        picked = kernel[chosen]
        x = F.conv2d(x, picked.flatten(0, 1), padding=1, groups=len(chosen))
        if index + 1 < len(views.kernels):
            x = F.leaky_relu(x)
    alpha = views.blend[chosen, None, None]
    mixed = alpha * x[0] + (1 - alpha) * original
    scale = original.flatten(1).norm(dim=1) / mixed.flatten(1).norm(dim=1).clamp_min(1e-5)
    return images.index_copy(0, chosen, mixed * scale[:, None, None])
