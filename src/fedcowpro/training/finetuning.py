"""From one annotated volume to a network for its organs: fine-tuning, then self-training on unlabelled volumes.

Fixed schedules: with one annotated volume there is nothing to validate on. Learning rate, weights of classes and the
beginning with guesses were chosen on real volumes (docs/results-studies.md); the rest follows a prototype.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedcowpro.core.allocator import keep_large_blocks
from fedcowpro.core.device import CPU, LateValues, device_of, fused, take_step, training_on
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.model.unet import OrganUNet, build_unet
from fedcowpro.training.distortion import distort
from fedcowpro.training.frame import frame_of
from fedcowpro.training.organ_loss import class_balance, organ_loss
from fedcowpro.training.pool import Example, Pool, Unlabelled, frames_of, pool_of, pool_of_examples
from fedcowpro.training.recipe import Recipe
from fedcowpro.training.self_labels import alignment, believed, self_labels


class Learner:
    """A network in training: its optimiser, the moving average of its weights, and the source of all draws.

    All of it lies on the network's device.

    Args:
        net: with the weights to begin with.
        recipe: settings.
        balance: weight of each class (see `class_balance`).
        generator: of all draws.
    """

    def __init__(self, net: OrganUNet, recipe: Recipe, balance: Tensor, generator: torch.Generator) -> None:
        self.device = device_of(net)
        self.net, self.recipe, self.generator = net.train(), recipe, generator
        self.balance = balance.to(self.device)
        self.losses: list[float] = []  # of each step, as far as they are known
        self._late = LateValues(self.device)
        self.mean = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        self.optimizer = _optimizer(net, recipe)

    def step(self, labelled: Pool | None, unlabelled: Pool | None, share: float, decay: float) -> None:
        """One step on a batch of both pools, or of the one that is there.

        Args:
            share: of the recipe's learning rate.
            decay: of the moving average.

        Raises:
            FedCoWProError: the loss is NaN or infinite; of a step on a GPU the next one, or `finish`, says so.
        """
        settings = self.recipe
        for group, of in zip(self.optimizer.param_groups, (settings.encoder_share, 1.0), strict=True):
            group["lr"] = settings.lr * share * of
        own = max(1, round(settings.batch * settings.labelled_share)) if labelled and unlabelled else settings.batch
        counts = (own, settings.batch - own) if labelled else (0, settings.batch)
        drawn = [
            pool.draw(count, self.generator)
            for pool, count in zip((labelled, unlabelled), counts, strict=True)
            if pool is not None and count
        ]
        images, labels, weights, known = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        images, labels, weights = distort(images, labels, weights, settings.distortion, self.generator)
        loss = organ_loss(self.net(images), labels.long(), weights, known, self.balance)
        self._note(self._late.put(0, {"loss": loss}))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        take_step(self.optimizer, loss)
        for name, tensor in self.net.state_dict().items():
            if tensor.is_floating_point():
                self.mean[name].lerp_(tensor, 1 - decay)

    def finish(self) -> None:
        """Wait for the loss of the last step.

        Raises:
            FedCoWProError: as `step`.
        """
        self._note(self._late.rest())

    def _note(self, known: Mapping[int, Mapping[str, float]]) -> None:
        for values in known.values():
            self.losses.append(values["loss"])
            if not math.isfinite(self.losses[-1]):
                raise FedCoWProError(
                    f"the loss became {self.losses[-1]}", "finite losses",
                    "check the volumes for NaN, or lower the learning rate",
                )  # fmt: skip

    def averaged(self) -> OrganUNet:
        """The averaged network, in evaluation mode, on the same device."""
        net = OrganUNet(self.net.organs, self.net.widths).to(self.device)
        net.load_state_dict(self.mean)
        return net.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def restart(self) -> None:
        """Go on from the average, with a new optimiser."""
        self.net.load_state_dict(self.mean)
        self.optimizer = _optimizer(self.net, self.recipe)


def average_decay(recipe: Recipe, step: int) -> float:
    """Decay of the average at a step of the first training: short at first, so that it forgets initial weights."""
    return min(recipe.average, (1 + step) / (10 + step))


@dataclass(frozen=True)
class Progress:
    """After a step: steps done of all, the round from 0, its loss, seconds left at the present speed."""

    step: int
    steps: int
    round: int
    loss: float
    seconds_left: float


class FineTuning:
    """A fine-tuning that can be stopped after any step and taken up again.

    The same encoder, examples, volumes, recipe, seed, threads and versions give the same weights, interrupted or not.

    Args:
        encoder: state of a `Lite0Encoder`.
        examples: annotated volumes.
        organs: number of organs k.
        unlabelled: volumes for self-training; without them only the first round is done.
        recipe: settings.
        seed: of the decoder and of all draws.
        device: where it trains.

    Raises:
        FedCoWProError: no example, or an organ that no example shows; while it runs, too little memory.
    """

    def __init__(
        self,
        encoder: Mapping[str, Tensor],
        examples: Sequence[Example],
        organs: int,
        unlabelled: Sequence[Unlabelled] = (),
        recipe: Recipe | None = None,
        seed: int = 0,
        device: torch.device = CPU,
    ) -> None:
        keep_large_blocks()
        self.recipe, self.device = recipe or Recipe(), device
        _require_organs(examples, organs)
        settings = self.recipe
        labelled = pool_of_examples(examples, organs, settings.spacing, settings.window)
        self._labelled = labelled.to(device)
        self._frames = frames_of(unlabelled, settings.spacing, settings.window)
        self._least = _smallest_areas(examples, organs) * settings.least / settings.spacing**2
        aligned = settings.align and len(unlabelled) >= _FEWEST
        self._shares = _shares(examples, labelled) if aligned else None
        self._unlabelled = self._guessed(unlabelled)
        net = build_unet(organs, encoder, seed, settings.widths).to(device)
        balance = class_balance(labelled)
        self._learner = Learner(net, settings, balance, torch.Generator().manual_seed(seed))
        self.steps = settings.steps if unlabelled else settings.steps[:1]
        self.round, self.step = 0, 0  # the step within the round
        self._planned = False  # whether the steps were fitted to the minutes

    def run(
        self,
        minutes: float | None = None,
        on_step: Callable[[Progress], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> OrganUNet:
        """Train to the end, or until `stop` says so after a step, and give the network as it is then.

        Args:
            minutes: longest time for all rounds; where the machine is too slow, at the speed of the first ten steps,
                for the recipe's steps, there are fewer. None = no limit.
            on_step: called after each step.
            stop: asked after each step.

        Raises:
            FedCoWProError: the loss became NaN or infinite.
        """
        with training_on(self.device, "use another device, or fewer unlabelled volumes"):
            return self._run(minutes, on_step, stop)

    def _run(
        self, minutes: float | None, on_step: Callable[[Progress], None] | None, stop: Callable[[], bool]
    ) -> OrganUNet:
        speed: list[float] = []
        started = time.perf_counter()
        while self.round < len(self.steps):
            if self.step == 0:
                self._begin_round()
            while self.step < self.steps[self.round]:
                before = time.perf_counter()
                self._train_step()
                self.step += 1
                speed.append(time.perf_counter() - before)
                if minutes is not None and not self._planned and len(speed) == 10 and self.round == 0:
                    left = minutes * 60 - (time.perf_counter() - started)
                    # More than the recipe's steps gained nothing (docs/results-studies.md).
                    factor = left / (float(np.median(speed)) * sum(self.steps) * _LABELLING)
                    self.steps = tuple(min(count, max(20, round(count * factor))) for count in self.steps)
                    self._planned = True
                if on_step is not None:
                    done = sum(self.steps[: self.round]) + self.step
                    seconds = float(np.median(speed[-50:])) * (sum(self.steps) - done)
                    loss = self._learner.losses[-1] if self._learner.losses else math.nan
                    on_step(Progress(done, sum(self.steps), self.round, loss, seconds))
                if stop():
                    self._learner.finish()
                    return self.network()
            self._learner.finish()
            self.round, self.step = self.round + 1, 0
        return self.network()

    def network(self) -> OrganUNet:
        """The averaged network of the present step, in evaluation mode."""
        return self._learner.averaged()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later `load_state_dict` on the same examples and volumes needs to go on."""
        labels, learner = self._unlabelled, self._learner
        return {
            "net": copy.deepcopy(learner.net.state_dict()),
            "mean": copy.deepcopy(learner.mean),
            "optimizer": copy.deepcopy(learner.optimizer.state_dict()),
            "generator": learner.generator.get_state(),
            "steps": self.steps,
            "planned": self._planned,
            "round": self.round,
            "step": self.step,
            "labels": None if labels is None else (labels.labels.to(CPU), labels.weights.to(CPU), labels.known),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        learner = self._learner
        learner.mean = {name: tensor.to(self.device, copy=True) for name, tensor in state["mean"].items()}
        learner.restart()
        learner.net.load_state_dict(state["net"])
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.generator.set_state(state["generator"])
        self.round, self.step, self.steps = state["round"], state["step"], tuple(state["steps"])
        self._planned = state["planned"]
        if self.round > 0:
            self._unlabelled = None
        if self.round > 0 and state["labels"] is not None:
            depths = [len(frame) for frame in self._frames]
            parts = (part.split(depths) for part in state["labels"])
            self._unlabelled = pool_of(self._frames, *parts).to(self.device)

    def _guessed(self, unlabelled: Sequence[Unlabelled]) -> Pool | None:
        """The volumes with a guess, for the first round."""
        frames, found = [], []
        for one, frame in zip(unlabelled, self._frames, strict=True):
            if one.guess is not None:
                place = frame_of(one.slices, one.spacing, self.recipe.spacing, self.recipe.window)
                labels, confidence = (place.labels(part).numpy() for part in one.guess)
                frames.append(frame)
                found.append(believed(labels, confidence.astype(np.float32) / 255, self._least, self.recipe.sure))
        pool = pool_of(frames, *zip(*found, strict=True)) if frames else None
        return pool.to(self.device) if pool is not None and pool.chance.any() else None

    def _begin_round(self) -> None:
        if self.round == 0:
            return
        self._unlabelled = own_labels(self.network(), self._frames, self._least, self.recipe, self._shares)
        self._learner.restart()

    def _train_step(self) -> None:
        settings, first = self.recipe, self.round == 0
        share = schedule(self.step, self.steps[self.round]) * (1.0 if first else settings.round_lr)
        decay = average_decay(settings, self.step) if first else settings.average
        try:
            self._learner.step(self._labelled, self._unlabelled, share, decay)
        except FedCoWProError as error:
            got = f"step {self.step} of round {self.round}: {error.got}"
            raise FedCoWProError(got, error.expected, error.remedy) from error


_FEWEST = 5  # unlabelled volumes whose median tells what a patient is like
_LABELLING = 1.1  # time of all rounds over that of their steps: labelling volumes between the rounds


def own_labels(
    net: OrganUNet,
    frames: Sequence[Tensor],
    least: Tensor,
    recipe: Recipe,
    shares: Float[Tensor, " k"] | None = None,
) -> Pool | None:
    """Slices of unlabelled volumes with a network's own labels; None where it is sure of nothing.

    Args:
        net: teacher.
        frames: grey values (see `frames_of`).
        least: see `self_labels`.
        recipe: settings.
        shares: of the organs in the examples, to which labels are aligned (see `alignment`); None = as they are.
    """
    if not frames:
        return None
    shift = None if shares is None else alignment(net, frames, shares)
    found = [self_labels(net, frame, least, recipe.sure, shift) for frame in frames]
    pool = pool_of(frames, *zip(*found, strict=True))
    return pool.to(device_of(net)) if pool.chance.any() else None


def _shares(examples: Sequence[Example], labelled: Pool) -> Float[Tensor, " k"] | None:
    """Share of each organ in all organs of the examples; None where they do not show all organs as a whole."""
    organs = labelled.known.shape[1] - 1
    for one in examples:
        if not (one.painted is None or one.painted.all()) or not (one.organs is None or len(one.organs) == organs):
            return None
    counts = torch.bincount(labelled.labels.flatten(), minlength=organs + 1)[1:].float()
    return counts / counts.sum()


def _smallest_areas(examples: Sequence[Example], organs: int) -> Float[Tensor, " k"]:
    """Largest area in a slice of each organ, mm2; the smallest of the examples that show it."""
    found = []
    for organ in range(1, organs + 1):
        areas = [float((one.labels == organ).sum((1, 2)).max()) * one.spacing**2 for one in examples]
        found.append(min(area for area in areas if area))
    return torch.tensor(found)


def _require_organs(examples: Sequence[Example], organs: int) -> None:
    if not examples:
        raise FedCoWProError("no annotated volume", "one at least", "give an example with its mask")
    for organ in range(1, organs + 1):
        if not any((one.labels == organ).any() for one in examples):
            raise FedCoWProError(
                f"organ {organ} of {organs}, by label value, is too small to be seen in any example",
                "organs of a few pixels", "annotate more of it, or leave it out",
            )  # fmt: skip


def _optimizer(net: OrganUNet, recipe: Recipe) -> torch.optim.AdamW:
    encoder = list(net.encoder.parameters())
    inside = {id(parameter) for parameter in encoder}
    rest = [parameter for parameter in net.parameters() if id(parameter) not in inside]
    groups = [{"params": encoder}, {"params": rest}]
    return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused(net))


def schedule(step: int, steps: int) -> float:
    """Linear rise over a twentieth, then a cosine to a fiftieth."""
    rise = min(1.0, (step + 1) / max(1, steps // 20))
    return rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
