"""The internal frame: however anatomy is stored, the array is the same, and masks return to their voxels."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcowpro.volume.volume import Grid

SPACING_SPL = (5.0, 1.5, 0.8)
CANONICAL = np.random.default_rng(0).integers(0, 200, (4, 5, 6)).astype(np.int16)  # (superior, posterior, left)


def stored(order: tuple[int, ...], flips: tuple[bool, ...], angle: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """`CANONICAL` with its axes permuted and flipped, and the affine that says so."""
    to_ras = np.zeros((4, 4))
    to_ras[2, 0], to_ras[1, 1], to_ras[0, 2], to_ras[3, 3] = (
        SPACING_SPL[0],
        -SPACING_SPL[1],
        -SPACING_SPL[2],
        1,
    )
    to_ras[:3, 3] = (30, 20, -10)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    data, reorder = CANONICAL.transpose(order), np.zeros((4, 4))
    reorder[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        reorder[source, axis] = -1 if flip else 1
        if flip:
            reorder[source, 3] = data.shape[axis] - 1
            data = np.flip(data, axis)
    return data, rotation @ to_ras @ reorder


orders = st.sampled_from(list(itertools.permutations(range(3))))
flips = st.tuples(st.booleans(), st.booleans(), st.booleans())


@given(orders, flips, st.floats(-0.3, 0.3))
def test_storage_does_not_matter(order: tuple[int, ...], flip: tuple[bool, ...], angle: float) -> None:
    data, affine = stored(order, flip, angle)
    grid = Grid(data.shape, affine)
    np.testing.assert_array_equal(grid.to_internal(data), CANONICAL)
    np.testing.assert_array_equal(grid.to_native(CANONICAL), data)
    np.testing.assert_allclose(grid.spacing, SPACING_SPL)
    assert grid.internal_shape == CANONICAL.shape


@settings(max_examples=30)
@given(orders, flips)
def test_axes_point_to_superior_posterior_left(order: tuple[int, ...], flip: tuple[bool, ...]) -> None:
    """A voxel one further along an internal axis lies further up, back, or left in RAS millimetres."""
    data, affine = stored(order, flip)
    grid = Grid(data.shape, affine)
    world = np.stack([nib.affines.apply_affine(affine, index) for index in np.ndindex(data.shape)])
    internal = [grid.to_internal(world[:, axis].reshape(data.shape)) for axis in range(3)]
    np.testing.assert_allclose(np.diff(internal[2], axis=0), SPACING_SPL[0])
    np.testing.assert_allclose(np.diff(internal[1], axis=1), -SPACING_SPL[1])
    np.testing.assert_allclose(np.diff(internal[0], axis=2), -SPACING_SPL[2])


def test_oblique_is_told_from_straight() -> None:
    order, flip = (2, 1, 0), (True, False, False)
    assert Grid((6, 5, 4), stored(order, flip, np.deg2rad(8))[1]).oblique
    assert not Grid((6, 5, 4), stored(order, flip, np.deg2rad(0.2))[1]).oblique
