"""Views equal the reference's transforms, move image and mask together, and come from one generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from common import Arrays
from fedcowpro.config import AugmentConfig
from fedcowpro.data.episodes.augmentation import Views, affine_matrix, apply_views, sample_views, sampling_grid, smooth
from fedcowpro.data.episodes.intensity import Networks, apply_gamma

STILL = AugmentConfig(rotation=0, translation=0, shear=0, zoom=(1, 1), elastic_alpha=0, gamma=(1, 1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix_of(parameters: np.ndarray, size: int = 256) -> Tensor:
    return affine_matrix(*(torch.tensor([value], dtype=torch.float32) for value in parameters), size)


def views(matrix: Tensor, size: int, elastic: Tensor | None = None) -> Views:
    n = len(matrix)
    moved = torch.zeros(n, size, size, 2) if elastic is None else elastic
    return Views(matrix, moved, torch.ones(n), Networks(torch.zeros(n), ()))


def picture(n: int = 1, size: int = 32) -> tuple[Tensor, Tensor]:
    """Smooth images with a bright ellipse off the centre, and its mask."""
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    mask = (((y - 0.45 * size) / (0.2 * size)) ** 2 + ((x - 0.55 * size) / (0.12 * size)) ** 2 < 1).float()
    image = 2 * mask + torch.sin(x / 5) * torch.cos(y / 7) * 0.2
    return image.repeat(n, 1, 1), mask.repeat(n, 1, 1)


def check_matrix(arrays: Arrays) -> None:
    for index in (0, 1):
        found = matrix_of(arrays[f"params_{index}"])[0].numpy()
        np.testing.assert_allclose(found, arrays[f"M_{index}"], atol=2e-5)


def test_matrix_equals_the_reference(oracle: Callable[[str], Arrays]) -> None:
    check_matrix(oracle("augment"))


def test_matrix_and_warp_equal_the_whole_reference(golden: Callable[[str], Arrays]) -> None:
    arrays = golden("augment")
    check_matrix(arrays)
    image = torch.from_numpy(arrays["image"])[None]
    for index in (0, 1):
        applied = views(torch.from_numpy(arrays[f"M_{index}"])[None], 256)
        warped, _ = apply_views(image, torch.zeros_like(image), applied)
        gap = np.abs(warped[0, ::2, ::2].numpy() - arrays[f"warp_{index}"][..., 0])
        # OpenCV interpolates with weights of 5 bits; intensities go to 225.
        assert gap.max() < 1.5
        assert gap.mean() < 0.1


def test_elastic_and_gamma_equal_the_whole_reference(golden: Callable[[str], Arrays]) -> None:
    arrays = golden("augment")
    image = torch.from_numpy(arrays["elastic_in"])[None, None]
    noise = torch.from_numpy(np.stack([arrays["elastic_rand_dx"], arrays["elastic_rand_dy"]]))[None]
    elastic = smooth(noise, 5.0).permute(0, 2, 3, 1) * 10
    grid = sampling_grid(views(torch.eye(3)[None], 128, elastic), 128)
    found = F.grid_sample(image, grid, align_corners=True, padding_mode="reflection")
    np.testing.assert_allclose(found[0, 0].numpy(), arrays["elastic_out"], atol=1e-2)  # intensities go to 225
    gamma = torch.tensor([float(arrays["gamma"])])
    np.testing.assert_allclose(apply_gamma(image[0], gamma)[0].numpy(), arrays["gamma_out"], atol=1e-4)


def test_smoothing_is_a_gaussian_of_21_pixels() -> None:
    field = torch.rand(2, 2, 40, 48, generator=seeded()) * 2 - 1
    expected = ndimage.gaussian_filter(field.numpy(), 5.0, mode="mirror", radius=10, axes=(2, 3))
    np.testing.assert_allclose(smooth(field, 5.0).numpy(), expected, atol=1e-6)


def test_warp_is_a_linear_interpolation_of_the_inverse_map() -> None:
    image, mask = picture(size=64)
    matrix = matrix_of(np.array([4.0, -3.0, 2.0, 5.0, 1.15]), 64)
    inverse = np.linalg.inv(matrix[0].numpy().astype(np.float64))
    # scipy's coordinates are (y, x)
    flipped = inverse[[1, 0, 2]][:, [1, 0, 2]]
    expected = ndimage.affine_transform(image[0].numpy().astype(np.float64), flipped, order=1, cval=np.nan)
    found, _ = apply_views(image, mask, views(matrix, 64))
    inside = np.isfinite(expected)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(found[0].numpy()[inside], expected[inside], atol=1e-3)


def test_elastic_displacement_is_x_then_y_in_pixels() -> None:
    image, mask = picture(size=64)
    elastic = torch.zeros(1, 64, 64, 2)
    elastic[..., 0], elastic[..., 1] = 3, -2
    found, found_mask = apply_views(image, mask, views(torch.eye(3)[None], 64, elastic))
    # Each pixel is read 3 to the right of and 2 above its own place.
    assert torch.allclose(found[0, 2:, :-3], image[0, :-2, 3:], atol=1e-3)
    assert torch.equal(found_mask[0, 2:, :-3], mask[0, :-2, 3:])


def test_each_parameter_does_what_it_is_called() -> None:
    point = torch.tensor([50.0, 20.0, 1.0])

    def moved(**changes: float) -> list[float]:
        names = ("rotation", "shift_x", "shift_y", "shear", "zoom")
        defaults = dict.fromkeys(names, 0.0) | {"zoom": 1.0} | changes
        return (matrix_of(np.array([defaults[name] for name in names]), 64)[0] @ point)[:2].tolist()

    assert moved() == pytest.approx([50, 20])
    assert moved(shift_x=3) == pytest.approx([53, 20])
    assert moved(shift_y=-2) == pytest.approx([50, 18])
    assert moved(zoom=1.5) == pytest.approx([32 + 1.5 * 18, 32 - 1.5 * 12])
    assert moved(rotation=90) == pytest.approx([32 - 12, 32 - 18], abs=1e-4)
    assert moved(shear=30) == pytest.approx([50 - 10, 20 * 3**0.5 / 2])  # about the corner


def test_without_deformation_nothing_changes() -> None:
    image, mask = picture(2)
    found, found_mask = apply_views(image, mask, sample_views(2, 32, STILL, seeded()))
    assert torch.allclose(found, image, atol=1e-4)
    assert torch.equal(found_mask, mask)


def test_image_and_mask_move_together() -> None:
    image, mask = picture(8, 64)
    config = AugmentConfig(gamma=(1, 1), rotation=20, translation=8, elastic_alpha=30)
    found, found_mask = apply_views(mask, mask, sample_views(8, 64, config, seeded()))
    assert torch.equal((found > 0.5).float(), found_mask)
    assert set(found_mask.unique().tolist()) == {0, 1}
    assert not torch.equal(found_mask[0], found_mask[1])
    found, found_mask = apply_views(image, mask, sample_views(8, 64, AugmentConfig(), seeded(1)))
    for one, area in zip(found, found_mask, strict=True):
        assert one[area > 0].mean() > one[area == 0].mean() + 0.5


def test_outside_the_slice_lies_its_minimum() -> None:
    image = torch.full((1, 32, 32), 3.0)
    image[0, 10, 10] = -1.5
    matrix = matrix_of(np.array([0.0, 12.0, 0.0, 0.0, 1.0]), 32)
    found, mask = apply_views(image, torch.ones(1, 32, 32), views(matrix, 32))
    assert torch.allclose(found[0, :, :11], torch.tensor(-1.5), atol=1e-3)
    assert not mask[0, :, :11].any()
    assert mask[0, :, 13:].all()


def tensors(value: object) -> list[Tensor]:
    """All tensors in nested tuples."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in tensors(part)] if isinstance(value, tuple) else []


def test_the_generator_decides_everything() -> None:
    config = AugmentConfig(random_convolution=0.7)
    torch.manual_seed(1)
    one = sample_views(3, 32, config, seeded(4))
    torch.manual_seed(2)
    two, other = sample_views(3, 32, config, seeded(4)), sample_views(3, 32, config, seeded(5))
    found = [tensors(astuple(drawn)) for drawn in (one, two, other)]
    assert len(found[0]) == 3 + 9
    for a, b, c in zip(*found, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    image, mask = picture(3)
    assert torch.equal(apply_views(image, mask, one)[0], apply_views(image, mask, two)[0])


def test_what_is_off_draws_nothing() -> None:
    """Results of earlier settings stay: the next draws from the generator are the same."""
    generator = seeded(9)
    drawn = sample_views(2, 32, AugmentConfig(), generator)
    assert drawn.networks.offsets == ()
    # Known numbers, taken before random convolutions had offsets.
    assert drawn.gamma.tolist() == pytest.approx([1.005044937133789, 0.9239311814308167])
    assert torch.rand(2, generator=generator).tolist() == pytest.approx([0.6608344912528992, 0.6366891264915466])
    with_more = sample_views(2, 32, AugmentConfig(random_convolution=1), seeded(9))
    assert torch.equal(with_more.elastic, drawn.elastic)
    assert torch.equal(with_more.networks.kernels[3], drawn.networks.kernels[3])


def test_views_differ_and_stay_in_their_ranges() -> None:
    config = AugmentConfig()
    drawn = sample_views(400, 32, config, seeded())
    assert drawn.gamma.min() >= 0.5
    assert drawn.gamma.max() <= 1.5
    assert drawn.gamma.mean().item() == pytest.approx(1.0, abs=0.05)
    zoom = torch.linalg.det(drawn.matrix[:, :2, :2]).sqrt()  # shear changes it by 1/500 at most
    assert zoom.min() > 0.895
    assert zoom.max() < 1.205
    assert zoom.max() - zoom.min() > 0.25
    assert drawn.networks.blend.eq(0).all()  # random convolutions are off by default


def test_each_view_has_its_own_elastic_field() -> None:
    drawn = sample_views(3, 64, AugmentConfig(), seeded())
    assert drawn.elastic.std().item() == pytest.approx(0.36, abs=0.06)  # pixels, as measured on the reference
    assert not torch.equal(drawn.elastic[0], drawn.elastic[1])
    assert not torch.equal(drawn.elastic[..., 0], drawn.elastic[..., 1])
