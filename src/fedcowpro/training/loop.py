"""Local training of a segmenter on self-supervised episodes. Knows nothing of federation."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedcowpro.config import LossConfig, TrainConfig
from fedcowpro.core.allocator import keep_large_blocks
from fedcowpro.core.device import LateValues, device_of, fused, take_step, training_on
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.episodes.sampler import EpisodeBatch
from fedcowpro.model.segmenter import Segmenter
from fedcowpro.training.losses import episode_losses


class EpisodeSource(Protocol):
    """Anything that draws batches of episodes from a generator; `progress` is the share of training done, 0..1."""

    def sample(self, batch: int, generator: torch.Generator, progress: float = 1.0) -> EpisodeBatch: ...


@dataclass(frozen=True)
class FitReport:
    """What a training did: counts, mean losses over its steps, mean Dice on pseudo-labels (0..1), seconds."""

    steps: int
    episodes: int
    losses: dict[str, float]
    pseudo_dice: float
    seconds: float


def fit(
    model: Segmenter,
    source: EpisodeSource,
    train: TrainConfig,
    loss: LossConfig,
    *,
    steps: int,
    first_step: int = 0,
    total_steps: int | None = None,
    generator: torch.Generator,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    penalties: Mapping[str, Callable[[Segmenter], Tensor]] | None = None,
) -> FitReport:
    """Train `model` in place for `steps` steps with a fresh optimiser, on its device, where the batches lie, too.

    The process keeps the memory that a step frees for the next one (see `allocator`). On CUDA the encoder computes in
    bfloat16, the next batch is made while a step is under way, and a step's losses are read during the next one.

    Args:
        first_step: position of the first step on the schedule of `total_steps` (for rounds of a federation).
        total_steps: length of the schedule; default first_step + steps.
        generator: source of all random draws.
        on_step: called for each step with its number and losses: after it, on a GPU after the next one.
        penalties: further terms of the loss as functions of the model alone, by the names under which they are
            reported; `total` has them, too.

    Raises:
        FedCoWProError: the loss became NaN or infinite; the model is left as it was before that step (on CUDA as the
            step after made it). Or the device's memory does not suffice.
    """
    keep_large_blocks()
    total = total_steps if total_steps is not None else first_step + steps
    device = device_of(model)
    optimizer = _make_optimizer(model, train)
    sums: dict[str, float] = defaultdict(float)
    late = LateValues(device)
    started = time.perf_counter()
    model.train()

    def batch_of(step: int) -> EpisodeBatch:
        return source.sample(train.batch, generator, step / total)

    def note(known: Mapping[int, Mapping[str, float]]) -> None:
        for step, values in known.items():
            for name, value in values.items():
                sums[name] += value
            if on_step is not None:
                on_step(step, dict(values))

    with training_on(device, "lower train.batch, or use another device"):
        for step, batch in _ahead(batch_of, range(first_step, first_step + steps), device):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total, train)
            terms, logits = episode_losses(
                model, batch.support, batch.support_mask, batch.query, batch.query_mask, loss
            )
            for name, penalty in (penalties or {}).items():
                terms[name] = penalty(model)
                terms["total"] = terms["total"] + terms[name]
            background, foreground = logits.detach().unbind(1)
            dice = _mean_dice(foreground > background, batch.query_mask > 0)
            known = _finite(late.put(step, {**terms, "pseudo_dice": dice}))
            optimizer.zero_grad(set_to_none=True)
            terms["total"].backward()
            if train.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
            take_step(optimizer, terms["total"])
            note(known)
        note(_finite(late.rest()))
    means = {name: value / steps for name, value in sums.items()} if steps else {}
    pseudo_dice = means.pop("pseudo_dice", float("nan"))
    return FitReport(steps, steps * train.batch, means, pseudo_dice, time.perf_counter() - started)


def _ahead(
    make: Callable[[int], EpisodeBatch], steps: range, device: torch.device
) -> Iterator[tuple[int, EpisodeBatch]]:
    """Each step with its batch; beside a GPU the next one is made while a step is under way."""
    if device.type == "cpu":
        for step in steps:
            yield step, make(step)
        return
    with ThreadPoolExecutor(1, "batches") as pool:
        waiting = [pool.submit(make, step) for step in steps[:1]]
        for step in steps:
            batch = waiting.pop().result()
            waiting = [pool.submit(make, after) for after in steps[step - steps.start + 1 :][:1]]
            yield step, batch


def _finite(known: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    for step, values in known.items():
        if not math.isfinite(values["total"]):
            raise FedCoWProError(
                f"the loss became {values['total']} at step {step}: {values}",
                "finite losses",
                "lower train.lr, or switch on train.clip_norm; check the site with other data",
            )
    return known


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Rate at `step` of `total`.

    `step`: lr * decay^(step // decay_every), the paper's. `warmup-cosine`: linear rise over the first tenth, then
    a cosine to a hundredth. `constant`: lr.
    """
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        return config.lr * config.decay ** (step // config.decay_every)
    rise = max(1, total // 10)
    if step < rise:
        return config.lr * (step + 1) / rise
    progress = (step - rise) / max(1, total - rise)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def _make_optimizer(model: Segmenter, config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay,
            fused=fused(model),
        )  # fmt: skip
    return torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=fused(model))


def _mean_dice(prediction: Tensor, target: Tensor) -> Tensor:
    overlap = (prediction & target).sum((1, 2))
    size = prediction.sum((1, 2)) + target.sum((1, 2))
    return (2 * overlap / size.clamp_min(1)).mean()
