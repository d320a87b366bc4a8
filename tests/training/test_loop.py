"""Local training: it learns, it stops when it diverges, and it repeats itself bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from common import TINY
from fedcowpro.config import LossConfig, TrainConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.episodes.sampler import EpisodeBatch
from fedcowpro.model.checkpoint import state_digest
from fedcowpro.model.segmenter import Segmenter, build_model
from fedcowpro.training.loop import FitReport, fit, learning_rate


class Squares:
    """Textured squares on another texture, at places drawn from the generator; 64 x 64 pixels.

    `bad_step` gives NaN pixels from that call on.
    """

    def __init__(self, bad_step: int | None = None) -> None:
        self.calls, self.bad_step = 0, bad_step
        self.progress: list[float] = []

    def sample(self, batch: int, generator: torch.Generator, progress: float = 1.0) -> EpisodeBatch:
        stripes = torch.arange(64).remainder(4).lt(2).float() * 2 - 1
        images, masks = torch.randn(2 * batch, 64, 64, generator=generator) * 0.5, torch.zeros(2 * batch, 64, 64)
        for image, mask in zip(images, masks, strict=True):
            top, left = (int(torch.randint(0, 32, (1,), generator=generator)) for _ in range(2))
            mask[top : top + 32, left : left + 32] = 1
            image += torch.where(mask > 0, stripes[:, None], stripes[None])
        if self.bad_step is not None and self.calls >= self.bad_step:
            images[0, 0, 0] = math.nan
        self.calls += 1
        self.progress.append(progress)
        first, second = images[:, None].chunk(2)
        first_mask, second_mask = masks.long().chunk(2)
        return EpisodeBatch(first, first_mask, second, second_mask)


def train(
    config: TrainConfig, steps: int = 3, seed: int = 0, first_step: int = 0, total_steps: int | None = None
) -> tuple[Segmenter, FitReport, list[dict[str, float]]]:
    model, seen = build_model(TINY, 0), []
    report = fit(
        model,
        Squares(),
        config,
        LossConfig(),
        steps=steps,
        first_step=first_step,
        total_steps=total_steps,
        generator=torch.Generator().manual_seed(seed),
        on_step=lambda _, values: seen.append(values),
    )
    return model, report, seen


@pytest.mark.parametrize(
    "config",
    [TrainConfig(lr=3e-3, batch=2), TrainConfig(optimizer="sgd", lr=3e-3, schedule="step", batch=2, clip_norm=None)],
    ids=["adamw", "sgd"],
)
def test_loss_falls(config: TrainConfig) -> None:
    _, report, seen = train(config, steps=40)
    totals = [values["total"] for values in seen]
    assert sum(totals[-8:]) < 0.8 * sum(totals[:8])
    assert seen[-1]["pseudo_dice"] > seen[0]["pseudo_dice"]
    assert report.steps == 40
    assert report.episodes == 80
    assert report.losses["total"] == pytest.approx(sum(totals) / 40)
    assert set(report.losses) == {"cross_entropy", "alignment", "spatial_dice", "edge_dice", "total"}
    assert report.pseudo_dice == pytest.approx(sum(values["pseudo_dice"] for values in seen) / 40)
    assert report.seconds > 0


def test_same_seed_same_weights_bit_for_bit() -> None:
    config = TrainConfig(batch=2)
    one, two, other = (state_digest(train(config, seed=seed)[0].state_dict()) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_a_loss_that_is_not_finite_stops_before_it_harms() -> None:
    config = TrainConfig(batch=2)
    source, model = Squares(bad_step=2), build_model(TINY, 0)
    with pytest.raises(FedCoWProError, match="the loss became nan at step 12") as caught:
        fit(
            model, source, config, LossConfig(), steps=5, first_step=10, generator=torch.Generator().manual_seed(0)
        )  # fmt: skip
    assert "train.lr" in caught.value.remedy
    assert source.calls == 3
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_no_step_is_no_training() -> None:
    model, report, seen = train(TrainConfig(), steps=0)
    assert seen == []
    assert report.losses == {}
    assert state_digest(model.state_dict()) == state_digest(build_model(TINY, 0).state_dict())


def parameters(model: Segmenter) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_clipping_bounds_the_step() -> None:
    start = parameters(build_model(TINY, 0))
    settings = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "lr": 0.1}
    clipped = TrainConfig.model_validate({**settings, "clip_norm": 1e-3})
    length = (parameters(train(clipped, steps=1)[0]) - start).norm()
    assert length.item() == pytest.approx(0.1 * 1e-3, rel=1e-3)
    free = TrainConfig.model_validate({**settings, "clip_norm": None})
    assert (parameters(train(free, steps=1)[0]) - start).norm().item() > 0.1 * 1e-2


def test_the_schedule_sets_the_rate_of_each_step() -> None:
    """A later first step is a later place on the schedule."""
    settings = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "step", "lr": 0.1}
    config = TrainConfig.model_validate({**settings, "decay": 0.5, "decay_every": 10, "clip_norm": 1e-3})
    start = parameters(build_model(TINY, 0))
    lengths = [(parameters(train(config, steps=1, first_step=step)[0]) - start).norm().item() for step in (0, 10, 20)]
    assert lengths == pytest.approx([1e-4, 5e-5, 2.5e-5], rel=1e-3)
    cycle = config.model_copy(update={"schedule": "warmup-cosine"})
    model, _, _ = train(cycle, steps=1, first_step=55, total_steps=100)
    assert (parameters(model) - start).norm().item() == pytest.approx(1e-4 * 0.505, rel=1e-3)


def test_learning_rates() -> None:
    step = TrainConfig(schedule="step", lr=1e-3)
    assert learning_rate(999, 5000, step) == pytest.approx(1e-3)
    assert learning_rate(1000, 5000, step) == pytest.approx(0.95e-3)
    assert learning_rate(99_999, 100_000, step) == pytest.approx(1e-3 * 0.95**99)  # the paper's last
    assert learning_rate(7, 10, TrainConfig(schedule="constant", lr=2.0)) == 2.0
    cycle = TrainConfig(schedule="warmup-cosine", lr=1.0)
    rates = [learning_rate(s, 100, cycle) for s in range(101)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert max(rates) == 1.0
    assert rates[55] == pytest.approx(0.505)
    assert rates[100] == pytest.approx(0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(0, 1, cycle) == 1.0
    assert learning_rate(150, 100, cycle) == pytest.approx(0.01)


def test_frozen_normalisation_stays_frozen_while_training() -> None:
    model = build_model(TINY.model_copy(update={"frozen_norm": True}), 0)
    before = {name: value.clone() for name, value in model.named_buffers()}
    fit(model, Squares(), TrainConfig(batch=2), LossConfig(), steps=2, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_the_source_is_told_how_far_training_is() -> None:
    source, model = Squares(), build_model(TINY, 0)
    generator = torch.Generator().manual_seed(0)
    settings = {"steps": 3, "first_step": 6, "total_steps": 12, "generator": generator}
    fit(model, source, TrainConfig(batch=1), LossConfig(), **settings)  # type: ignore[arg-type]
    assert source.progress == [6 / 12, 7 / 12, 8 / 12]
