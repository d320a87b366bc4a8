"""Every setting of the program as frozen models: YAML in, digest out.

Unknown keys, wrong types and values out of range are refused with a message that names the field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from fedcowpro.config_base import Config, load, parse

__all__ = [
    "AugmentConfig",
    "Config",
    "ExperimentConfig",
    "FederationConfig",
    "HeadConfig",
    "InferConfig",
    "LossConfig",
    "Modality",
    "ModelConfig",
    "PrepareConfig",
    "SiteConfig",
    "SuperpixelConfig",
    "TrainConfig",
    "load",
    "parse",
]

Modality = Literal["ct", "mr"]


class SuperpixelConfig(Config):
    """Pseudo-labels of a slice in grey values 0..255.

    `merging` is region merging by a price of border (`data.merging`), `felzenszwalb` the published method (Ouyang et
    al. 2020, SSL-ALPNet). Where `felzenszwalb` is asked for, what is left out of `scale`, `sigma` and `min_size`
    becomes the published 1, 1 and 400.
    """

    method: Literal["merging", "felzenszwalb"] = "merging"
    scale: float = Field(
        1500.0,
        gt=0,
        description="more means larger segments; for merging, squared grey values per pixel side of border",
    )
    sigma: float = Field(1.5, ge=0, description="pixels; smoothing before")
    min_size: int = Field(200, gt=0, description="pixels; smaller segments are merged into a neighbour")
    min_area: int = Field(100, ge=1, description="pixels; smaller segments are never drawn")
    foreground: float | None = Field(
        None,
        description="grey value in 0..255 above which a pixel is body; default 1e-4 for CT and 10 for MR",
    )

    @model_validator(mode="before")
    @classmethod
    def _published_constants(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("method") == "felzenszwalb":
            return {"scale": 1.0, "sigma": 1.0, "min_size": 400} | data
        return data

    @model_validator(mode="after")
    def _gradient_is_smoothed(self) -> SuperpixelConfig:
        if self.method == "merging" and not self.sigma:
            raise ValueError("sigma: above 0 for merging")
        return self


class PrepareConfig(Config):
    """How a raw volume becomes 2-D axial slices."""

    modality: Modality | None = Field(None, description="default: as the dataset says, else by each volume's values")
    window: tuple[float, float] = Field((-125.0, 275.0), description="HU, CT only")
    percentile: float = Field(99.5, gt=50, le=100, description="upper clip, MR only")
    spacing: float | None = Field(
        None, gt=0, description="in-plane mm per pixel after resampling; None keeps the volume's own"
    )
    size: int = Field(256, ge=32, multiple_of=32)
    superpixels: SuperpixelConfig = SuperpixelConfig()

    @model_validator(mode="after")
    def _window_is_ordered(self) -> PrepareConfig:
        if self.window[0] >= self.window[1]:
            raise ValueError("window: the lower end must be below the upper end")
        return self


class HeadConfig(Config):
    """CoWPro's prototype head (arXiv 2408.06235)."""

    temperature: float = Field(20.0, gt=0, description="multiplies correlations, both as softmax and as score")
    threshold: float = Field(0.95, gt=0, lt=1, description="a pooled cell is a prototype above this coverage")
    train_window: int = Field(4, ge=1)
    test_window: int = Field(2, ge=1)
    aggregate: Literal["centred", "raw"] = "centred"


class ModelConfig(Config):
    """Encoder and head."""

    encoder: Literal["lite0", "resnet18", "resnet101", "tiny"] = "lite0"
    weights: Path | None = Field(None, description="local weight file for resnet18 and resnet101")
    channels: int | None = Field(
        None,
        ge=8,
        description="outputs of a randomly initialised 1x1 projection; None compares the encoder's own features",
    )
    frozen_norm: bool = Field(False, description="keep normalisation statistics as they came")
    head: HeadConfig = HeadConfig()

    @model_validator(mode="after")
    def _weights_have_a_reader(self) -> ModelConfig:
        if self.weights is not None and not self.encoder.startswith("resnet"):
            raise ValueError("weights: only for resnet18 and resnet101; lite0 brings its own")
        return self


class AugmentConfig(Config):
    """Ranges of the two views of an episode (SSL-ALPNet's 'sabs_aug')."""

    rotation: float = Field(5.0, ge=0, description="degrees, +-")
    translation: float = Field(5.0, ge=0, description="pixels, +-")
    shear: float = Field(5.0, ge=0, description="degrees, +-")
    zoom: tuple[float, float] = (0.9, 1.2)
    elastic_alpha: float = Field(10.0, ge=0, description="pixels; amplitude of the smoothed random field")
    elastic_sigma: float = Field(5.0, gt=0, description="pixels")
    gamma: tuple[float, float] = (0.5, 1.5)
    random_convolution: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability per view of random shallow convolutions (GIN), drawn separately for support and query",
    )

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> AugmentConfig:
        for name, (low, high) in {"zoom": self.zoom, "gamma": self.gamma}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name}: two positive numbers, the smaller first")
        return self


class LossConfig(Config):
    """Weights of the loss terms; 0 switches a term off."""

    cross_entropy: float = Field(1.0, ge=0)
    alignment: float = Field(1.0, ge=0)
    spatial_dice: float = Field(1.0, ge=0)
    edge_dice: float = Field(1.0, ge=0)
    edge_operator: Literal["sobel", "morphological", "laplacian"] = "sobel"
    background_weight: float = Field(0.05, gt=0)
    dice_on_alignment: bool = False

    @model_validator(mode="after")
    def _has_a_term(self) -> LossConfig:
        if not (self.cross_entropy or self.alignment or self.spatial_dice or self.edge_dice):
            raise ValueError("at least one term needs a positive weight")
        return self


class TrainConfig(Config):
    """Optimiser and schedule. Defaults are CPU-friendly; the paper's are sgd, 1e-3, decay 0.95, batch 1."""

    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(5e-4, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["step", "one-cycle", "constant"] = "one-cycle"
    decay: float = Field(0.95, gt=0, le=1, description="step schedule: factor per `decay_every` steps")
    decay_every: int = Field(1000, ge=1)
    batch: int = Field(4, ge=1, description="episodes per step")
    clip_norm: float | None = Field(1.0, gt=0, description="gradient norm; None does not clip")


class FederationConfig(Config):
    """Rounds of federated averaging."""

    rounds: int = Field(10, ge=1)
    local_steps: int = Field(20, ge=1, description="optimiser steps per site and round")
    weighting: Literal["slices", "uniform"] = "slices"
    normalisation: Literal["averaged", "local"] = Field(
        "averaged", description="local = FedBN: normalisation layers stay at their site"
    )
    min_sites: int | None = Field(None, ge=1, description="fewest good replies per round; default: all")


class InferConfig(Config):
    """How one example segments other volumes. Kept in the checkpoint's card; the command line can override."""

    support_slices: int | Literal["all"] = Field(
        3,
        description="annotated slices used per organ: n at the middles "
        "of n equal parts of its extent, as published, or all",
    )
    pairing: Literal["bag", "chunk"] = Field(
        "bag",
        description="bag: every query slice sees all support slices; "
        "chunk: the one of its third (published, gt-range only)",
    )
    scales: tuple[float, ...] = Field((1.0,), min_length=1, description="sizes of the slice at which it is encoded")
    flip: bool = Field(False, description="average with the mirrored slice")
    refine: int = Field(
        12,
        ge=0,
        le=64,
        description="radius of the guided filter that moves soft borders to the image's edges, in pixels of a "
        "256-pixel slice (scaled with the slice); 0 = off",
    )
    threshold: float = Field(0.4, gt=0, lt=1, description="probability above which a pixel is foreground")
    keep_components: bool = Field(True, description="keep as many connected parts of an organ as the support has")

    @model_validator(mode="after")
    def _in_range(self) -> InferConfig:
        if self.support_slices != "all" and self.support_slices < 1:
            raise ValueError("support_slices: at least 1, or 'all'")
        if any(not 0.25 <= scale <= 4 for scale in self.scales):
            raise ValueError("scales: between 0.25 and 4")
        return self


class SiteConfig(Config):
    """One participant: a name and its prepared folder."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    path: Path | None = Field(None, description="site folder; may come from the command line instead")


class ExperimentConfig(Config):
    """A whole federated run."""

    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1, description="CPU threads; None leaves torch's choice")
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    federation: FederationConfig = FederationConfig()
    inference: InferConfig = InferConfig()
    sites: tuple[SiteConfig, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> ExperimentConfig:
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names):
            raise ValueError(f"sites: names must differ, got {names}")
        return self
