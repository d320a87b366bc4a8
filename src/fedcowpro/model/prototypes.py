"""From annotated support slices to the prototypes of a class, for every kind of head (docs/method.md, 4).

Training takes those of each episode and class; inference collects the same ones of many organs at once.
Both ask `select_prototypes` which ones there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedcowpro.config import HeadConfig

_MAJORITY = 0.5  # coverage above which `nearest-support` counts a feature pixel to a class


@dataclass(frozen=True)
class PrototypeSet:
    """Prototypes of one class: vectors (B, P, C) and which of them exist (B, P)."""

    vectors: Float[Tensor, "b p c"]
    valid: Bool[Tensor, "b p"]

    def __len__(self) -> int:
        return self.vectors.shape[1]


@dataclass(frozen=True)
class ClassPrototypes:
    """What the class has in each of b groups of s support slices.

    Attributes:
        local: which of the p cells of each slice are local prototypes.
        whole: prototypes of whole slices: e of each group, from its masked means.
        exists: which of those count.
    """

    local: Bool[Tensor, "b s p"]
    whole: Float[Tensor, "b e c"]
    exists: Bool[Tensor, "b e"]


def masks_to_features(masks: Float[Tensor, "b h w"], size: tuple[int, int]) -> Float[Tensor, "b fh fw"]:
    """Masks at feature resolution by bilinear sampling, as in the reference (small masks can vanish)."""
    return F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def masked_mean(features: Float[Tensor, "b c h w"], masks: Float[Tensor, "b h w"]) -> Float[Tensor, "b c"]:
    """Global prototype: sum(F m) / (sum(m) + 1e-5); the zero vector for an empty mask."""
    return torch.einsum("bchw,bhw->bc", features, masks) / (masks.sum((1, 2))[:, None] + 1e-5)


def pool_cells(features: Float[Tensor, "n c h w"], window: int, config: HeadConfig) -> Float[Tensor, "n p c"]:
    """Means of window x window feature pixels; single pixels for `nearest-support`, none for `panet`."""
    if config.kind == "panet":
        return features.new_empty(len(features), 0, features.shape[1])
    return F.avg_pool2d(features, _side(window, config)).flatten(2).transpose(1, 2)


def select_prototypes(
    features: Float[Tensor, "n c h w"],
    masks: Float[Tensor, "n h w"],
    slices: Int[Tensor, "b s"],
    window: int,
    config: HeadConfig,
    foreground: bool,
) -> ClassPrototypes:
    """Which prototypes a class has in groups of support slices.

    `cowpro`, `cowpro-raw`, `alpnet`: the cells whose mean coverage exceeds the threshold and, for the foreground, the
    masked mean of each slice. A masked mean always counts; of an empty mask it is the zero vector, which is similar
    to nothing. `alpnet` scores a foreground that fills no cell of the training window in any slice of the group by
    the average of the masked means alone, whatever `window` is (its reference decides so at test as well).
    `panet`: the average of the slices' masked means. `nearest-support`: the feature pixels that the class covers by
    more than half, and where there are none the average of the masked means.

    Args:
        features: of n support slices.
        masks: coverage of each slice by the class, in 0..1 at feature resolution.
        slices: positions of each group's slices.
        window: side of the cells (see `pool_cells`).
        config: the head.
        foreground: the class is an organ, not its background.
    """
    if config.kind == "panet":
        average = masked_mean(features, masks)[slices].mean(1, keepdim=True)
        nowhere = torch.zeros(*slices.shape, 0, dtype=torch.bool, device=masks.device)
        return ClassPrototypes(nowhere, average, torch.ones_like(average[..., 0], dtype=torch.bool))
    threshold = _MAJORITY if config.kind == "nearest-support" else config.threshold
    local = _covered(masks, _side(window, config), threshold)[slices]
    if config.kind == "nearest-support":
        average = masked_mean(features, masks)[slices].mean(1, keepdim=True)
        return ClassPrototypes(local, average, ~local.any((1, 2))[:, None])
    if not foreground:
        return ClassPrototypes(
            local, features.new_empty(len(slices), 0, features.shape[1]), local.new_empty(len(slices), 0)
        )
    whole = masked_mean(features, masks)[slices]
    if config.kind == "alpnet":
        large = _covered(masks, config.train_window, config.threshold)[slices].any((1, 2))[:, None, None]
        # In the fallback all slices have the one average: equal prototypes weigh as one.
        local, whole = local & large, torch.where(large, whole, whole.mean(1, keepdim=True))
    return ClassPrototypes(local, whole, torch.ones_like(whole[..., 0], dtype=torch.bool))


def prototypes_of_class(
    features: Float[Tensor, "n c h w"],
    masks: Float[Tensor, "n h w"],
    views: int,
    window: int,
    config: HeadConfig,
    foreground: bool,
) -> PrototypeSet:
    """Prototypes of n / views episodes, whose views are consecutive slices; see `select_prototypes`."""
    cells = pool_cells(features, window, config).unflatten(0, (-1, views)).flatten(1, 2)
    slices = torch.arange(len(features), device=features.device).unflatten(0, (-1, views))
    found = select_prototypes(features, masks, slices, window, config, foreground)
    if not found.whole.shape[1]:
        return PrototypeSet(cells, found.local.flatten(1))  # not copied
    vectors = torch.cat((cells, found.whole), dim=1)
    return PrototypeSet(vectors, torch.cat((found.local.flatten(1), found.exists), dim=1))


def prototypes_of_organs(
    features: Float[Tensor, "n c h w"],
    groups: Sequence[tuple[Float[Tensor, "n h w"], Sequence[int], Sequence[int]]],
    window: int,
    config: HeadConfig,
    unknown: Float[Tensor, "n h w"] | None = None,
) -> tuple[Float[Tensor, "p c"], Bool[Tensor, "p m"]]:
    """The prototypes of many classes among the same slices, each cell once, and which of them each class has.

    Args:
        features: of n support slices.
        groups: for each organ its coverage of all slices, in 0..1 at feature resolution, the positions of the slices
            that it may use, and of further ones that only its background may use.
        window: side of the cells (see `pool_cells`).
        config: the head.
        unknown: coverage of all slices by pixels of which nobody knows what they are: no background either.

    Returns:
        vectors: cells of all slices, then prototypes of whole slices.
        member: columns 2 g and 2 g + 1 are background and foreground of group g.
    """
    cells = pool_cells(features, window, config)
    whole, columns, owners = [], [], []
    for index, (mask, used, without) in enumerate(groups):
        rest = 1 - mask if unknown is None else (1 - mask - unknown).clamp_min(0)
        for number, coverage, allowed in ((2 * index, rest, [*used, *without]), (2 * index + 1, mask, [*used])):
            slices = torch.tensor([allowed], device=features.device)
            found = select_prototypes(features, coverage, slices, window, config, foreground=number % 2 == 1)
            column = torch.zeros(cells.shape[:2], dtype=torch.bool, device=features.device)
            column[slices[0]] = found.local[0]
            columns.append(column.flatten())
            whole.append(found.whole[found.exists])
            owners += [number] * len(whole[-1])
    # Integers also where there is none, as where all feature pixels are prototypes.
    ends = F.one_hot(torch.tensor(owners, dtype=torch.int64, device=features.device), 2 * len(groups)).bool()
    return torch.cat((cells.flatten(0, 1), *whole)), torch.cat((torch.stack(columns, dim=1), ends))


def _side(window: int, config: HeadConfig) -> int:
    return 1 if config.kind == "nearest-support" else window


def _covered(masks: Float[Tensor, "n h w"], window: int, threshold: float) -> Bool[Tensor, "n p"]:
    return F.avg_pool2d(masks[:, None], window).flatten(1) > threshold
