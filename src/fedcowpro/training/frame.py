"""The frame in which a fine-tuned network sees a volume: one size of pixels for all, cut to the body.

A network that learns from one volume takes an organ's size in pixels for a property of the organ. Scanners' fields of
view are fitted to the patient, so that within a range all pixels count as equal (see `fitted`): with mm instead, one
large patient's kidneys were lost in smaller ones (mean Dice 0.47 instead of 0.59). The network also pays for every
pixel of air, so the frame is cut to the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from fedcowpro.volume.preprocess import fitted

USUAL_PIXEL = 1.4  # mm per pixel of a prepared slice of the abdomen
_BODY_GREY = 0.1  # share of the range of grey values above which a pixel counts as body
_BODY_SHARE = 0.02  # share of the pixels of a row or column, over all slices, that makes it part of the body
_RANGE = 4.0  # of grey values in the frame: about that of volumes of unit variance


@dataclass(frozen=True)
class Frame:
    """A window of a resampled volume.

    Attributes:
        size: side of the prepared slices in pixels.
        resampled: their side at the common spacing.
        top, left: first row and column of the window in the resampled slice; negative = padded.
        height, width: of the window.
    """

    size: int
    resampled: int
    top: int
    left: int
    height: int
    width: int

    def images(self, slices: Float[np.ndarray, "d s s"]) -> Float[Tensor, "d h w"]:
        """Grey values (half precision) in the frame, the volume's range as -1..3; padding takes the minimum."""
        low, high = float(slices.min()), float(np.percentile(slices, 99.9))
        scale = _RANGE / max(high - low, 1e-6)
        out = torch.empty(len(slices), self.height, self.width, dtype=torch.float16)
        for z, one in enumerate(slices):
            grey = (torch.from_numpy(np.asarray(one, np.float32)) - low) * scale - 1
            small = F.interpolate(
                grey[None, None], size=(self.resampled, self.resampled), mode="bilinear", antialias=True
            )
            out[z] = self._cut(small[0], -1.0)[0]
        return out

    def labels(self, labels: UInt8[np.ndarray, "d s s"]) -> UInt8[Tensor, "d h w"]:
        """Label map in the frame, nearest neighbour; padding is 0."""
        small = F.interpolate(
            torch.from_numpy(np.array(labels, np.uint8))[:, None],
            size=(self.resampled, self.resampled),
            mode="nearest-exact",
        )
        return self._cut(small[:, 0], 0)

    def back(self, maps: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k s s"]:
        """Probabilities of the frame on the prepared slices; outside the window is background (the first map)."""
        full = maps.new_zeros(*maps.shape[:2], self.resampled, self.resampled)
        full[:, 0] = 1
        top, left = max(self.top, 0), max(self.left, 0)
        bottom = min(self.top + self.height, self.resampled)
        right = min(self.left + self.width, self.resampled)
        full[..., top:bottom, left:right] = maps[
            ..., top - self.top : bottom - self.top, left - self.left : right - self.left
        ]
        return F.interpolate(full, size=(self.size, self.size), mode="bilinear", align_corners=False)

    def _cut(self, slices: Tensor, fill: float) -> Tensor:
        bottom, right = self.top + self.height - self.resampled, self.left + self.width - self.resampled
        return F.pad(slices, (-self.left, right, -self.top, bottom), value=fill)  # negative amounts cut


def frame_of(
    slices: Float[np.ndarray, "d s s"], spacing: float, target: float, window: tuple[int, int] | None = None
) -> Frame:
    """The frame of a volume, centred at its body.

    Args:
        slices: prepared volume.
        spacing: its in-plane spacing, mm per pixel; near `USUAL_PIXEL` it counts as that.
        target: common spacing, mm per pixel.
        window: height and width in pixels, multiples of 32; None = as large as the body needs.
    """
    size = slices.shape[-1]
    spacing = USUAL_PIXEL if fitted(spacing, USUAL_PIXEL) else spacing
    resampled = max(32, round(size * spacing / target))
    low, high = float(slices.min()), float(slices.max())
    body = slices > low + _BODY_GREY * (high - low)
    starts: list[int] = []
    lengths: list[int] = []
    for axis in (2, 1):
        share = body.mean(axis=(0, axis))
        inside = np.flatnonzero(share > _BODY_SHARE)
        first, last = (inside[0], inside[-1] + 1) if len(inside) else (0, size)
        scale = resampled / size
        need = int(-(-((last - first) * scale + 8) // 32) * 32)
        length = need if window is None else window[len(lengths)]
        starts.append(round((first + last) / 2 * scale - length / 2))
        lengths.append(length)
    return Frame(size, resampled, starts[0], starts[1], lengths[0], lengths[1])
