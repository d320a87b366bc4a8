"""Changes of appearance: by hand, with their probabilities and energy, and without moving anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.interpolate import BSpline
from torch import Tensor

from fedcowpro.config import AugmentConfig
from fedcowpro.data.episodes.augmentation import Views, apply_views, sample_views
from fedcowpro.data.episodes.intensity import (
    Networks,
    apply_curves,
    apply_gamma,
    draw_knots,
    draw_map,
    pseudo_correlation,
    random_convolutions,
)

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


# ---------------------------------------------------------------- gamma and curves


def test_gamma_by_hand() -> None:
    image = torch.tensor([[[-1.0, 1.0], [0.0, 3.0]]])
    found = apply_gamma(image, torch.tensor([2.0]))
    expected = 4 * ((image + 1) / 4) ** 2 - 1
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(apply_gamma(image, torch.tensor([1.0])), image, atol=1e-4)
    flat = apply_gamma(torch.full((1, 2, 2), 5.0), torch.tensor([0.7]))
    assert torch.allclose(flat, torch.full((1, 2, 2), 5.0), atol=1e-3)


def test_curve_by_hand() -> None:
    image = torch.tensor([[[-7.0, -1.0, 0.0, 1.0], [2.0, 3.0, 9.0, 2.5]]])
    body = torch.tensor([[[0, 1, 1, 1], [1, 1, 0, 1]]]).bool()
    found = apply_curves(image, body, torch.tensor([[0.5, 0.0, 1.0]]))
    # The body goes from -1 to 3; places 0, 1/4, 1/2, 3/4, 1, 7/8 of the curve, on which 1/2 is a knot.
    assert found[0].tolist() == [[-7, 1, 0, -1], [1, 3, 9, 2]]


def test_a_curve_of_a_flat_or_empty_body_changes_nothing() -> None:
    image = torch.stack((torch.full((4, 4), 2.0), torch.rand(4, 4)))
    body = torch.stack((torch.ones(4, 4), torch.zeros(4, 4))).bool()
    assert torch.equal(apply_curves(image, body, torch.tensor([[1.0, 0.0], [1.0, 0.0]])), image)


def test_the_identity_is_the_identity_bit_for_bit() -> None:
    image = torch.randn(3, 8, 8, generator=seeded())
    body = torch.ones(3, 8, 8, dtype=torch.bool)
    knots = draw_knots(3, 0.0, 0.0, seeded())
    assert torch.equal(apply_curves(image, body, knots), image)
    knots[1] = knots[1].flip(0)
    found = apply_curves(image, body, knots)
    assert torch.equal(found[[0, 2]], image[[0, 2]])
    assert torch.allclose(found[1], image[1].min() + image[1].max() - image[1], atol=1e-5)


def test_curves_are_drawn_with_their_probabilities() -> None:
    straight = torch.linspace(0, 1, 5)
    inverted = draw_knots(1000, 0.0, 0.3, seeded())
    assert inverted[:, 0].mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(inverted.amax(1), torch.ones(1000))
    curved = draw_knots(1000, 0.4, 0.0, seeded())
    changed = (curved != straight).any(1)
    assert changed.float().mean().item() == pytest.approx(0.4, abs=0.05)
    assert torch.equal(curved.amin(1), torch.zeros(1000))
    assert torch.equal(curved.amax(1), torch.ones(1000))
    rising = (curved[changed].diff(dim=1) > 0).all(1).float().mean().item()
    assert rising < 0.05  # 1 of 5! orders; most curves change the order of tissues


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


@pytest.mark.parametrize("blended", [False, True])
def test_random_convolutions_keep_energy_and_geometry(blended: bool) -> None:
    image, mask = picture(12)
    drawn = drawn_views(12, seed=3, pseudo_correlation=blended)
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
    drawn = networks(20, seed=2)
    halves = torch.full_like(image, 0.5)
    for found in (random_convolutions(image, drawn), pseudo_correlation(image, drawn, networks(20, seed=3), halves)):
        level = found[:, 6, 24]
        changed = ((found - level[:, None, None]).abs() > 1e-4).flatten(1)
        rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
        inside = ((rows - 15.5).abs().maximum((columns - 15.5).abs()) < 11.5).flatten()  # 4 from the frame
        near = ((rows - 20).abs().maximum((columns - 12).abs()) <= 4).flatten()
        assert changed[:, near].any(1).all()
        assert not changed[:, inside & ~near].any()


# ---------------------------------------------------------------- pseudo-correlation


def test_maps_are_cubic_splines_through_uniform_control_points() -> None:
    found = draw_map(2, 33, seeded(6))
    controls = torch.rand(2, 11, 11, generator=seeded(6)).double().numpy()
    knots = np.arange(-3, 12)
    places = np.linspace(0, 8, 33)
    across = BSpline(knots, np.moveaxis(controls, 2, 0), 3)(places)  # (33, n, 11)
    both = BSpline(knots, np.moveaxis(across, 2, 0), 3)(places).transpose(2, 0, 1)
    low, high = both.min((1, 2), keepdims=True), both.max((1, 2), keepdims=True)
    np.testing.assert_allclose(found.numpy(), (both - low) / (high - low), atol=1e-5)


def test_maps_are_smooth_and_span_0_to_1() -> None:
    maps = draw_map(20, 256, seeded())
    assert torch.equal(maps.amin((1, 2)), torch.zeros(20))
    assert torch.equal(maps.amax((1, 2)), torch.ones(20))
    assert maps.diff(dim=1).abs().max() < 2 / 32  # control points lie 32 pixels apart
    assert maps.mean().item() == pytest.approx(0.5, abs=0.05)


def test_the_map_says_which_network_shows() -> None:
    image, _ = picture(3)
    first, second = networks(3, seed=1), networks(3, seed=2)
    ones = torch.ones_like(image)
    one, two = random_convolutions(image, first), random_convolutions(image, second)
    assert torch.allclose(pseudo_correlation(image, first, second, ones), one, atol=1e-5)
    assert torch.allclose(pseudo_correlation(image, first, second, 0 * ones), two, atol=1e-5)
    halves = ones.clone()
    halves[:, :, 16:] = 0
    found = pseudo_correlation(image, first, second, halves)
    sides = torch.cat((one[:, :, :16], two[:, :, 16:]), dim=2)
    assert torch.allclose(found, sides * (image.flatten(1).norm(dim=1) / sides.flatten(1).norm(dim=1))[:, None, None])


def test_views_without_random_convolutions_are_not_blended() -> None:
    image, mask = picture(40)
    drawn = drawn_views(40, 0.5, pseudo_correlation=True)
    assert drawn.second is not None
    plain = drawn.networks.blend == 0
    assert 10 < int(plain.sum()) < 30
    assert torch.equal(plain, drawn.second.blend == 0)
    found, _ = apply_views(image, mask, drawn)
    assert torch.allclose(found[plain], image[plain], atol=1e-4)
    assert not torch.isclose(found[~plain], image[~plain], atol=1e-2).all((1, 2)).any()
