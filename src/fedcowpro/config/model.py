"""Encoder and prototype head."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from fedcowpro.config.base import Config


class HeadConfig(Config):
    """A prototype head: how a support becomes prototypes, and how they score a query (docs/method.md, 4)."""

    kind: Literal["cowpro", "cowpro-raw", "alpnet", "panet", "nearest-support"] = Field(
        "cowpro",
        description="cowpro: arXiv 2408.06235; cowpro-raw: the same weights mix original prototypes; alpnet: arXiv "
        "2007.09886; panet: one masked mean per class, arXiv 1908.06391; nearest-support: the most similar "
        "feature pixel",
    )
    temperature: float = Field(20.0, gt=0, le=80, description="multiplies similarities, both as softmax and as score")
    threshold: float = Field(
        0.95, gt=0, lt=1, description="a pooled cell is a prototype above this coverage (cowpro, cowpro-raw, alpnet)"
    )
    train_window: int = Field(4, ge=1, description="side of a pooled cell in training, in feature pixels")
    test_window: int = Field(2, ge=1, description="the same at inference")


class ModelConfig(Config):
    """Encoder and head."""

    encoder: Literal["lite0", "resnet18", "resnet101", "tiny"] = "lite0"
    weights: Path | None = Field(None, description="local weight file for resnet18 and resnet101")
    channels: int | None = Field(
        None,
        ge=8,
        description="outputs of a randomly initialised 1x1 projection; None compares the encoder's own features",
    )
    adapter_rank: int | None = Field(
        None, ge=1, description="rank of a linear map added to the features, 0 before training; None adds none"
    )
    frozen_norm: bool = Field(False, description="keep normalisation statistics as they came")
    bands: tuple[float, float, float] | None = Field(
        None, description="weights of low, middle and high spatial frequencies of the features; None keeps them"
    )
    head: HeadConfig = HeadConfig()

    @model_validator(mode="after")
    def _weights_have_a_reader(self) -> ModelConfig:
        if self.weights is not None and not self.encoder.startswith("resnet"):
            raise ValueError("weights: only for resnet18 and resnet101; lite0 brings its own")
        if self.bands is not None and not (min(self.bands) >= 0 < max(self.bands)):
            raise ValueError("bands: three weights from 0 on, one of them above 0")
        return self
