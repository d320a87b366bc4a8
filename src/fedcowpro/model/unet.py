"""A U-Net over the depths of the lite0 encoder: every organ of a slice at once, from the slice and its neighbours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fedcowpro.core.device import half_precision
from fedcowpro.model.lite0 import DEPTH_CHANNELS, Lite0Encoder

MULTIPLE = 32  # of pixels that sides of a slice must be
_NORM_GROUPS = 8
_FIXED = 4  # stride up to which the encoder stays as it is


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    # Few slices make a batch, so that its statistics say little: groups of channels are normalised instead.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(_NORM_GROUPS, outputs),
        nn.ReLU(inplace=True),
    )


class OrganUNet(nn.Module):
    """Logits (B, organs + 1, H, W) of background and organs from three neighbouring slices (B, 3, H, W).

    Ronneberger et al. 2015, with the encoder's strides 16, 8, 4 and, if asked for, 2. Its batch statistics stay those
    of the pretraining: one volume would spoil them. So do its layers up to stride 4: their edges and textures are
    those of any picture, and learning them takes two fifths of a step and gives nothing (docs/results-studies.md).

    Args:
        organs: number of organs.
        widths: channels of the decoder at stride 16, 8, 4 (and 2), multiples of 8. The finest is upsampled bilinearly.
    """

    def __init__(self, organs: int, widths: tuple[int, ...] = (96, 64, 48)) -> None:
        super().__init__()
        self.organs, self.widths = organs, tuple(widths)
        self.encoder = Lite0Encoder()
        for layer in self.encoder.until(_FIXED):
            layer.requires_grad_(False)
        self.bottom = _conv(DEPTH_CHANNELS[16], widths[0])
        self._skips = [8, 4, 2][: len(widths) - 1]
        self.steps = nn.ModuleList(
            nn.Sequential(_conv(below + DEPTH_CHANNELS[of], width), _conv(width, width))
            for below, width, of in zip(widths, widths[1:], self._skips, strict=False)
        )
        self.out = nn.Conv2d(widths[-1], organs + 1, 1)

    def train(self, mode: bool = True) -> OrganUNet:
        super().train(mode)
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        with half_precision(self, images):
            depths = self.encoder.depths(images.contiguous(memory_format=torch.channels_last))
            y = self.bottom(depths[16])
            for step, of in zip(self.steps, self._skips, strict=True):
                skip = depths[of]
                y = F.interpolate(y, size=skip.shape[-2:], mode="bilinear", align_corners=False)
                y = step(torch.cat((y, skip), dim=1))
        return F.interpolate(self.out(y.float()), size=images.shape[-2:], mode="bilinear", align_corners=False)


def build_unet(
    organs: int, encoder: Mapping[str, Tensor], seed: int, widths: tuple[int, ...] = (96, 64, 48)
) -> OrganUNet:
    """A U-Net with a pretrained encoder and a decoder that depends on `seed` only.

    Args:
        organs: number of organs.
        encoder: state of a `Lite0Encoder`.
        seed: of the decoder's initial weights.
        widths: see `OrganUNet`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = OrganUNet(organs, widths)
    net.encoder.load_state_dict(dict(encoder))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
