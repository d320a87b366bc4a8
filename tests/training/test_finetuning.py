"""Fine-tuning on made-up volumes: what it learns from, what it leaves alone, and that it can be taken up again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.model.lite0 import Lite0Encoder
from fedcowpro.model.unet import OrganUNet, build_unet
from fedcowpro.oneshot.organ_model import _trust
from fedcowpro.oneshot.whole_volume import predict_probabilities
from fedcowpro.training.distortion import Distortion, distort
from fedcowpro.training.finetuning import FineTuning
from fedcowpro.training.frame import frame_of
from fedcowpro.training.organ_loss import organ_loss
from fedcowpro.training.pool import IGNORE, Example, Unlabelled, pool_of_examples
from fedcowpro.training.recipe import Recipe, recipe_for
from fedcowpro.training.self_labels import alignment, self_labels

SMALL = Recipe(window=(64, 96), widths=(16, 8, 8), batch=2, steps=(3, 2), spacing=4.0)


def body(depth: int = 4, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """An ellipse with a bright disc on the left and a dark one on the right, and their labels 1 and 2."""
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    slices = np.where((x / 0.45) ** 2 + (y / 0.3) ** 2 < size**2, 1.0, -1.0)
    labels = np.zeros((size, size), np.uint8)
    labels[np.hypot(x + 20, y) < 9] = 1
    labels[np.hypot(x - 20, y) < 9] = 2
    slices[labels == 1], slices[labels == 2] = 2.0, 0.0
    return np.repeat(slices[None], depth, 0).astype(np.float32), np.repeat(labels[None], depth, 0)


@pytest.fixture(scope="module")
def encoder() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Lite0Encoder().state_dict()


def test_unet_gives_logits_at_image_resolution(encoder: dict[str, torch.Tensor]) -> None:
    for widths in ((16, 8, 8), (16, 8, 8, 8)):
        net = build_unet(3, encoder, 0, widths)
        assert net(torch.zeros(2, 3, 64, 96)).shape == (2, 4, 64, 96)


def test_batch_statistics_stay_frozen(encoder: dict[str, torch.Tensor]) -> None:
    net = build_unet(1, encoder, 0, (16, 8, 8)).train()
    before = net.encoder._bn0.running_mean.clone()
    net(torch.randn(2, 3, 64, 64))
    assert torch.equal(before, net.encoder._bn0.running_mean)


def test_a_frame_has_the_common_spacing_and_finds_the_way_back() -> None:
    slices, labels = body(2, 128)
    frame = frame_of(slices, 3.0, 4.0)
    assert frame.resampled == 96
    assert frame.height % 32 == 0
    assert frame.width % 32 == 0
    small = frame.labels(labels)
    assert (small == 1).sum() == pytest.approx((labels == 1).sum() * (3 / 4) ** 2, rel=0.1)
    maps = torch.nn.functional.one_hot(small.long(), 3).permute(0, 3, 1, 2).float()
    back = frame.back(maps)
    assert back.shape == (2, 3, 128, 128)
    assert torch.allclose(back.sum(1), torch.ones(()), atol=1e-5)
    found, truth = back.argmax(1).numpy() == 1, labels == 1
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.95


def test_scans_that_are_fitted_to_the_patient_keep_their_pixels() -> None:
    """A large patient at 1.7 mm and a small one at 1.2 mm are as large in pixels; 3 mm is another field of view."""
    slices, _ = body(2, 128)
    assert frame_of(slices, 1.2, 2.0) == frame_of(slices, 1.7, 2.0)
    assert frame_of(slices, 3.0, 2.0).resampled == 192


def test_training_begins_with_guesses_where_there_are_some(encoder: dict[str, torch.Tensor]) -> None:
    slices, labels = body()
    sure = np.full(labels.shape, 255, np.uint8)
    example = [Example(slices, labels, 3.0)]
    given = [Unlabelled(slices, 3.2, (labels, sure)), Unlabelled(slices, 3.1)]
    fine = FineTuning(encoder, example, 2, given, SMALL, seed=1)
    pool = fine._unlabelled
    assert pool is not None
    assert len(pool.images) == len(slices)
    assert set(pool.labels.unique().tolist()) == {0, 1, 2}
    without = FineTuning(encoder, example, 2, [replace(one, guess=None) for one in given], SMALL, seed=1)
    assert without._unlabelled is None
    assert not same(fine.run(), without.run())


def test_grey_values_do_not_depend_on_the_share_of_air() -> None:
    slices, _ = body(2, 96)
    shifted = slices * 3 + 7
    frame = frame_of(slices, 2.0, 2.0, (64, 96))
    assert torch.allclose(frame.images(slices).float(), frame.images(shifted).float(), atol=0.01)
    assert frame == frame_of(shifted, 2.0, 2.0, (64, 96))


def test_grey_values_are_changed_most_where_the_modality_is_another() -> None:
    chance = {
        (kinds, others): recipe_for(set(kinds.split()), set(others.split())).distortion.convolution
        for kinds, others in [("ct", "ct"), ("mr", "mr"), ("ct", "ct mr"), ("mr", "ct"), ("ct mr", "mr"), ("ct mr", "")]
    }
    assert chance["ct", "ct"] == chance["ct mr", "mr"] == chance["ct mr", ""] == 0
    assert recipe_for({"mr"}, {"mr"}).align
    assert not recipe_for({"ct"}, {"ct"}).align
    assert 0 < chance["mr", "mr"] < chance["ct", "ct mr"] == chance["mr", "ct"]


def test_images_and_labels_move_together() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(4, 64, 96)
    labels[:, 24:40, 30:60] = 1
    images = labels[:, None].repeat(1, 3, 1, 1)
    still = Distortion(gamma=0, curve=0, bias=0, noise=0)
    moved, moved_labels, weights = distort(images, labels, torch.ones_like(labels), still, generator)
    assert not torch.equal(labels, moved_labels)
    agree = ((moved[:, 1] > 0.5) == (moved_labels > 0.5)).float().mean()
    assert agree > 0.98
    assert weights.unique().tolist() == [0, 1]  # outside the slice nothing is known


def test_what_is_not_decided_weighs_nothing() -> None:
    slices, labels = body()
    labels[1, :10] = IGNORE
    painted = np.array([False, True, False, False])
    pool = pool_of_examples([Example(slices, labels, 4.0, frozenset({1}), painted)], 2, 4.0, (96, 96))
    assert pool.chance.tolist() == [0, 1, 0, 0]
    assert (pool.weights[1, :10] == 0).all()
    assert (pool.weights[1, 10:] == 255).all()
    assert pool.labels.max() == 2
    assert pool.known[0].tolist() == [True, True, False]


def test_an_unknown_organ_in_the_background_costs_nothing() -> None:
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 2] = 20  # organ 2 everywhere
    labels, weights = torch.zeros(1, 4, 4, dtype=torch.long), torch.ones(1, 4, 4)
    unknown = organ_loss(logits, labels, weights, torch.tensor([[True, True, False]]), torch.ones(3))
    absent = organ_loss(logits, labels, weights, torch.tensor([[True, True, True]]), torch.ones(3))
    assert unknown < 0.01 < 10 < absent


def test_loss_without_weights_is_finite_and_has_no_gradient() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.ones(2, 4, 4, dtype=torch.long)
    organ_loss(logits, labels, torch.zeros(2, 4, 4), torch.ones(2, 3, dtype=torch.bool), torch.ones(3)).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_self_labels_believe_the_largest_part_only() -> None:
    class Fixed(torch.nn.Module):
        organs = 2

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(images), 3, 32, 32)
            logits[:, 0] = 5
            logits[:, 1, :8, :8] = 10
            logits[:, 1, 20:22, 20:22] = 10
            logits[:, 2, 30:, 30:] = 10
            return logits

    labels, weights, known = self_labels(Fixed(), torch.zeros(3, 32, 32), torch.tensor([10.0, 10.0]), (0.5, 0.9))  # type: ignore[arg-type]
    assert (labels[:, :8, :8] == 1).all()
    assert (weights[:, :8, :8] == 255).all()
    assert (labels[:, 20:22, 20:22] == 0).all()
    assert (weights[:, 20:22, 20:22] == 0).all()
    assert known[0].tolist() == [True, True, False]  # the second organ is smaller than it can be
    assert not (labels == 2).any()


class Columns(torch.nn.Module):
    """Takes the first columns for organ 1 and the next for organ 2, as many as the first pixel says."""

    organs = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(images), 3, 8, 8)
        for one, image in zip(logits, images, strict=True):
            first = int(image[1, 0, 0])
            one[1, :, :first] = 1.0
            one[2, :, first:4] = 1.0
            one[0, :, 4:] = 1.0
        return logits


def test_labels_are_moved_to_the_shares_of_the_example() -> None:
    """By what most volumes have: one patient with a large organ does not count."""
    frames = [torch.full((5, 8, 8), float(columns)) for columns in (3, 3, 1)]
    shift = alignment(Columns(), frames, torch.tensor([0.5, 0.5]))  # type: ignore[arg-type]
    assert shift.tolist() == pytest.approx([0, np.log(0.5 / 0.75), np.log(0.5 / 0.25)])
    limits = alignment(Columns(), frames, torch.tensor([0.01, 0.99]))  # type: ignore[arg-type]
    assert limits.tolist() == pytest.approx([0, -1.5, np.log(0.99 / 0.25)])
    plain, moved = (
        self_labels(Columns(), frames[0], torch.zeros(2), (0, 1), by)[0]  # type: ignore[arg-type]
        for by in (None, shift)
    )
    assert (plain[..., :3] == 1).all()
    assert (moved[..., :4] == 2).all()  # the network was sure by a logit of 1 only


@pytest.mark.parametrize(("volumes", "painted", "aligned"), [(5, 4, True), (4, 4, False), (5, 3, False)])
def test_shares_count_with_whole_examples_and_enough_volumes(
    encoder: dict[str, torch.Tensor], volumes: int, painted: int, aligned: bool
) -> None:
    slices, labels = body()
    example = Example(slices, labels, 3.0, painted=np.arange(len(slices)) < painted)
    of = FineTuning(encoder, [example], 2, [Unlabelled(slices, 3.0)] * volumes, replace(SMALL, align=True))
    assert (of._shares is not None) == aligned
    if of._shares is not None:
        assert of._shares.sum() == pytest.approx(1)


def tuning(encoder: dict[str, torch.Tensor]) -> FineTuning:
    slices, labels = body()
    return FineTuning(encoder, [Example(slices, labels, 3.0)], 2, [Unlabelled(slices, 3.2)], SMALL, seed=1)


def same(one: OrganUNet, other: OrganUNet) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("at", [2, 3, 4])
def test_interrupted_and_resumed_gives_the_same_weights(encoder: dict[str, torch.Tensor], at: int) -> None:
    whole = tuning(encoder).run()
    first = tuning(encoder)
    seen: list[int] = []
    first.run(on_step=lambda progress: seen.append(progress.step), stop=lambda: len(seen) == at)
    assert seen == list(range(1, at + 1))
    second = tuning(encoder)
    second.load_state_dict(first.state_dict())
    assert same(second.run(), whole)
    assert not same(first.network(), whole)


def test_probabilities_on_the_volume(encoder: dict[str, torch.Tensor]) -> None:
    slices, _ = body(5, 96)
    net = tuning(encoder).network()
    found, agreement = predict_probabilities(net, slices, 3.0, SMALL.spacing)
    assert found.shape == (3, 5, 96, 96)
    assert agreement.shape == (2, 5)
    assert np.allclose(found.astype(np.float32).sum(0), 1, atol=0.01)


class Fickle(nn.Module):
    """Finds the bright disc (1) at any size, the dark one (2) in slices of one width alone."""

    organs = 2

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.any = width, nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grey = images[:, 1]
        dark = (grey < 2) & (grey > 0.5) & (images.shape[-1] == self.width)
        return 8 * torch.stack((torch.zeros_like(grey) + 0.5, (grey > 2.5).float(), dark.float()), 1)


def test_views_that_disagree_are_told() -> None:
    slices, _ = body(3, 224)
    width = frame_of(slices, 3.0, SMALL.spacing).width
    _, agreement = predict_probabilities(Fickle(width), slices, 3.0, SMALL.spacing)  # type: ignore[arg-type]
    assert (agreement[0] > 0.8).all()
    assert (agreement[1] < 0.01).all()
    _, alone = predict_probabilities(Fickle(width), slices, 3.0, SMALL.spacing, scales=(1.0,))  # type: ignore[arg-type]
    assert (alone == 1).all()


def test_trust_is_of_probabilities_in_the_mask_and_of_agreement() -> None:
    labels = np.zeros((3, 4, 4), np.uint8)
    labels[0, :2], labels[1, 0] = 7, 7
    soft = np.full((1, 3, 4, 4), 0.5, np.float16)
    soft[0, 0] = 1
    trust, areas = _trust(soft, np.array([[0.9, 0.8, 0.7]], np.float32), labels, (7,))
    np.testing.assert_allclose(trust, [[0.9, 0.2, np.nan]], rtol=1e-6)
    np.testing.assert_array_equal(areas, [[8, 4, 0]])


def test_an_organ_that_no_example_shows_is_said(encoder: dict[str, torch.Tensor]) -> None:
    slices, labels = body()
    with pytest.raises(FedCoWProError, match="organ 3"):
        FineTuning(encoder, [Example(slices, labels, 3.0)], 3, [], SMALL)
    with pytest.raises(FedCoWProError, match="no annotated volume"):
        FineTuning(encoder, [], 1, [], SMALL)
