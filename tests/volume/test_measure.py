"""What is measured of an organ."""

from __future__ import annotations

import numpy as np
import pytest

from fedcowpro.volume.measure import COLUMNS, NOTHING, cells, measure
from fedcowpro.volume.volume import Grid, Volume


def test_an_organ_is_measured_along_the_patients_axes() -> None:
    affine = np.diag([-2.0, -3.0, 5.0, 1.0])  # columns to the left, rows to posterior, slices to superior
    grid = Grid((6, 7, 8), affine)
    voxels = np.random.default_rng(1).normal(40, 9, grid.internal_shape).astype(np.float32)
    labels = np.zeros(grid.internal_shape, np.uint8)
    labels[2:5, 1:5, 3:5] = 7
    labels[3] = 0  # a slice without it
    labels[7, 6, 5] = 2
    found = measure(labels, Volume(voxels, grid.spacing, grid))
    assert list(found) == [2, 7]
    organ, inside = found[7], labels == 7
    assert (organ.voxels, organ.slices, organ.first_slice, organ.last_slice) == (16, 2, 3, 5)
    assert organ.millilitres == pytest.approx(16 * 30 / 1000)
    assert (organ.size_lr_mm, organ.size_ap_mm, organ.size_si_mm) == pytest.approx((4, 12, 15))
    assert organ.mean == pytest.approx(voxels[inside].mean(), rel=1e-5)
    assert organ.sd == pytest.approx(voxels[inside].std(), rel=1e-5)
    assert found[2].sd == 0
    assert cells(organ)[:4] == ["0.48", "16", "2", "3"]


def test_of_nothing_there_is_nothing_to_say() -> None:
    assert dict(zip(COLUMNS, cells(NOTHING), strict=True)) == {
        "millilitres": "0.00", "voxels": "0", "slices": "0", "first_slice": "", "last_slice": "",
        "size_lr_mm": "0.00", "size_ap_mm": "0.00", "size_si_mm": "0.00", "mean": "", "sd": "",
    }  # fmt: skip
