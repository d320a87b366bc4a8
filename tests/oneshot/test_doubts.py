"""What looks wrong with a mask, in sentences."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from common import PLAIN
from fedcowpro import OneShotSegmenter
from fedcowpro.config import Modality
from fedcowpro.oneshot.doubts import Facts, by_doubt, doubts_of, facts_of
from fedcowpro.volume.accept import as_volume

SHAPE, SPACING = (20, 40, 60), (5.0, 2.0, 2.0)


def body(shape: tuple[int, int, int] = SHAPE, columns: slice = slice(10, 50)) -> np.ndarray:
    """Air with a body in it."""
    image = np.full(shape, -1000.0, np.float32)
    image[:, 8:32, columns] = 40
    image[:, 18:22, columns] = 60
    return image


def organ(first: int, last: int, left: int, wide: int = 8, tall: int = 10) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[first : last + 1, 12 : 12 + tall, left : left + wide] = 1
    return labels


def facts(labels: np.ndarray, modality: Modality = "ct", known: np.ndarray | None = None) -> Facts:
    return facts_of(as_volume(body(), SPACING), modality, labels, [1], known)


EXAMPLE = organ(6, 13, left=14)


def test_facts_are_measured() -> None:
    (one,) = facts(EXAMPLE).organs.values()
    assert one.millilitres == pytest.approx(8 * 10 * 8 * 20 / 1000)
    assert (one.height, one.slices, one.cut) == (40.0, 8, (False, False))
    assert one.side == pytest.approx((17.5 - 29.5) / 20, abs=0.1)
    part = facts(EXAMPLE, known=np.arange(20) == 8).organs[1]
    assert math.isnan(part.millilitres)
    assert math.isnan(part.height)
    assert part.side == pytest.approx(one.side)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (EXAMPLE, ()),
        (organ(5, 14, left=16), ()),
        (organ(6, 13, left=38), ("on the left of the body, in the example on the right",)),
        (organ(6, 13, left=14, wide=18), ("29 ml, 2.3 times the example's 13",)),
        (organ(8, 11, left=14, wide=6), ("4.8 ml, 0.4 times the example's 13",)),
        (organ(4, 17, left=14, wide=6), ("70 mm from its foot end to its head end, 1.8 times the example's 40 mm",)),
        (organ(14, 19, left=14), ("reaches the volume's head end: it is cut off there, or the mask runs too far",)),
        (np.zeros(SHAPE, np.uint8), ("nothing was found; the example has 13 ml",)),
    ],
)
def test_what_is_unlike_the_example_is_said(mask: np.ndarray, said: tuple[str, ...]) -> None:
    assert doubts_of(facts(mask), [facts(EXAMPLE)])[1] == said


def test_a_column_through_the_volume_is_said_even_of_painted_slices() -> None:
    painted = facts(EXAMPLE, known=np.arange(20) == 8)
    said = doubts_of(facts(organ(0, 18, left=14)), [painted])[1]
    assert said[0] == "on 19 of 20 slices, nearly the whole volume"
    assert "foot end" in said[1]
    assert len(said) == 2


def test_what_is_so_in_the_example_too_is_no_doubt() -> None:
    through = facts(organ(0, 19, left=14))
    assert doubts_of(through, [through])[1] == ()
    assert doubts_of(facts(organ(6, 13, left=38)), [facts(EXAMPLE), facts(organ(6, 13, left=38))])[1] == ()


def test_another_kind_of_volume_is_said() -> None:
    other = facts_of(as_volume(body((60, 40, 60)), (5.0, 4.0, 4.0)), "mr", np.zeros((60, 40, 60), np.uint8), [1])
    said = doubts_of(other, [facts(EXAMPLE)])[1]
    assert said[1:] == (
        "the volume is MR, the example CT",
        "the volume is 240 mm wide, the example 120 mm",
        "the volume is 300 mm from foot to head, the example 100 mm",
    )
    assert doubts_of(other)[1] == ("nothing was found",)  # nothing to compare with


def test_the_most_doubtful_comes_first() -> None:
    nan = float("nan")
    keys = [by_doubt([0.9, 0.8], [(), ()]), by_doubt([0.9, nan], [(), ("nothing",)]), by_doubt([0.8], [("odd",)])]
    assert sorted(range(3), key=keys.__getitem__) == [1, 2, 0]


def test_a_prediction_has_them(tiny_checkpoint: Path, phantoms: Path) -> None:
    ours = OneShotSegmenter.load(tiny_checkpoint, inference=PLAIN.model_dump(), organs={"liver": 1, "spleen": 4})
    ours.set_support(phantoms / "ct" / "image_1.nii.gz", phantoms / "ct" / "label_1.nii.gz")
    with pytest.warns(UserWarning, match="MR, segmented like CT"):
        found = ours.predict(phantoms / "t2" / "image_1.nii.gz")
    assert "the volume is MR, the example CT" in found.doubts["liver"]
    assert "the volume is MR" in found.table()["doubts"][0]
