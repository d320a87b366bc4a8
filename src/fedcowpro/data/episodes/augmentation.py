"""Two random views of a slice: affine and elastic deformation on one grid, then a change of appearance.

`sample_views` draws the parameters, `apply_views` applies them: a view can be replayed and tested. Ranges and
composition follow SSL-ALPNet's 'sabs_aug' (arXiv 2007.09886). Changes of appearance are in `intensity`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fedcowpro.config import AugmentConfig
from fedcowpro.core.device import CPU, generator_on
from fedcowpro.data.episodes.intensity import (
    Networks,
    apply_gamma,
    draw_kernels,
    draw_offsets,
    random_convolutions,
)


@dataclass(frozen=True)
class Views:
    """Parameters of N views of slices of side `size`.

    All but `elastic` lies on the CPU, so that what depends on a draw is known without waiting for a GPU.

    Attributes:
        matrix: (N, 3, 3) forward maps in pixels, input (x, y, 1) to output.
        elastic: (N, size, size, 2) displacement (x, y) in pixels, added to the sampling position; where images are.
        gamma: (N,) exponents; 1 leaves the appearance.
        networks: random convolutions of each view.
    """

    matrix: Float[Tensor, "n 3 3"]
    elastic: Float[Tensor, "n s s 2"]
    gamma: Float[Tensor, " n"]
    networks: Networks


def sample_views(
    count: int, size: int, config: AugmentConfig, generator: torch.Generator, device: torch.device = CPU
) -> Views:
    """Draw `count` views; every draw comes from `generator`. What is off in `config` draws nothing after the rest.

    Args:
        generator: on the CPU.
        device: of the images; the elastic fields are drawn there.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    rotation = uniform(-config.rotation, config.rotation)
    shift_x = uniform(-config.translation, config.translation)
    shift_y = uniform(-config.translation, config.translation)
    shear = uniform(-config.shear, config.shear)
    matrix = affine_matrix(rotation, shift_x, shift_y, shear, uniform(*config.zoom), size)
    field = torch.rand(count, 2, size, size, generator=generator_on(device, generator), device=device) * 2 - 1
    elastic = smooth(field, config.elastic_sigma).permute(0, 2, 3, 1) * config.elastic_alpha
    gamma = uniform(*config.gamma)
    used = torch.rand(count, generator=generator) < config.random_convolution
    blend = torch.rand(count, generator=generator) * used
    kernels = draw_kernels(count, generator)
    offsets = draw_offsets(count, generator) if config.random_convolution else ()
    return Views(matrix, elastic, gamma, Networks(blend, kernels, offsets))


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
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=fields.device) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(fields.dtype)
    # As channels of one picture: on a CPU ten times as fast as one picture each, with the same result.
    flat = fields.flatten(0, 1)[None]
    kernels = kernel.expand(flat.shape[1], 1, 1, -1)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="reflect"), kernels, groups=len(kernels))
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="reflect"), kernels.mT, groups=len(kernels))
    return flat[0].unflatten(0, fields.shape[:2])


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
    image = apply_gamma(image, views.gamma.to(image.device))
    return random_convolutions(image, views.networks), mask


def sampling_grid(views: Views, size: int) -> Float[Tensor, "n s s 2"]:
    """Where each output pixel is read from, in grid_sample's coordinates (align_corners)."""
    n = len(views.matrix)
    axis = torch.arange(size, dtype=torch.float32, device=views.elastic.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    back = torch.linalg.inv(views.matrix).to(axis.device)
    points = torch.stack((x, y, torch.ones_like(x)), dim=-1).reshape(1, -1, 3) @ back.transpose(1, 2)
    pixels = points[..., :2].reshape(n, size, size, 2) + views.elastic
    return pixels * (2 / (size - 1)) - 1
