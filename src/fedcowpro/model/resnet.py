"""ResNet-18 and ResNet-101 (He et al. 2016) as dense encoders with torchvision's parameter names.

ResNet-101 replaces the strides of its last two stages by dilation (output stride 8), as DeepLabV3 does, so that
the backbone of a COCO DeepLabV3 file or an ImageNet file loads as it is. ResNet-18 stops after stage 2 of the
same stride; its deeper stages are not used.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fedcowpro.core.errors import FedCoWProError


class _Basic(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNetEncoder(nn.Module):
    """Slices (B, 1, H, W), zero mean and unit variance, to features (B, out_channels, H/8, W/8)."""

    stride = 8

    def __init__(self, depth: int) -> None:
        super().__init__()
        block, counts = (_Basic, (2, 2)) if depth == 18 else (_Bottleneck, (3, 4, 23, 3))
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs, dilation = 64, 1
        self.stages: list[str] = []
        for index, count in enumerate(counts):
            width, stride = 64 * 2**index, 1 if index == 0 else 2
            first_dilation = dilation
            if index >= 2:  # stride becomes dilation; the first block of a stage keeps the dilation before it
                stride, dilation = 1, dilation * 2
            blocks = [block(inputs, width, stride, first_dilation)]
            inputs = width * block.expansion
            blocks += [block(inputs, width, 1, dilation) for _ in range(count - 1)]
            self.stages.append(f"layer{index + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.out_channels = inputs

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h8 w8"]:
        x = F.relu(self.bn1(self.conv1(images.expand(-1, 3, -1, -1))))
        x = F.max_pool2d(x, 3, 2, 1)
        for name in self.stages:
            x = getattr(self, name)(x)
        return x

    def load_file(self, path: Path) -> None:
        """Load torchvision weights: an ImageNet ResNet, or the backbone of a DeepLabV3, .pth or .safetensors.

        Raises:
            FedCoWProError: unreadable file, or tensors missing or of another shape.
        """
        state = _read_tensors(path)
        state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
        own = self.state_dict()
        wrong = [name for name, tensor in own.items() if name not in state or state[name].shape != tensor.shape]
        if wrong:
            raise FedCoWProError(
                f"{path} lacks or mis-shapes {len(wrong)} of {len(own)} tensors, first '{wrong[0]}'",
                "torchvision's names and shapes for this ResNet",
                "give the weights of the same depth, or leave `weights` empty to start from random ones",
            )
        self.load_state_dict({name: state[name] for name in own})


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state.get("state_dict", state))
    except Exception as error:  # every reader has its own exceptions; all mean the same to the user
        raise FedCoWProError(
            f"cannot read weights from {path}: {error}",
            "a .pth of plain tensors or a .safetensors file",
            "check the file",
        ) from error
