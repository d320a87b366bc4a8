"""A site's part in a federation that learns organs from the annotated examples of some sites.

Federated averaging (McMahan et al. 2017, arXiv 1602.05629) of a network that is fine-tuned where an example is; the
other sites' volumes are labelled by the averaged network itself (self-training). Only weights leave a site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcowpro.core.device import device_of, training_on
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.model.unet import OrganUNet
from fedcowpro.training.finetuning import Learner, average_decay, own_labels, schedule
from fedcowpro.training.organ_loss import class_balance
from fedcowpro.training.pool import Example, Unlabelled, frames_of, pool_of_examples
from fedcowpro.training.recipe import Recipe

_SMALLEST = 25.0  # mm2: an organ whose largest area in a volume is less is not found there, and unknown


@dataclass(frozen=True)
class Phase:
    """Where a round stands in its half of the stage: examples only, or labels of the model, too.

    Attributes:
        on_examples: whether it is a round of the first half.
        first_step: of this half, before the round.
        total_steps: of this half.
    """

    on_examples: bool
    first_step: int
    total_steps: int


@dataclass(frozen=True)
class Lesson:
    """What a site learned in a round: the network's state, and the mean loss of its steps."""

    state: dict[str, Tensor]
    loss: float


def learn_round(
    net: OrganUNet,
    examples: Sequence[Example],
    unlabelled: Sequence[Unlabelled],
    *,
    steps: int,
    phase: Phase,
    generator: torch.Generator,
    recipe: Recipe,
) -> Lesson | None:
    """Train the federation's network at one site for one round; None where the site has nothing to learn from.

    Args:
        net: as the site got it; it is trained in place, on its device.
        examples: annotated volumes of the site, with the federation's numbers of organs.
        unlabelled: its other volumes; not used while `phase.on_examples`.
        steps: of this round.
        phase: for the learning rate, which follows one schedule over all rounds of a half.
        generator: of all draws.
        recipe: settings.

    Raises:
        FedCoWProError: a loss that is NaN or infinite.
    """
    organs = net.organs
    labelled = (
        pool_of_examples(examples, organs, recipe.spacing, recipe.window).to(device_of(net)) if examples else None
    )
    pool = None
    if not phase.on_examples:
        frames = frames_of(unlabelled, recipe.spacing, recipe.window)
        pool = own_labels(net.eval(), frames, torch.full((organs,), _SMALLEST / recipe.spacing**2), recipe)
    taught = labelled or pool
    if taught is None:
        return None
    learner = Learner(net, recipe, class_balance(taught), generator)
    with training_on(device_of(net), "use another device at this site"):
        for step in range(steps):
            share = schedule(phase.first_step + step, phase.total_steps)
            share *= 1.0 if phase.on_examples else recipe.round_lr
            decay = average_decay(recipe, step) if phase.on_examples else recipe.average
            learner.step(labelled, pool, share, decay)
        learner.finish()
    return Lesson(dict(learner.mean), sum(learner.losses) / steps)


def received_unet(state: Mapping[str, Tensor], organs: int, recipe: Recipe | None = None) -> OrganUNet:
    """The network with a state that came from elsewhere.

    Raises:
        FedCoWProError: weights of another network.
    """
    net = OrganUNet(organs, (recipe or Recipe()).widths)
    try:
        net.load_state_dict({**net.state_dict(), **state})
        if missing := {name for name, tensor in net.state_dict().items() if tensor.is_floating_point()} - set(state):
            raise RuntimeError(f"{len(missing)} tensors are missing, '{sorted(missing)[0]}' among them")
    except RuntimeError as error:
        raise FedCoWProError(
            f"weights that are not this network's: {error}", f"a network of {organs} organs",
            "use the same version of fedcowpro at the server and at all sites",
        ) from error  # fmt: skip
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
