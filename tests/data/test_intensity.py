"""Changes of appearance: by hand, with their probabilities and energy, and without moving anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from fedcowpro.config import AugmentConfig
from fedcowpro.data.episodes.augmentation import Views, apply_views, sample_views
from fedcowpro.data.episodes.intensity import Networks, apply_gamma, random_convolutions

STILL = {"rotation": 0, "translation": 0, "shear": 0, "zoom": (1, 1), "elastic_alpha": 0, "gamma": (1, 1)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(n: int = 1, size: int = 32) -> tuple[Tensor, Tensor]:
    """Smooth images with a bright ellipse off the centre, and its mask."""
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    mask = (((y - 0.45 * size) / (0.2 * size)) ** 2 + ((x - 0.55 * size) / (0.12 * size)) ** 2 < 1).float()
    image = 2 * mask + torch.sin(x / 5) * torch.cos(y / 7) * 0.2
    return image.repeat(n, 1, 1), mask.repeat(n, 1, 1)


def drawn_views(count: int, share: float = 1.0, seed: int = 0, **changes: object) -> Views:
    config = AugmentConfig.model_validate({**STILL, "random_convolution": share, **changes})
    return sample_views(count, 32, config, seeded(seed))


def networks(count: int, share: float = 1.0, seed: int = 0) -> Networks:
    return drawn_views(count, share, seed).networks


def energy(images: Tensor) -> list[float]:
    return images.flatten(1).norm(dim=1).tolist()


# ---------------------------------------------------------------- gamma


def test_gamma_by_hand() -> None:
    image = torch.tensor([[[-1.0, 1.0], [0.0, 3.0]]])
    found = apply_gamma(image, torch.tensor([2.0]))
    expected = 4 * ((image + 1) / 4) ** 2 - 1
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(apply_gamma(image, torch.tensor([1.0])), image, atol=1e-4)
    flat = apply_gamma(torch.full((1, 2, 2), 5.0), torch.tensor([0.7]))
    assert torch.allclose(flat, torch.full((1, 2, 2), 5.0), atol=1e-3)


# ---------------------------------------------------------------- random convolutions


def test_random_convolutions_are_drawn_with_their_probability() -> None:
    used = networks(1000, 0.3).blend > 0
    assert used.float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert networks(50).blend.gt(0).all()


def test_a_network_by_hand() -> None:
    """Pointwise layers: 2 x + 1, leaky rectifier, and so on; the channels of a layer are summed by the next."""
    centre = torch.zeros(3, 3).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(1.0))
    weights = [[[2.0], [-1.0]], [[1.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [[1.0, -3.0]]]
    kernels = tuple(torch.tensor(layer)[None, ..., None, None] * centre for layer in weights)
    offsets = tuple(torch.tensor([layer]) for layer in ([1.0, 0.0], [0.0, -1.0], [0.5, 0.5], [4.0]))
    image = torch.tensor([[[1.0, -2.0], [0.5, 0.0]]])

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.01 * x)

    one, two = leaky(2 * image + 1), leaky(-image)
    one, two = leaky(one + two), leaky(2 * two - 1)
    one, two = leaky(one + 0.5), leaky(two + 0.5)
    out = 0.25 * (one - 3 * two + 4) + 0.75 * image
    expected = out * image.norm() / out.norm()
    found = random_convolutions(image, Networks(torch.tensor([0.25]), kernels, offsets))
    assert torch.allclose(found, expected, atol=1e-6)


def test_offsets_are_standard_normal_for_each_channel_and_view() -> None:
    offsets = torch.cat([layer.flatten() for layer in networks(2000).offsets])
    assert offsets.shape == (2000 * 7,)
    assert offsets.mean().item() == pytest.approx(0, abs=0.05)
    assert offsets.std().item() == pytest.approx(1, abs=0.05)


def test_random_convolutions_without_blend_change_nothing() -> None:
    image, _ = picture(4)
    drawn = networks(4)
    assert torch.equal(random_convolutions(image, replace(drawn, blend=torch.zeros(4))), image)
    half = drawn.blend * torch.tensor([0.0, 1.0, 0.0, 1.0])
    found = random_convolutions(image, replace(drawn, blend=half))
    assert torch.equal(found[[0, 2]], image[[0, 2]])
    assert not torch.allclose(found, image, atol=1e-2)


def test_random_convolutions_do_not_mix_the_batch() -> None:
    image, _ = picture(4)
    image = image + torch.randn(4, 32, 32, generator=seeded())
    drawn = networks(4)
    together = random_convolutions(image, drawn)
    for index in range(4):
        kept = (torch.arange(4) == index).float()
        alone = random_convolutions(image, replace(drawn, blend=drawn.blend * kept))
        assert torch.allclose(together[index], alone[index], atol=1e-5)


def steepness_at_the_outline(found: Tensor, mask: Tensor) -> np.ndarray:
    """Mean gradient near the outline of the mask over that elsewhere, per picture."""
    outline = ndimage.morphological_gradient(mask.numpy(), 3) > 0
    steep = np.stack([ndimage.gaussian_gradient_magnitude(one.numpy(), 1) for one in found])
    near = ndimage.binary_dilation(outline, iterations=2)
    inside = np.zeros_like(near)
    inside[5:-5, 5:-5] = True  # padding with zeros makes an edge at the frame
    return steep[:, near].mean(1) / steep[:, ~near & inside].mean(1)


def test_random_convolutions_keep_energy_and_geometry() -> None:
    image, mask = picture(12)
    drawn = drawn_views(12, seed=3)
    found, found_mask = apply_views(image, mask, drawn)
    assert torch.equal(found_mask, mask)
    assert found.shape == image.shape
    assert energy(found) == pytest.approx(energy(image), rel=1e-4)
    for kernel in drawn.networks.kernels:
        pointwise = kernel.flatten(1, 2).abs().sum(1)  # (n, 3, 3)
        alone = (pointwise.flatten(1) > 0).sum(1)
        assert set(alone.tolist()) == {1, 9}
    # Edges stay where they are: what moved would not correlate with the ellipse's outline.
    assert np.median(steepness_at_the_outline(found, mask[0])) > 1.5


def test_an_impulse_stays_at_its_place() -> None:
    """Four layers of 3 x 3 reach four pixels, to all sides alike; beyond the picture is as flat as before."""
    image = torch.ones(20, 32, 32)
    image[:, 20, 12] = 5.0
    found = random_convolutions(image, networks(20, seed=2))
    level = found[:, 6, 24]
    changed = ((found - level[:, None, None]).abs() > 1e-4).flatten(1)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    inside = ((rows - 15.5).abs().maximum((columns - 15.5).abs()) < 11.5).flatten()  # 4 from the frame
    near = ((rows - 20).abs().maximum((columns - 12).abs()) <= 4).flatten()
    assert changed[:, near].any(1).all()
    assert not changed[:, inside & ~near].any()
