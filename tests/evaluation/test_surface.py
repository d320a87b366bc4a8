"""HD95 and surface Dice: worked out by hand, at the edges, and against MONAI and surface-distance."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from common import Arrays
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation import surface
from fedcowpro.evaluation.metrics import METRICS, Scores, definition_of, score
from fedcowpro.evaluation.surface import Definition, SurfaceMetrics, surface_metrics

DEFINITIONS: tuple[Definition, ...] = ("area", "voxels")
THICK = (5.0, 1.0, 2.0)
both = pytest.mark.parametrize("definition", DEFINITIONS)


def box(*sides: slice, shape: tuple[int, int, int] = (12, 16, 16)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[sides] = True
    return mask


def sphere(radius: float, spacing: tuple[float, float, float], half: tuple[int, int, int]) -> np.ndarray:
    """Voxels whose centre lies within `radius` mm of the middle voxel."""
    grid = np.ogrid[tuple(slice(-n, n + 1) for n in half)]
    return np.asarray(sum((g * s) ** 2 for g, s in zip(grid, spacing, strict=True)) <= radius**2)


CUBE = box(slice(4, 8), slice(5, 11), slice(5, 11))


@both
def test_equal_masks_have_distance_zero(definition: Definition) -> None:
    assert surface_metrics(CUBE, CUBE, THICK, 0.0, definition) == SurfaceMetrics(0.0, 1.0, 0.0, definition)


@both
@pytest.mark.parametrize(("axis", "distance"), list(enumerate(THICK)))
def test_moved_cube(axis: int, distance: float, definition: Definition) -> None:
    """Only the two faces across the way move off the other surface, by one voxel along the way."""
    found = surface_metrics(np.roll(CUBE, 1, axis), CUBE, THICK, 0.999 * distance, definition)
    assert found.hd95 == distance
    assert 0 < found.nsd < 1
    assert surface_metrics(np.roll(CUBE, 1, axis), CUBE, THICK, distance, definition).nsd == 1.0


def test_share_of_moved_voxels_worked_out_by_hand() -> None:
    """Two sheets of 4 x 4 voxels, one voxel apart across them and one along them."""
    one, other = box(slice(5, 6), slice(2, 6), slice(2, 6)), box(slice(5, 6), slice(3, 7), slice(2, 6))
    found = surface_metrics(one, other, (1.0, 3.0, 1.0), 2.9, "voxels")
    assert found.nsd == 24 / 32  # of 16 each, the row of 4 that sticks out is 3 mm off
    assert found.hd95 == 3.0


def test_area_is_that_of_the_body() -> None:
    """Marching cubes cuts edges and corners; the flat faces of a long box are exact."""
    spacing = np.array(THICK)
    mask = box(slice(1, 41), slice(1, 41), slice(1, 41), shape=(42, 42, 42))
    _, weights = surface._surface(mask, spacing, "area")
    depth, height, width = 40 * spacing
    assert weights.sum() == pytest.approx(2 * (depth * height + depth * width + height * width), rel=0.02)
    _, weights = surface._surface(sphere(30, (1.0, 1.0, 1.0), (31, 31, 31)), np.ones(3), "area")
    assert 1 < weights.sum() / (4 * math.pi * 30**2) < 1.12  # stairs are longer than the slope


def test_area_of_single_corners() -> None:
    areas = surface._areas((1.0, 1.0, 1.0))
    assert areas[0] == areas[255] == 0
    assert areas[1] == pytest.approx(math.sqrt(3) / 8)  # a triangle through the middles of three edges
    assert areas[0b00001111] == pytest.approx(1)  # a flat face
    assert np.array_equal(areas, areas[::-1])
    assert surface._areas((2.0, 3.0, 5.0))[0b00001111] == pytest.approx(6)  # across the width, 2 x 3 mm
    assert surface._areas((2.0, 3.0, 5.0))[0b01010101] == pytest.approx(15)  # across the depth


@both
def test_concentric_spheres(definition: Definition) -> None:
    """Everywhere 6 mm apart, up to the size of a voxel, whatever the spacing."""
    for spacing in ((1.0, 1.0, 1.0), (2.5, 0.8, 0.8)):
        half = tuple(math.ceil(22 / s) for s in spacing)
        inner, outer = sphere(14, spacing, half), sphere(20, spacing, half)  # type: ignore[arg-type]
        assert surface_metrics(inner, outer, spacing, 1.0, definition).nsd == 0.0
        found = surface_metrics(inner, outer, spacing, 6 + max(spacing), definition)
        assert found.nsd == 1.0
        assert abs(found.hd95 - 6) < max(spacing)


@both
def test_empty_masks(definition: Definition) -> None:
    none = np.zeros_like(CUBE)
    nothing = surface_metrics(none, none, THICK, 1.0, definition)
    assert math.isnan(nothing.hd95)
    assert math.isnan(nothing.nsd)
    for pair in ((none, CUBE), (CUBE, none)):
        found = surface_metrics(*pair, THICK, 1.0, definition)
        assert (found.hd95, found.nsd) == (math.inf, 0.0)


@both
def test_one_voxel(definition: Definition) -> None:
    one, other = box(slice(3, 4), slice(3, 4), slice(3, 4)), box(slice(5, 6), slice(3, 4), slice(3, 4))
    assert surface_metrics(one, one, THICK, 0.0, definition).nsd == 1.0
    # Two slices apart; the surfaces between voxels come one slice nearer on one side.
    assert surface_metrics(one, other, THICK, 1.0, definition).hd95 == 10.0
    assert surface_metrics(one, other, THICK, 5.0, definition).nsd == (0.5 if definition == "area" else 0.0)


@both
def test_one_slice(definition: Definition) -> None:
    """A volume of one slice is a body one slice thick."""
    flat = np.zeros((1, 9, 9), bool)
    flat[0, 3:6, 3:6] = True
    moved = np.roll(flat, 2, axis=2)
    assert surface_metrics(flat, moved, THICK, 1.0, definition).hd95 == 4.0
    padded = (np.pad(mask, ((3, 3), (0, 0), (0, 0))) for mask in (flat, moved))
    assert surface_metrics(*padded, THICK, 1.0, definition) == surface_metrics(flat, moved, THICK, 1.0, definition)


@both
def test_a_mask_at_the_border_has_a_surface_there(definition: Definition) -> None:
    rng = np.random.default_rng(1)
    one, other = rng.random((2, 6, 7, 8)) < 0.4
    assert one[0].any()
    assert one[:, :, -1].any()
    padded = [np.pad(mask, 4) for mask in (one, other)]
    assert surface_metrics(one, other, THICK, 2.0, definition) == surface_metrics(*padded, THICK, 2.0, definition)


@both
def test_order_of_masks_does_not_matter(definition: Definition) -> None:
    one, other = np.random.default_rng(2).random((2, 6, 7, 8)) < 0.3
    forth, back = (surface_metrics(*pair, THICK, 2.0, definition) for pair in ((one, other), (other, one)))
    assert forth.hd95 == back.hd95
    assert forth.nsd == pytest.approx(back.nsd, abs=1e-12)


@both
def test_search_tree_and_distance_transform_agree(definition: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = np.random.default_rng(3).random((2, 9, 12, 8)) < 0.2
    found = []
    for crowded in (0, 10**6):
        monkeypatch.setattr(surface, "CROWDED", crowded)
        found.append(surface_metrics(one, other, THICK, 2.0, definition))
    assert found[0].hd95 == pytest.approx(found[1].hd95, abs=1e-12)
    assert found[0].nsd == found[1].nsd


@both
def test_nsd_grows_with_the_tolerance(definition: Definition) -> None:
    one, other = np.random.default_rng(4).random((2, 6, 7, 8)) < 0.1
    shares = [surface_metrics(one, other, THICK, t, definition).nsd for t in np.linspace(0, 20, 30)]
    assert all(a <= b for a, b in pairwise(shares))
    assert shares[-1] == 1.0


def test_a_tolerance_of_whole_voxels_holds_in_spite_of_rounding() -> None:
    one = box(slice(2, 3), slice(2, 3), slice(2, 3))
    assert 3 * 0.1 > 0.3
    assert surface_metrics(one, np.roll(one, 3, axis=2), (0.1, 0.1, 0.1), 0.3).nsd == 1.0


@pytest.mark.parametrize(("definition", "library"), [("area", "surface_distance"), ("voxels", "monai")])
def test_values_of_the_libraries(definition: Definition, library: str, oracle: Callable[[str], Arrays]) -> None:
    """Written by benchmarks/metrics.py; MONAI computes in single precision."""
    data = oracle("surface")
    masks = np.unpackbits(data["masks"], axis=-1, count=int(data["shape"][-1])).astype(bool)
    expected = data[library]
    assert len(expected) == 24
    for (one, other), spacing, tolerance, (hd95, nsd) in zip(
        masks, data["spacing"], data["tolerance"], expected, strict=True
    ):
        found = surface_metrics(one, other, spacing, float(tolerance), definition)
        assert found.hd95 == pytest.approx(hd95, rel=2e-6)
        assert found.nsd == pytest.approx(nsd, rel=1e-6)


def test_the_definitions_differ(oracle: Callable[[str], Arrays]) -> None:
    """So a number without its definition says little."""
    data = oracle("surface")
    gap = np.abs(data["monai"] - data["surface_distance"])
    assert gap[:, 0].max() > 1  # mm
    assert gap[:, 1].max() > 0.1


@pytest.mark.parametrize(
    ("mask", "spacing", "tolerance", "definition", "message"),
    [
        (CUBE[0], (1.0, 1.0), 1.0, "area", "depth, height, width"),
        (CUBE, (1.0, 1.0), 1.0, "area", "three positive numbers"),
        (CUBE, (1.0, 0.0, 1.0), 1.0, "area", "three positive numbers"),
        (CUBE, (1.0, math.nan, 1.0), 1.0, "area", "three positive numbers"),
        (CUBE, THICK, -1.0, "area", "from 0 on"),
        (CUBE, THICK, math.nan, "area", "from 0 on"),
        (CUBE, THICK, 1.0, "pixels", "one of area, voxels"),
        (CUBE.astype(np.uint8), THICK, 1.0, "area", "boolean mask"),
    ],
)
def test_mistakes_are_named(
    mask: np.ndarray, spacing: tuple[float, ...], tolerance: float, definition: Definition, message: str
) -> None:
    with pytest.raises(FedCoWProError, match=message):
        surface_metrics(mask, mask, spacing, tolerance, definition)


def test_score_has_every_metric_and_every_metric_a_definition() -> None:
    found = score(np.roll(CUBE, 1, 1), CUBE, THICK, 2.0)
    assert list(vars(found)) == list(METRICS) == list(Scores.__dataclass_fields__)
    assert found.dice == found.precision == found.recall == pytest.approx(5 / 6)
    assert (found.hd95, found.relative_volume_error) == (1.0, 0.0)
    for name, metric in METRICS.items():
        low, high = metric.bounds
        assert low <= vars(found)[name] <= high
    assert definition_of("hd95").startswith("HD95 (mm): the larger of both directed 95th percentiles")
    assert "within 2.5 mm" in definition_of("nsd", 2.5)
