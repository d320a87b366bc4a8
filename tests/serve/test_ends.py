"""Where organs end, shapes between slices, and the slice to paint next: by requests, as the page makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_working import labels_of, paint, segment, truth

from fedcowpro.oneshot.next_slice import doubt_of_slices, gain_of_slices
from fedcowpro.oneshot.segmentation import Segmentation
from serve_pages import Page

CASE, OTHER = "ct/image_1.nii.gz", "ct/image_2.nii.gz"


def end(page: Page, key: str, **extents: tuple[int | None, int | None]) -> int:
    given = {name[1:]: ends for name, ends in extents.items()}
    status: int = page.put(f"/api/volumes/{key}/extents", json={"extents": given}).status_code
    return status


def test_ends_cut_the_mask_at_once_and_teach_the_other_volume(page: Page, phantoms: Path) -> None:
    mine, other = page.open(CASE)["id"], page.open(OTHER)["id"]
    paint(page, mine, truth(phantoms, "1"), 5)
    segment(page)
    free = {key: labels_of(page, key) for key in (mine, other)}
    assert free[mine][[0, 1, 8, 9]].any()
    assert end(page, mine, l1=(3, 7)) == 200
    cut = labels_of(page, mine)
    assert not cut[[0, 1, 2, 8, 9]].any()
    np.testing.assert_array_equal(cut[3:8], free[mine][3:8])
    info = page.get(f"/api/volumes/{mine}").json()
    assert info["extents"] == {"1": [3, 7]}
    assert {z for z, sure in enumerate(info["slices"]["1"]) if sure is not None} <= set(range(3, 8))
    np.testing.assert_array_equal(labels_of(page, other), free[other])
    segment(page)
    assert not labels_of(page, mine)[[0, 1, 2, 8, 9]].any()
    assert (labels_of(page, other) != free[other]).any()  # the slices beyond are examples of background
    assert end(page, other, l1=(None, 4)) == 200
    segment(page)
    assert not labels_of(page, other)[5:].any()
    assert end(page, mine) == 200
    assert page.get(f"/api/volumes/{mine}").json()["extents"] == {}


def test_ends_hold_what_is_drawn(page: Page, phantoms: Path) -> None:
    key = page.open(CASE)["id"]
    liver = truth(phantoms, "1")
    paint(page, key, liver, 5)
    for wrong in ({"l1": (6, 8)}, {"l1": (4, 10)}, {"l1": (-1, 8)}, {"l1": (7, 6)}, {"l9": (1, 8)}):
        assert end(page, key, **wrong) in (400, 409), wrong  # type: ignore[arg-type]
    assert end(page, key, l1=(4, 6)) == 200
    shown = next(z for z in (7, 3) if liver[z].any())
    answer = page.put(
        f"/api/volumes/{key}/slices", params={"numbers": str(shown)}, content=liver[shown, ::-1, ::-1].tobytes()
    )
    assert answer.json()["extents"] == {"1": [min(4, shown), max(6, shown)]}
    page.put("/api/labels", json={"labels": [{"value": 1, "name": "liver"}, {"value": 2, "name": "kidney"}]})
    assert end(page, key, l1=(2, 8), l2=(1, None)) == 200
    page.put("/api/labels", json={"labels": [{"value": 1, "name": "liver"}]})
    assert page.get(f"/api/volumes/{key}").json()["extents"] == {"1": [2, 8]}


def test_shapes_between_painted_slices_and_the_masks_of_before(page: Page, phantoms: Path) -> None:
    key = page.open(CASE)["id"]
    assert page.post(f"/api/volumes/{key}/interpolate").status_code == 400
    liver = truth(phantoms, "1")
    paint(page, key, liver, 3, 7)
    segment(page)
    before = labels_of(page, key)
    info = page.post(f"/api/volumes/{key}/interpolate").json()
    found = labels_of(page, key)
    assert info["refined"]
    assert info["confidence"] == {"1": None}
    assert found[5].any()
    assert not found[[*range(3), *range(8, 10)]].any()
    overlap = 2 * (found[3:8] & liver[3:8]).sum() / (found[3:8].sum() + liver[3:8].sum())
    assert overlap > 0.75  # 0.79 when this was written
    page.post(f"/api/volumes/{key}/exchange")
    np.testing.assert_array_equal(labels_of(page, key), before)


def test_the_next_slice_is_where_most_is_in_doubt_in_any_volume(page: Page, phantoms: Path) -> None:
    assert page.get("/api/suggestion").json() == {}
    keys = [page.open(path)["id"] for path in (CASE, OTHER)]
    liver = truth(phantoms, "1")
    paint(page, keys[0], liver, 5)
    assert page.get("/api/suggestion").json() == {}
    segment(page)
    seen = set()
    for _ in range(3):
        found = page.get("/api/suggestion").json()
        assert found["millilitres"] > 0
        assert found["label"] == 1
        where = found["volume"], found["slice"]
        assert where not in seen | {(keys[0], 5)}
        seen.add(where)
        paint(page, found["volume"], truth(phantoms, "12"[keys.index(found["volume"])]), found["slice"])
    paint(page, keys[0], liver, *range(10))
    assert page.get("/api/suggestion").json()["volume"] == keys[1]


def test_doubt_and_gain_by_hand() -> None:
    labels = np.zeros((6, 4, 5), np.uint8)
    labels[1:4, :2] = 1  # 10 voxels of 50 mm3 on each of three slices
    labels[3, 2] = 2
    nan = np.nan
    sure = np.array([[nan, 0.8, 1, 0.4, nan, nan], [nan, nan, nan, 0.9, nan, nan]], np.float32)
    found = Segmentation((1, 2), labels, None, {1: 0.7, 2: 0.9}, sure)
    painted = np.arange(6) == 2
    doubt = doubt_of_slices(found, painted, {1: (0, 4)}, (10.0, 1.0, 5.0))
    assert doubt[0] == pytest.approx([0.5, 0.1, 0, 0.3, 0.5, 0])
    assert doubt[1] == pytest.approx([0, 0, 0, 0.025, 0, 0])
    assert gain_of_slices(doubt, 10.0) == pytest.approx([0.55, 0.35, 0.2125, 0.575, 0.6625, 0.25])
