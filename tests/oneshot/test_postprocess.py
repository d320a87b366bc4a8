"""Connected parts are kept by the support's example; borders move to the image's edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedcowpro.oneshot.postprocess import count_parts, guided_filter, keep_components, location_map


def blobs() -> np.ndarray:
    """Parts of 64, 27, 8 and 1 voxels."""
    mask = np.zeros((8, 16, 16), bool)
    mask[:4, :4, :4] = True
    mask[:3, 6:9, 6:9] = True
    mask[5:7, 12:14, 12:14] = True
    mask[7, 0, 15] = True
    return mask


def parts(count: int) -> np.ndarray:
    """Support slices that each show `count` equal parts."""
    support = np.zeros((3, 16, 16), bool)
    for index in range(count):
        support[:, 2:5, 4 * index : 4 * index + 3] = True
    return support


EVERYWHERE = np.ones((16, 16), np.float32)


@pytest.mark.parametrize(("count", "size"), [(1, 64), (2, 91), (3, 99), (4, 100), (9, 100)])
def test_the_largest_parts_are_kept_where_place_says_nothing(count: int, size: int) -> None:
    kept = keep_components(blobs(), EVERYWHERE, count)
    assert kept.sum() == size
    assert not (kept & ~blobs()).any()


def test_a_small_part_at_the_right_place_goes_before_a_large_one_elsewhere() -> None:
    support = np.zeros((2, 16, 16), bool)
    support[0, 11:14, 11:14] = True
    kept = keep_components(blobs(), location_map(support), 1)
    assert kept.sum() == 8
    assert kept[5, 12, 12]


def test_location_is_highest_in_the_organ_and_nowhere_zero() -> None:
    support = np.zeros((2, 64, 64), bool)
    support[0, 10:20, 10:20] = support[1, 40:50, 40:50] = True
    location = location_map(support)
    assert location.shape == (64, 64)
    assert location.min() > 0
    assert min(location[15, 15], location[45, 45]) > 0.7
    assert location[15, 45] < 0.01


def test_parts_are_counted_in_each_slice() -> None:
    """Used slices lie apart: one organ at three places in three slices is one part, not three."""
    support = np.zeros((3, 16, 16), bool)
    for z in range(3):
        support[z, 5 * z : 5 * z + 3, 5 * z : 5 * z + 3] = True
    assert count_parts(support) == 1
    assert count_parts(parts(2)) == 2
    assert count_parts(np.zeros((2, 4, 4), bool)) == 1


def test_specks_of_the_support_do_not_count() -> None:
    support = parts(1)
    support[:, 15, 15] = True  # 1 pixel beside 9
    assert count_parts(support) == 1


def test_a_single_part_and_nothing_stay() -> None:
    for mask in (np.zeros((3, 8, 8), bool), np.pad(np.ones((1, 2, 2), bool), ((1, 1), (3, 3), (3, 3)))):
        np.testing.assert_array_equal(keep_components(mask, EVERYWHERE[:8, :8], 2), mask)


def test_a_soft_border_moves_to_the_edge_of_the_image() -> None:
    guide = torch.zeros(1, 32, 32)
    guide[0, :, 16:] = 1
    soft = torch.linspace(0, 1, 32).expand(1, 1, 32, 32).roll(3, dims=3)  # a ramp whose middle is off by 3 pixels
    found = guided_filter(soft, guide, 6)
    assert found.shape == soft.shape
    jump = (found[0, 0, 16, 1:] - found[0, 0, 16, :-1])[4:28]  # away from the wrap of the ramp
    assert int(jump.argmax()) + 4 == 15


@pytest.mark.parametrize("radius", [1, 3, 12, 40])
def test_the_filter_is_the_published_formula(radius: int) -> None:
    """Means over windows taken pixel by pixel, in double precision, on an image that is no square."""
    rng = np.random.default_rng(radius)
    guide, soft = rng.random((2, 24, 31)), rng.random((2, 3, 24, 31))

    def box(maps: np.ndarray) -> np.ndarray:
        out = np.empty_like(maps)
        for row, column in np.ndindex(maps.shape[-2:]):
            window = maps[..., max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1]
            out[..., row, column] = window.mean((-2, -1))
        return out

    image = guide[:, None]
    slope = (box(image * soft) - box(image) * box(soft)) / (box(image * image) - box(image) ** 2 + 1e-3)
    expected = box(slope) * image + box(box(soft) - slope * box(image))
    found = guided_filter(torch.from_numpy(soft).float(), torch.from_numpy(guide).float(), radius)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_a_flat_image_only_smooths() -> None:
    constant = torch.full((1, 2, 16, 16), 0.7)
    assert torch.allclose(guided_filter(constant, torch.zeros(1, 16, 16), 4), constant, atol=1e-5)
    single = torch.zeros(1, 1, 17, 17)
    single[0, 0, 8, 8] = 1
    found = guided_filter(single, torch.full((1, 17, 17), 0.5), 1)
    assert found.max().item() == pytest.approx(1 / 9, rel=1e-3)  # twice the mean of 3 x 3
    assert found.sum().item() == pytest.approx(1, rel=1e-3)
