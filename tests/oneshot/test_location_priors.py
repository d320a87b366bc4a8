"""Priors of where an organ may lie, against hand-made volumes, and their way through evaluation and segmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedcowpro.config import InferConfig, ModelConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import plan_episodes
from fedcowpro.evaluation.run import evaluate_episode
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.location_priors import (
    LocationPrior,
    is_wanted,
    locate,
    log_odds_of,
    shift_between,
)
from fedcowpro.oneshot.predictor import OneShotPredictor

SIZE = 64


def body(positions: np.ndarray, spacing: float, box: tuple[int, int, int, int] = (0, 63, 0, 63)) -> LocationPrior:
    """Slices at `positions` (mm) of one imaginary body, whose features change smoothly along it."""
    waves = torch.linspace(0.004, 0.03, 24)
    found = torch.cos(torch.as_tensor(positions)[:, None] * waves + torch.arange(24))
    return LocationPrior(torch.nn.functional.normalize(found - found.mean(0), dim=1).float(), spacing, SIZE, box)


def square(top: int, left: int, side: int = 8) -> np.ndarray:
    mask = np.zeros((1, SIZE, SIZE), bool)
    mask[0, top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize(("start", "end", "spacing"), [(90, 240, 3.0), (-60, 150, 5.0), (0, 300, 7.5), (150, 420, 3.0)])
def test_the_shift_between_volumes_of_one_body_is_found(start: float, end: float, spacing: float) -> None:
    support = body(np.arange(0, 300, 4.0), 4.0)
    query = body(np.arange(start, end, spacing), spacing)
    # Volumes that overlap in part agree a little better when they are moved into each other.
    assert shift_between(query, support) == pytest.approx(start, abs=18)


def test_a_volume_of_one_slice_has_a_shift() -> None:
    support = body(np.arange(0, 300, 4.0), 4.0)
    assert shift_between(body(np.array([100.0]), 5.0), support) in np.arange(-5, 300, 3.0)


def test_the_body_is_found_and_an_empty_volume_has_one() -> None:
    slices = np.full((5, SIZE, SIZE), -1.0, np.float32)
    slices[:, 10:50, 20:60] = 1.0
    slices[0, 60] = 1.0  # a table in one slice
    features = torch.rand(5, 4, 16, 16)
    found = locate(features, slices, 3.0)
    assert found.box == (10, 49, 20, 59)
    assert found.centre == (29.5, 39.5)
    torch.testing.assert_close(found.descriptors.norm(dim=1), torch.ones(5))
    assert locate(features, np.zeros_like(slices), 3.0).box == (0, 63, 0, 63)


def test_the_extent_reaches_half_a_step_beyond_the_annotated_slices() -> None:
    support = body(np.arange(0, 120, 4.0), 4.0)
    # Middles of three thirds of slices 6..23: the organ reaches from 5.5 to 23.5.
    found = support.with_organ(1, np.repeat(square(8, 40), 3, axis=0), [8, 14, 20])
    assert found.extents == {1: (5 * 4.0, 23 * 4.0)}
    assert found.with_organ(2, square(8, 40), [9]).extents == {**found.extents, 2: (34.0, 38.0)}
    np.testing.assert_array_equal(found.quadrants[1], [[False, True], [False, False]])
    with pytest.raises(FedCoWProError, match="without a voxel"):
        support.with_organ(1, np.zeros((1, SIZE, SIZE), bool), [3])


def test_slices_far_from_the_extent_lose_the_axial_prior() -> None:
    support, query = body(np.arange(0, 200, 4.0), 4.0), body(np.arange(0, 400, 5.0), 5.0)
    support = support.with_organ(1, np.repeat(square(8, 40), 2, axis=0), [20, 30])  # 60 to 140 mm
    lost = support.log_odds(1, query, -100.0, range(80), InferConfig(axial_prior=6))
    assert lost.shape == (80, SIZE, SIZE)
    assert lost.dtype == np.float32
    position = np.arange(80) * 5 - 100
    beyond = np.maximum(0, np.maximum(60 - position, position - 140))
    expected = -6 * np.clip((beyond - 15) / 45, 0, 1)
    np.testing.assert_allclose(lost[:, 0, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(lost, lost[:, :1, :1] + np.zeros_like(lost))
    part = support.log_odds(1, query, -100.0, [3, 70], InferConfig(axial_prior=6))
    np.testing.assert_array_equal(part, lost[[3, 70]])


def test_only_touched_quadrants_stay() -> None:
    support = body(np.arange(0, 40, 4.0), 4.0)
    query = body(np.arange(0, 40, 4.0), 4.0, (0, 63, 20, 63))  # its centre is right of the middle
    config = InferConfig(quadrant_mask=True)
    upper_left, everywhere = (
        support.with_organ(1, square(corner, corner, side), [2]) for corner, side in ((4, 4), (28, 8))
    )
    allowed = upper_left.log_odds(1, query, 0.0, [2], config)[0] == 0
    rows, columns = np.flatnonzero(allowed.any(1)), np.flatnonzero(allowed.any(0))
    assert (rows[0], rows[-1]) == (0, 33)  # 31.5 and a thirty-second of the side
    assert (columns[0], columns[-1]) == (0, 43)
    assert allowed.sum() == 34 * 44
    assert (everywhere.log_odds(1, query, 0.0, [2], config) == 0).all()


def test_of_several_examples_the_maximum_counts() -> None:
    support = body(np.arange(0, 40, 4.0), 4.0)
    config = InferConfig(quadrant_mask=True)
    upper = support.with_organ(1, square(4, 4), [2]).with_organ(2, square(4, 4), [2])
    lower = support.with_organ(1, square(50, 50), [2])
    both, one = log_odds_of([upper, lower], support, [1, 2], config)([0, 1])
    np.testing.assert_array_equal(one, upper.log_odds(2, support, 0.0, [0, 1], config))
    np.testing.assert_array_equal(both, np.maximum(one, lower.log_odds(1, support, 0.0, [0, 1], config)))


def test_evaluation_obeys_the_location_priors(ct_site: Site) -> None:
    (episode,) = plan_episodes({"ct": ct_site}).episodes
    model = build_model(ModelConfig(encoder="tiny", channels=8), 0)

    def predict(config: InferConfig, protocols: tuple[str, ...] = ("whole-volume",)) -> tuple[list[np.ndarray], list]:
        masks: list[np.ndarray] = []
        rows = evaluate_episode(
            OneShotPredictor(model, config), {"ct": ct_site}, episode, method="m", seed=0, protocols=protocols,
            on_prediction=lambda case, organ, mask: masks.append(mask),
        )  # fmt: skip
        return masks, rows

    free = InferConfig(refine=0, keep_components=False, exclusive=False)
    assert not is_wanted(free)
    plain, _ = predict(free)
    priors = {"axial_prior": 1000.0, "quadrant_mask": True}
    for name, value in priors.items():
        guided, rows = predict(free.model_copy(update={name: value}))
        assert any(mask.any() for mask in guided)
        assert all(not (mask & ~before).any() for mask, before in zip(guided, plain, strict=True))
        if name != "axial_prior":  # a phantom is hardly longer than its organs
            assert any((mask != before).any() for mask, before in zip(guided, plain, strict=True))
        assert rows[0].options[name] == ("true" if value is True else "1000")
