"""Every setting of the program as frozen models: YAML in, digest out.

Unknown keys, wrong types and values out of range are refused with a message that names the field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from fedcowpro.config_base import Config, load, parse
from fedcowpro.config_federation import FederationConfig
from fedcowpro.config_privacy import PrivacyConfig
from fedcowpro.config_training import AugmentConfig, EpisodeConfig, LossConfig, TrainConfig

__all__ = [
    "AugmentConfig",
    "Config",
    "EpisodeConfig",
    "ExperimentConfig",
    "FederationConfig",
    "HeadConfig",
    "InferConfig",
    "LossConfig",
    "Modality",
    "ModelConfig",
    "PrepareConfig",
    "PrivacyConfig",
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
    """A prototype head: how a support becomes prototypes, and how they score a query (docs/method.md, 4)."""

    kind: Literal["cowpro", "cowpro-raw", "alpnet", "panet", "nearest-support"] = Field(
        "cowpro",
        description="cowpro: arXiv 2408.06235; cowpro-raw: the same weights mix original prototypes; alpnet: arXiv "
        "2007.09886; panet: one masked mean per class, arXiv 1908.06391; nearest-support: the likest feature pixel",
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
    frozen_norm: bool = Field(False, description="keep normalisation statistics as they came")
    stride: Literal[8, 4] = Field(
        8, description="pixels of a slice per feature pixel; 4, for lite0 alone, adds a shallower depth"
    )
    bands: tuple[float, float, float] | None = Field(
        None, description="weights of low, middle and high spatial frequencies of the features; None keeps them"
    )
    head: HeadConfig = HeadConfig()

    @model_validator(mode="after")
    def _weights_have_a_reader(self) -> ModelConfig:
        if self.weights is not None and not self.encoder.startswith("resnet"):
            raise ValueError("weights: only for resnet18 and resnet101; lite0 brings its own")
        if self.stride != 8 and self.encoder != "lite0":
            raise ValueError("stride: 4 only for lite0")
        if self.bands is not None and not (min(self.bands) >= 0 < max(self.bands)):
            raise ValueError("bands: three weights from 0 on, one of them above 0")
        return self


class InferConfig(Config):
    """How one example segments other volumes. Kept in the checkpoint's card; the command line can override."""

    support_slices: int | Literal["all"] = Field(
        3,
        description="annotated slices used per organ: n at the middles "
        "of n equal parts of its extent, as published, or all",
    )
    pairing: Literal["bag", "chunk", "similar"] = Field(
        "bag",
        description="bag: every query slice sees all support slices; similar: the one that looks most like it; "
        "chunk: the one of its third (published, gt-range only)",
    )
    scales: tuple[float, ...] = Field((1.0,), min_length=1, description="sizes of the slice at which it is encoded")
    flip: bool = Field(False, description="average with the mirrored slice")
    gammas: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="exponents of grey values with which it is encoded"
    )
    refine: int = Field(
        12,
        ge=0,
        le=64,
        description="radius of the guided filter that moves soft borders to the image's edges, in pixels of a "
        "256-pixel slice (scaled with the slice); 0 = off",
    )
    axial_smoothing: float = Field(
        0.0,
        ge=0,
        le=50,
        description="mm; standard deviation of the Gaussian by which probabilities of neighbouring slices are averaged",
    )
    threshold: float = Field(0.4, gt=0, lt=1, description="probability above which a pixel is foreground")
    keep_components: bool = Field(True, description="keep as many connected parts of an organ as the support has")
    background_slices: int = Field(
        24,
        ge=0,
        description="slices evenly spaced over a wholly annotated volume; those without an organ add to the background",
    )
    exclusive: bool = Field(
        False,
        description="a pixel belongs to its likeliest organ alone; False scores each organ for itself, as published",
    )
    axial_prior: float = Field(
        0.0,
        ge=0,
        description="log-odds taken off where a slice, matched with the support's by features, lies 60 mm or more "
        "outside the organ's annotated extent; less from 15 mm on",
    )
    location_prior: float = Field(
        0.0, ge=0, description="log-odds taken off far from the organ's annotated place in the body's width and height"
    )
    coordinates: float = Field(
        0.0, ge=0, le=10, description="weight of a pixel's place in the slice beside its features; 0 leaves it out"
    )
    quadrant_mask: bool = Field(
        False, description="exclude quadrants about the body's centre that the annotated organ does not touch"
    )

    @model_validator(mode="after")
    def _in_range(self) -> InferConfig:
        if self.support_slices != "all" and self.support_slices < 1:
            raise ValueError("support_slices: at least 1, or 'all'")
        if any(not 0.25 <= scale <= 4 for scale in self.scales):
            raise ValueError("scales: between 0.25 and 4")
        if any(not 0.25 <= gamma <= 4 for gamma in self.gammas):
            raise ValueError("gammas: between 0.25 and 4")
        return self


class SiteConfig(Config):
    """One participant: a name and its prepared folder."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    path: Path | None = Field(None, description="site folder; may come from the command line instead")
    policy: Path | None = Field(None, description="the site's policy; without one, in one process, nothing is refused")


class ExperimentConfig(Config):
    """A whole federated run."""

    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1, description="CPU threads; None leaves torch's choice")
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    episodes: EpisodeConfig = EpisodeConfig()
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

    @model_validator(mode="after")
    def _private_statistics_stay(self) -> ExperimentConfig:
        federation = self.federation
        stay = federation.unseen == "initial" if federation.normalisation == "local" else self.model.frozen_norm
        if federation.privacy.active and not stay:
            raise ValueError(
                "federation.privacy: running statistics are neither clipped nor noised and must not leave a site; set "
                "model.frozen_norm, or federation.normalisation to local and federation.unseen to initial"
            )
        return self
