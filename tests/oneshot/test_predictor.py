"""Inference: organs, supports and views at once give what they give one at a time, and no slice is encoded twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from common import PLAIN, TINY
from fedcowpro.config import HeadConfig, ModelConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.model.segmenter import build_model, upsample
from fedcowpro.oneshot.predictor import Features, OneShotPredictor, join
from fedcowpro.oneshot.slices import pick_slices, slices_of

SIDE = 64
HEADS = pytest.mark.parametrize("kind", ["cowpro", "cowpro-raw", "alpnet", "panet", "nearest-support"])


def predictor(kind: str = "cowpro", **settings: Any) -> OneShotPredictor:
    head = HeadConfig.model_validate({"kind": kind, "train_window": 2})  # pictures of 64 x 64 pixels
    model = build_model(TINY.model_copy(update={"channels": 16, "head": head}), 0)
    return OneShotPredictor(model, PLAIN.model_copy(update=settings))


def example(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Slices with a bright, a dark and a striped rectangle on noise, labels 1, 2 and 5, at varying places."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.2, (count, SIDE, SIDE)).astype(np.float32)
    labels = np.zeros((count, SIDE, SIDE), np.uint8)
    stripes = np.where(np.arange(SIDE) % 4 < 2, 2.0, -2.0)
    for image, label in zip(images, labels, strict=True):
        for organ, top, look in ((1, 4, 2.0), (2, 24, -2.0), (5, 44, stripes)):
            row, column = top + rng.integers(0, 4), rng.integers(4, 28)
            area = np.s_[row : row + 14, column : column + 28]
            label[area] = organ
            image[area] += np.broadcast_to(look, (SIDE, SIDE))[area]
    return images, labels


def everywhere(groups: int, slices: int) -> np.ndarray:
    """Group k for organ k on every slice."""
    return np.repeat(np.arange(groups)[:, None], slices, axis=1)


def close(one: np.ndarray, two: np.ndarray) -> bool:
    return bool(np.abs(one - two).max() < 1e-4)


@HEADS
def test_organs_at_once_equal_one_by_one(kind: str) -> None:
    model = build_model(TINY.model_copy(update={"head": HeadConfig.model_validate({"kind": kind})}), 0)
    ours = OneShotPredictor(model, PLAIN.model_copy(update={"flip": True, "scales": (1.0, 1.5)}))
    images, labels = example(3)
    queries, _ = example(4, seed=1)
    support, query = ours.encode(images), ours.encode(queries)
    groups = [(1, (0, 2)), (2, (1,)), (5, (0, 1, 2))]
    together = ours.probabilities(query, ours.prototypes(support, labels, groups), everywhere(3, 4))
    assert together.shape == (3, 4, SIDE, SIDE)
    for index, group in enumerate(groups):
        alone = ours.probabilities(query, ours.prototypes(support, labels, [group]), everywhere(1, 4))
        assert close(together[index], alone[0])
    assert together.min() >= 0
    assert together.max() <= 1


def test_only_the_slices_of_a_group_count() -> None:
    ours = predictor()
    images, labels = example(3)
    query = ours.encode(example(2, seed=1)[0])
    whole = ours.prototypes(ours.encode(images), labels, [(1, (1,))])
    one = ours.prototypes(ours.encode(images[1:2]), labels[1:2], [(1, (0,))])
    assert close(ours.probabilities(query, whole, everywhere(1, 2)), ours.probabilities(query, one, everywhere(1, 2)))


def test_a_choice_of_groups_is_made_for_each_slice() -> None:
    ours = predictor()
    images, labels = example(3)
    support, query = ours.encode(images), ours.encode(example(5, seed=1)[0])
    chunks = ours.prototypes(support, labels, [(organ, (z,)) for organ in (1, 5) for z in range(3)])
    choice = np.array([[0, 0, 1, 2, 2], [5, 3, 4, 4, 5]])
    found = ours.probabilities(query, chunks, choice)
    for row, organ in enumerate((1, 5)):
        for index in range(5):
            group = (organ, (int(choice[row, index]) % 3,))
            one = ours.probabilities(query.select([index]), ours.prototypes(support, labels, [group]), everywhere(1, 1))
            assert close(found[row, index], one[0, 0])


def test_several_supports_are_taken_together() -> None:
    ours = predictor(flip=True)
    (one, one_labels), (two, two_labels) = example(2), example(3, seed=5)
    query = ours.encode(example(2, seed=1)[0])
    joined = join([ours.encode(one), ours.encode(two)])
    assert len(joined) == 5
    labels = np.concatenate((one_labels, two_labels))
    group = [(2, (0, 1, 2, 3, 4))]
    both = ours.probabilities(query, ours.prototypes(joined, labels, group), everywhere(1, 2))
    at_once = ours.prototypes(ours.encode(np.concatenate((one, two))), labels, group)
    assert close(both, ours.probabilities(query, at_once, everywhere(1, 2)))
    alone = ours.prototypes(ours.encode(one), one_labels, [(2, (0, 1))])
    assert not close(both, ours.probabilities(query, alone, everywhere(1, 2)))


@HEADS
def test_it_is_the_head_that_was_trained(kind: str) -> None:
    """Foreground probability = softmax of the scores that training compares, with the test window."""
    ours = predictor(kind)
    images, labels = example(3)
    queries, _ = example(1, seed=1)
    found = ours.probabilities(
        ours.encode(queries), ours.prototypes(ours.encode(images), labels, [(1, (0, 1, 2))]), everywhere(1, 1)
    )
    model = ours.model
    with torch.no_grad():
        query, support = (model.encode(torch.from_numpy(part)[:, None]) for part in (queries, images))
        masks = torch.from_numpy((labels == 1).astype(np.float32))
        scores = model.compare(query, support, masks, model.config.head.test_window)
        expected = upsample(scores, (SIDE, SIDE)).softmax(1)[0, 1]
    assert close(found[0, 0], expected.numpy())


def test_slices_do_not_depend_on_their_batch() -> None:
    ours = predictor()
    images, labels = example(3)
    prototypes = ours.prototypes(ours.encode(images), labels, [(1, (0, 1, 2))])
    queries, _ = example(19, seed=1)
    encoded = ours.encode(queries)
    assert len(encoded) == 19
    together = ours.probabilities(encoded, prototypes, everywhere(1, 19))
    for index in (0, 7, 8, 18):
        alone = ours.probabilities(ours.encode(queries[index : index + 1]), prototypes, everywhere(1, 1))
        assert close(together[:, index], alone[:, 0])
    for threshold in (0.5, 0.3):
        ours.config = PLAIN.model_copy(update={"threshold": threshold})
        masks = ours.probabilities(encoded, prototypes, everywhere(1, 19)) > ours.config.threshold
        assert masks.dtype == bool
        np.testing.assert_array_equal(masks, together > threshold)


def test_pretrained_features_find_what_looks_like_the_example() -> None:
    """Without any training of ours: bright, dark and striped areas at other places."""
    model = build_model(ModelConfig(encoder="lite0"), 0, project=False)
    ours = OneShotPredictor(model, PLAIN)
    (images, labels), (queries, truth) = (
        [np.kron(part, np.ones((1, 4, 4), part.dtype)) for part in example(3, seed)] for seed in (0, 1)
    )
    prototypes = ours.prototypes(ours.encode(images), labels, [(organ, (0, 1, 2)) for organ in (1, 2, 5)])
    masks = ours.probabilities(ours.encode(queries), prototypes, everywhere(3, 3)) > ours.config.threshold
    for mask, organ in zip(masks, (1, 2, 5), strict=True):
        right = truth == organ
        assert 2 * (mask & right).sum() / (mask.sum() + right.sum()) > 0.7


@pytest.mark.parametrize(
    ("settings", "views"), [({}, 1), ({"flip": True}, 2), ({"flip": True, "scales": (1.0, 1.5)}, 4)]
)
def test_encoded_slices_are_counted(settings: dict[str, Any], views: int) -> None:
    ours, seen = predictor(**settings), []
    encode = ours.model.encode
    ours.model.encode = lambda images: seen.append(len(images)) or encode(images)  # type: ignore[method-assign]
    images, labels = example(11)
    encoded = ours.encode(images)
    assert len(encoded.views) == views
    assert ours.encoded_slices == sum(seen) == 11 * views
    prototypes = ours.prototypes(encoded, labels, [(1, (0, 1)), (2, (3,))])
    ours.probabilities(encoded, prototypes, everywhere(2, 11))
    assert sum(seen) == 11 * views  # comparing encodes nothing


def test_with_flip_a_mirrored_world_gives_mirrored_answers() -> None:
    ours = predictor(flip=True)
    images, labels = example(2)
    queries, _ = example(2, seed=1)

    def run(mirror: bool) -> np.ndarray:
        parts = [part[..., ::-1].copy() if mirror else part for part in (images, labels, queries)]
        prototypes = ours.prototypes(ours.encode(parts[0]), parts[1], [(1, (0, 1))])
        return ours.probabilities(ours.encode(parts[2]), prototypes, everywhere(1, 2))

    assert close(run(True)[..., ::-1], run(False))


def test_the_model_is_not_in_training_mode() -> None:
    model = build_model(TINY, 0).train()
    ours = OneShotPredictor(model)
    before = {name: value.clone() for name, value in model.named_buffers()}
    encoded = ours.encode(example(2)[0])
    assert not model.training
    assert not any(view.requires_grad for view in encoded.views)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


@HEADS
def test_an_organ_that_vanishes_on_the_feature_grid_is_defined(kind: str) -> None:
    ours = predictor(kind)
    images, labels = example(2)
    labels[:] = 0
    labels[:, 1, 1] = 9
    prototypes = ours.prototypes(ours.encode(images), labels, [(9, (0, 1))])
    found = ours.probabilities(ours.encode(images), prototypes, everywhere(1, 2))
    assert np.isfinite(found).all()
    labels[:] = 9  # and so is one that leaves no background
    prototypes = ours.prototypes(ours.encode(images), labels, [(9, (0, 1))])
    assert np.isfinite(ours.probabilities(ours.encode(images), prototypes, everywhere(1, 2))).all()


def test_selected_slices() -> None:
    encoded: Features = predictor(flip=True).encode(example(5)[0])
    some = encoded.select([3, 1])
    assert len(some) == 2
    for part, whole in zip(some.views, encoded.views, strict=True):
        assert torch.equal(part, whole[[3, 1]])


def test_slices_of_an_organ() -> None:
    labels = np.zeros((6, 4, 4), np.uint8)
    labels[[1, 2, 4], 0, 0] = 3
    assert slices_of(labels, 3) == [1, 2, 4]
    with pytest.raises(FedCoWProError, match="no voxel of label 7"):
        slices_of(labels, 7)
    assert pick_slices(list(range(10, 22)), 3) == [12, 16, 20]
    assert pick_slices([4, 9], "all") == [4, 9]
