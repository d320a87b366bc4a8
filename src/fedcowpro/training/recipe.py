"""Settings of fine-tuning, and how they follow from the modalities of examples and volumes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from fedcowpro.config import Modality
from fedcowpro.training.distortion import Distortion


@dataclass(frozen=True)
class Recipe:
    """Settings of fine-tuning.

    Attributes:
        spacing: common in-plane spacing, mm per pixel.
        window: height and width of what is learned from, pixels, multiples of 32.
        widths: channels of the decoder (see `OrganUNet`).
        batch: slices a step.
        lr: highest rate of the decoder; `encoder_share` of it is the encoder's.
        steps: of each round: the first on the examples, the others on examples and unlabelled volumes.
        round_lr: share of `lr` with which a later round begins: it goes on with the weights of the one before.
        labelled_share: of a batch of a later round.
        average: decay of the moving average of weights, which is what a round gives.
        sure: probabilities from the first (weight 0) to the second (weight 1) of these make a label's weight.
        least: an organ whose largest area in a slice is less than this share of that in the examples is not found,
            and unknown in that volume.
        align: move a teacher's labels to the shares that the organs have in the examples (see `alignment`), where the
            examples are whole and there are five volumes or more; no site of a federation does.
        distortion: augmentation.
    """

    spacing: float = 2.0
    window: tuple[int, int] = (160, 192)
    widths: tuple[int, ...] = (96, 64, 48)
    batch: int = 8
    lr: float = 2e-3
    encoder_share: float = 0.3
    weight_decay: float = 1e-2
    steps: tuple[int, ...] = (800, 400, 400)
    round_lr: float = 0.5
    labelled_share: float = 0.4
    average: float = 0.98
    sure: tuple[float, float] = (0.5, 0.9)
    least: float = 0.2
    align: bool = False
    distortion: Distortion = field(default_factory=Distortion)


# Chance of random convolutions within MR and from one modality to another (docs/results-studies.md): in MR they and
# alignment keep spleen and left kidney apart, in CT they harm.
_WITHIN_MR, _ACROSS = 0.3, 0.8


def recipe_for(examples: Collection[Modality], others: Collection[Modality] = ()) -> Recipe:
    """The recipe for examples of some modalities and volumes, to learn from or to segment, of others."""
    if any(kind not in examples for kind in others):
        return Recipe(distortion=Distortion(convolution=_ACROSS))
    if set(examples) == {"mr"}:
        return Recipe(align=True, distortion=Distortion(convolution=_WITHIN_MR))
    return Recipe()


def scaled(recipe: Recipe, steps: int, unlabelled: bool) -> Recipe:
    """A recipe with `steps` steps in all, shared out among its rounds; one round where nothing is unlabelled."""
    rounds = recipe.steps if unlabelled else recipe.steps[:1]
    return replace(recipe, steps=tuple(max(1, round(steps * of / sum(rounds))) for of in rounds))
