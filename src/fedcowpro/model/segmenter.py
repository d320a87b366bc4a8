"""Encoder, projection and head in one module, built from a configuration."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fedcowpro.config import ModelConfig
from fedcowpro.core.device import half_precision
from fedcowpro.model.feature_maps import weigh_bands
from fedcowpro.model.head import score
from fedcowpro.model.lite0 import Lite0Encoder
from fedcowpro.model.prototypes import masks_to_features, prototypes_of_class
from fedcowpro.model.resnet import ResNetEncoder


class TinyEncoder(nn.Module):
    """Three strided convolutions to stride 8, for tests: (B, 1, H, W) to (B, 16, H/8, W/8)."""

    stride = 8
    out_channels = 16

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 8), (8, 16), (16, 16)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 16 h8 w8"]:
        return self.layers(images)


class LowRankAdapter(nn.Module):
    """x + B A x at each feature pixel, with A of `rank` rows (Hu et al. 2021, arXiv 2106.09685); B is 0 at first."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, rank, 1, bias=False)
        self.up = nn.Conv2d(rank, channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.up(self.down(x))


class Segmenter(nn.Module):
    """One-shot segmenter: `encode` slices, then `compare` query features with a support.

    Args:
        config: architecture.
        project: False leaves the encoder's own features as they are (the `untrained` baseline).
    """

    def __init__(self, config: ModelConfig, project: bool = True) -> None:
        super().__init__()
        self.config = config
        self.encoder = _make_encoder(config)
        self.project: nn.Module = nn.Identity()
        if project and config.channels is not None:
            self.project = nn.Conv2d(self.encoder.out_channels, config.channels, 1, bias=False)
        self.adapter = None
        if config.adapter_rank is not None:
            self.adapter = LowRankAdapter(config.channels or self.encoder.out_channels, config.adapter_rank)

    def train(self, mode: bool = True) -> Segmenter:
        super().train(mode)
        if self.config.frozen_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def encode(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c fh fw"]:
        # channels_last halves the time of depthwise convolutions on a CPU.
        with half_precision(self, images):
            features = self.project(self.encoder(images.contiguous(memory_format=torch.channels_last)))
            if self.adapter is not None:
                features = self.adapter(features)
        features = features.float()  # similarities and losses need it
        return features if self.config.bands is None else weigh_bands(features, self.config.bands)

    def compare(
        self,
        query: Float[Tensor, "b c h w"],
        support: Float[Tensor, "n c h w"],
        masks: Float[Tensor, "n mh mw"],
        window: int,
    ) -> Float[Tensor, "b 2 h w"]:
        """Background and foreground scores of each query slice, at feature resolution.

        Args:
            query: features of B query slices.
            support: features of n = B * views support slices; the views of a query are consecutive.
            masks: the support's foreground, 0 or 1, at image or feature resolution.
            window: pooling window of the local prototypes.
        """
        head = self.config.head
        foreground = masks_to_features(masks, (support.shape[-2], support.shape[-1]))
        views = len(support) // len(query)
        sets = [
            prototypes_of_class(support, mask, views, window, head, is_foreground)
            for mask, is_foreground in ((1 - foreground, False), (foreground, True))
        ]
        return torch.stack([score(query, prototypes, head) for prototypes in sets], dim=1)


def upsample(scores: Float[Tensor, "b k h w"], size: tuple[int, int]) -> Float[Tensor, "b k H W"]:
    """Scores at image resolution, bilinear."""
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def build_model(config: ModelConfig, seed: int, pretrained: bool = True, project: bool = True) -> Segmenter:
    """A segmenter with initial weights that depend on `config` and `seed` only.

    Args:
        config: architecture and, for ResNets, the weight file.
        seed: of the random projection and of encoders without pretrained weights.
        pretrained: False skips pretrained weights (a checkpoint will be loaded).
        project: False leaves out the random projection (the `untrained` baseline).

    Raises:
        FedCoWProError: weights missing, altered or of another architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Segmenter(config, project)
    encoder = model.encoder
    if pretrained and isinstance(encoder, Lite0Encoder):
        encoder.load_imagenet()
    elif pretrained and isinstance(encoder, ResNetEncoder) and config.weights is not None:
        encoder.load_file(config.weights)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _make_encoder(config: ModelConfig) -> Lite0Encoder | ResNetEncoder | TinyEncoder:
    if config.encoder == "lite0":
        return Lite0Encoder()
    if config.encoder == "tiny":
        return TinyEncoder()
    return ResNetEncoder(depth=101 if config.encoder == "resnet101" else 18)
