"""A network's own labels of an unlabelled volume, for its further training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy import ndimage
from torch import Tensor

from fedcowpro.core.device import device_of
from fedcowpro.model.unet import OrganUNet
from fedcowpro.training.pool import neighbours


@torch.inference_mode()
def self_labels(
    net: OrganUNet,
    frame: Float[Tensor, "d h w"],
    least: Float[Tensor, " k"],
    sure: tuple[float, float],
    shift: Float[Tensor, " c"] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A network's labels of a volume for training: labels, weights (0..255) and known organs of each slice.

    Of each organ only the largest part is believed; what else was taken for it weighs nothing, and is background to
    nobody. An organ smaller than `least` is unknown in the volume.

    Args:
        net: teacher.
        frame: grey values.
        least: pixels of each organ's largest area in a slice; volumes would not compare where slices are not equally
            thick.
        sure: see `Recipe`.
        shift: added to the logits of background and organs (see `alignment`).
    """
    best, label = [], []
    for logits in _logits(net, frame):
        moved = logits if shift is None else logits + shift.to(logits)[:, None, None]
        confidence, winner = moved.softmax(1).max(1)
        best.append(confidence.cpu())
        label.append(winner.to(torch.uint8).cpu())
    return believed(torch.cat(label).numpy(), torch.cat(best).numpy(), least, sure)


@torch.inference_mode()
def alignment(
    net: OrganUNet, frames: Sequence[Float[Tensor, "d h w"]], shares: Float[Tensor, " k"]
) -> Float[Tensor, " c"]:
    """What to add to a network's logits so that organs have the shares of the examples (Berthelot et al. 2020).

    Distribution alignment, arXiv 1911.09785: a network that has seen one patient may take one organ for another in all
    others, as the spleen for a kidney, and teach itself to go on. The median of many volumes tells that from patients
    who differ.

    Args:
        net: teacher.
        frames: grey values of unlabelled volumes.
        shares: of each organ in the volume of all organs of the examples; sum 1.

    Returns:
        0 for the background, then one number an organ, in -1.5..1.5.
    """
    found = []
    for frame in frames:
        counts = torch.zeros(len(shares) + 1)
        for logits in _logits(net, frame):
            counts += torch.bincount(logits.argmax(1).flatten(), minlength=len(counts)).cpu()
        found.append(counts[1:] / counts[1:].sum().clamp_min(1))
    median = torch.stack(found).median(0).values
    return torch.cat((torch.zeros(1), (shares / median.clamp_min(1e-3)).log().clamp(-1.5, 1.5)))


def _logits(net: OrganUNet, frame: Float[Tensor, "d h w"]) -> Iterator[Float[Tensor, "b c h w"]]:
    """A volume's logits, some slices at a time."""
    below, above = neighbours(len(frame))
    for part in torch.arange(len(frame)).split(4):
        images = torch.stack((frame[below[part]], frame[part], frame[above[part]]), 1).float()
        yield net(images.to(device_of(net)))


def believed(
    labels: UInt8[np.ndarray, "d h w"],
    confidence: Float[np.ndarray, "d h w"],
    least: Float[Tensor, " k"],
    sure: tuple[float, float],
) -> tuple[Tensor, Tensor, Tensor]:
    """`self_labels` of labels that are there: the part of them that training may believe.

    Args:
        labels: 0..k.
        confidence: of each label, 0..1.
        least, sure: as there.
    """
    labels = labels.copy()
    weights = np.clip((confidence - sure[0]) / (sure[1] - sure[0]), 0, 1)
    known = [True]
    for organ in range(1, len(least) + 1):
        mask = labels == organ
        parts, count = ndimage.label(mask)
        if count > 1:
            sizes = np.bincount(parts.ravel())
            mask = parts == 1 + int(sizes[1:].argmax())
            lost = (labels == organ) & ~mask
            weights[lost], labels[lost] = 0, 0
        known.append(bool(mask.sum((1, 2)).max() >= least[organ - 1]))
        if not known[-1]:
            weights[mask], labels[mask] = 0, 0
    return (
        torch.from_numpy(labels),
        torch.from_numpy((weights * 255).round().astype(np.uint8)),
        torch.tensor(known).expand(len(labels), -1),
    )
