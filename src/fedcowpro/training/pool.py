"""The slices that fine-tuning draws from: annotated ones, and unlabelled ones with a network's own labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fedcowpro.training.frame import frame_of

IGNORE = 255  # label value of voxels that nobody has decided on


@dataclass(frozen=True)
class Example:
    """An annotated volume, prepared.

    Attributes:
        slices: grey values (depth, size, size), any scale.
        labels: 0 = background, 1..k = organs in the order that all examples share, `IGNORE` = not decided.
        spacing: mm per pixel in the slice.
        organs: which of 1..k were annotated; None = all. Others are unknown in it, not absent.
        painted: which slices were annotated; None = all. Others are unknown.
    """

    slices: Float[np.ndarray, "d s s"]
    labels: UInt8[np.ndarray, "d s s"]
    spacing: float
    organs: frozenset[int] | None = None
    painted: Bool[np.ndarray, " d"] | None = None


@dataclass(frozen=True)
class Unlabelled:
    """A volume without annotation, prepared.

    Attributes:
        slices: grey values (depth, size, size).
        spacing: mm per pixel.
        guess: labels (depth, size, size) of something else than the network, with which training begins, and how sure
            they are (0..255 for 0..1); None = none.
    """

    slices: Float[np.ndarray, "d s s"]
    spacing: float
    guess: tuple[UInt8[np.ndarray, "d s s"], UInt8[np.ndarray, "d s s"]] | None = None


@dataclass
class Pool:
    """Slices of one or more volumes in windows of equal size.

    Images, labels and weights lie on one device; the rest on the CPU, so that a draw need not wait for a GPU.

    Attributes:
        images: (n, h, w), half precision.
        labels: (n, h, w), 0..k.
        weights: (n, h, w), 0..255 for 0..1.
        known: (n, k + 1) whether an organ's absence can be told from its lack of annotation.
        below, above: position of each slice's neighbours (itself at an end).
        chance: probability of each slice to be drawn.
    """

    images: Float[Tensor, "n h w"]
    labels: UInt8[Tensor, "n h w"]
    weights: UInt8[Tensor, "n h w"]
    known: Bool[Tensor, "n k"]
    below: Tensor
    above: Tensor
    chance: Float[Tensor, " n"]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (count, 3, h, w), labels and weights (count, h, w) as floats, known (count, k + 1).

        Args:
            generator: on the CPU.
        """
        at = torch.multinomial(self.chance, count, replacement=True, generator=generator)
        below, place, above = (one.to(self.images.device) for one in (self.below[at], at, self.above[at]))
        images = torch.stack((self.images[below], self.images[place], self.images[above]), 1).float()
        return images, self.labels[place].float(), self.weights[place].float() / 255, self.known[at]

    def to(self, device: torch.device) -> Pool:
        """The same with images, labels and weights on a device."""
        images, labels, weights = (one.to(device) for one in (self.images, self.labels, self.weights))
        return replace(self, images=images, labels=labels, weights=weights)


def neighbours(depth: int) -> tuple[Tensor, Tensor]:
    """Positions of the slices below and above each of `depth` slices; an end is its own neighbour."""
    own = torch.arange(depth)
    return (own - 1).clamp_min(0), (own + 1).clamp_max(depth - 1)


def pool_of(
    images: Sequence[Float[Tensor, "d h w"]],
    labels: Sequence[UInt8[Tensor, "d h w"]],
    weights: Sequence[UInt8[Tensor, "d h w"]],
    known: Sequence[Bool[Tensor, "d k"]],
) -> Pool:
    """One pool of several volumes. Half of the draws go to any slice with a weight, half to an organ's slices.

    The second half goes to all organs alike: a kidney is in a third of the slices that show the liver.
    """
    offset, below, above = 0, [], []
    for volume in images:
        down, up = neighbours(len(volume))
        below.append(down + offset)
        above.append(up + offset)
        offset += len(volume)
    all_labels, all_weights, all_known = torch.cat(list(labels)), torch.cat(list(weights)), torch.cat(list(known))
    usable = all_weights.flatten(1).amax(1) > 0
    chance = _share(usable)
    shares = []
    for organ in range(1, all_known.shape[1]):
        shown = ((all_labels == organ) & (all_weights > 0)).flatten(1).any(1)
        if shown.any():
            shares.append(_share(shown))
    if shares:
        chance = (chance + torch.stack(shares).mean(0)) / 2
    return Pool(torch.cat(list(images)), all_labels, all_weights, all_known, torch.cat(below), torch.cat(above), chance)


def pool_of_examples(examples: Sequence[Example], organs: int, target: float, window: tuple[int, int]) -> Pool:
    """The annotated slices of all examples.

    Args:
        examples: at least one.
        organs: number of organs k.
        target: common spacing, mm per pixel.
        window: height and width of the frames.
    """
    images, labels, weights, known = [], [], [], []
    for example in examples:
        frame = frame_of(example.slices, example.spacing, target, window)
        of_example = frame.labels(example.labels)
        decided = (of_example != IGNORE).to(torch.uint8) * 255
        if example.painted is not None:
            decided[~torch.from_numpy(np.asarray(example.painted, bool))] = 0
        images.append(frame.images(example.slices))
        labels.append(of_example.masked_fill(of_example == IGNORE, 0))
        weights.append(decided)
        annotated = torch.tensor([k == 0 or example.organs is None or k in example.organs for k in range(organs + 1)])
        known.append(annotated.expand(len(of_example), -1))
    return pool_of(images, labels, weights, known)


def frames_of(volumes: Sequence[Unlabelled], target: float, window: tuple[int, int]) -> list[Tensor]:
    """Grey values of unlabelled volumes in windows of equal size."""
    return [frame_of(one.slices, one.spacing, target, window).images(one.slices) for one in volumes]


def _share(chosen: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    return chosen.float() / chosen.sum().clamp_min(1)
