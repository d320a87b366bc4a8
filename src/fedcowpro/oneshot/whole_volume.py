"""Probabilities of a fine-tuned network on a whole prepared volume, and how far its views of a slice agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fedcowpro.core.device import device_of, in_parts
from fedcowpro.model.unet import MULTIPLE, OrganUNet
from fedcowpro.training.frame import frame_of
from fedcowpro.training.pool import neighbours

_AT_ONCE = 4  # slices; more are not faster on a CPU


@torch.inference_mode()
def predict_probabilities(
    net: OrganUNet,
    slices: Float[np.ndarray, "d s s"],
    spacing: float,
    target: float,
    scales: Sequence[float] = (1.0, 0.875, 1.125),
) -> tuple[Float[np.ndarray, "k d s s"], Float[np.ndarray, "o d"]]:
    """Probabilities (half precision, sum 1) of background and organs, the mean over several scales.

    And of each organ and slice the mean Dice between what any two scales alone would find, 0..1.

    Args:
        net: fine-tuned network, in evaluation mode.
        slices: prepared volume.
        spacing: its in-plane spacing, mm per pixel.
        target: the network's spacing (`Recipe.spacing`).
        scales: of the slice when the network sees it.
    """
    frame = frame_of(slices, spacing, target)
    images = frame.images(slices)
    below, above = neighbours(len(images))
    out = np.empty((net.organs + 1, *slices.shape), np.float16)
    agreement = np.empty((net.organs, len(images)), np.float32)
    size = (frame.height, frame.width)
    device = device_of(net)

    def of_part(part: slice) -> None:
        stack = torch.stack((images[below[part]], images[part], images[above[part]]), 1).float().to(device)
        total = torch.zeros(len(stack), net.organs + 1, *size, device=device)
        found = []
        for scale in scales:
            seen = [max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in size]
            view = stack if scale == 1 else F.interpolate(stack, size=seen, mode="bilinear", align_corners=False)
            one = F.interpolate(net(view), size=size, mode="bilinear", align_corners=False).softmax(1)
            found.append(one.argmax(1))
            total += one
        out[:, part] = frame.back(total / len(scales)).transpose(0, 1).cpu().numpy()
        agreement[:, part] = _agreement(found, net.organs).cpu().numpy()

    in_parts(of_part, len(images), device, _AT_ONCE)
    return out, agreement


def _agreement(found: Sequence[Tensor], organs: int) -> Float[Tensor, "o b"]:
    """Mean Dice of each organ and slice between any two label maps (b, h, w); 1 of one map, 0 where none has it."""
    rows = []
    for organ in range(1, organs + 1):
        masks = [labels == organ for labels in found]
        both = [
            2 * (one & other).sum((1, 2)) / (one.sum((1, 2)) + other.sum((1, 2))).clamp_min(1)
            for one, other in combinations(masks, 2)
        ]
        rows.append(torch.stack(both).mean(0) if both else torch.ones(len(masks[0]), device=masks[0].device))
    return torch.stack(rows)
