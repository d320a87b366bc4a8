"""What a site does in a round of the second stage (`teaching`), as plain functions that know nothing of Flower."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedcowpro.config import ExperimentConfig, TeachingConfig
from fedcowpro.core.device import CPU
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.federated.monitoring.rounds import ORGANS
from fedcowpro.federated.site.local_training import LocalUpdate, learnt_names, site_generator
from fedcowpro.training.loop import FitReport
from fedcowpro.training.pool import IGNORE, Example, Unlabelled
from fedcowpro.training.recipe import recipe_for
from fedcowpro.training.teaching import Phase, learn_round, received_unet


def teaching_update(
    config: ExperimentConfig,
    name: str,
    site: Site,
    received: Mapping[str, Tensor],
    round_number: int,
    device: torch.device = CPU,
) -> LocalUpdate:
    """Train the organ network at one site for one round; a site with nothing to learn from abstains.

    A site's annotated examples are its cases of role 'support' with a label of one of the organs. Its training cases
    are labelled by the received network; their own labels, if there are any, are not read.

    Args:
        config: with `teaching`, as `ExperimentConfig.second_stage`.
        received: the server's tensors, all of them.
        round_number: from 1.
        device: where it trains; the result lies on the CPU.

    Raises:
        FedCoWProError: weights of another network, or a loss that is NaN or infinite.
    """
    teaching = config.teaching
    if teaching is None:
        raise FedCoWProError("settings without 'teaching'", "those of the second stage", "use the same versions")
    started = time.perf_counter()
    phase = phase_of(teaching, round_number)
    unlabelled = [] if phase.on_examples else site.with_role("train")
    net = received_unet(received, len(teaching.organs)).to(device)
    shared = learnt_names(net)
    lesson = learn_round(
        net,
        site_examples(site, teaching.organs),
        [Unlabelled(site.image(case), site.spacing(case)[1]) for case in unlabelled],
        steps=teaching.local_steps,
        phase=phase,
        generator=site_generator(config.seed, f"{name}/teaching", round_number),
        recipe=recipe_for(site.modalities),
    )
    state = dict(received) if lesson is None else lesson.state
    losses = {} if lesson is None else {"total": lesson.loss, ORGANS: lesson.loss}
    steps = 0 if lesson is None else teaching.local_steps
    return LocalUpdate(
        shared={tensor: state[tensor].detach().to(CPU, copy=True) for tensor in sorted(shared)},
        local={},
        train_slices=site.n_train_slices,
        report=FitReport(steps, 0, losses, math.nan, time.perf_counter() - started),
        abstains=lesson is None,
    )


def phase_of(teaching: TeachingConfig, round_number: int) -> Phase:
    """Where a round, counted from 1, stands in the stage."""
    first, steps = teaching.example_rounds, teaching.local_steps
    if round_number <= first:
        return Phase(True, (round_number - 1) * steps, first * steps)
    return Phase(False, (round_number - 1 - first) * steps, (teaching.rounds - first) * steps)


def site_examples(site: Site, organs: tuple[str, ...]) -> list[Example]:
    """The site's annotated examples of these organs, numbered in their order from 1."""
    numbers = {value: organs.index(organ) + 1 for value, organ in site.organs.items() if organ in organs}
    table = np.zeros(256, np.uint8)
    table[list(numbers)] = list(numbers.values())
    found = []
    for case in site.with_role("support"):
        if case not in site.labelled_cases:
            continue
        labels = table[site.labels(case)]
        shown = frozenset(int(number) for number in np.unique(labels) if number)
        labels[site.unknown(case)] = IGNORE
        if shown:
            found.append(Example(site.image(case), labels, site.spacing(case)[1], shown))
    return found
