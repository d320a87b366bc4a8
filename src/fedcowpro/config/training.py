"""The settings of local training: views, episodes, loss, optimiser. `fedcowpro.config` offers them with the others."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedcowpro.config.base import Config


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
    def _is_consistent(self) -> AugmentConfig:
        for name, (low, high) in {"zoom": self.zoom, "gamma": self.gamma}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name}: two positive numbers, the smaller first")
        return self


class EpisodeConfig(Config):
    """What an episode is made of. The defaults are SSL-ALPNet's: one slice, one superpixel, one support."""

    draw: Literal["uniform", "area"] = Field(
        "uniform", description="chance of a superpixel within its slice: alike, or as the root of its area"
    )
    curriculum: bool = Field(False, description="large superpixels first, all of them in the last quarter of training")
    neighbour: int = Field(0, ge=0, description="the query comes from a slice up to this many slices away")
    neighbour_overlap: float = Field(
        0.5,
        gt=0,
        le=1,
        description="least IoU of the pseudo-labels of two slices; below it the query stays at its slice",
    )
    support_views: int = Field(1, ge=1, description="support views per query, all of one slice")


class LossConfig(Config):
    """Weights of the loss terms; 0 switches a term off."""

    cross_entropy: float = Field(1.0, ge=0)
    alignment: float = Field(1.0, ge=0)
    spatial_dice: float = Field(1.0, ge=0)
    edge_dice: float = Field(1.0, ge=0)
    edge_operator: Literal["sobel", "morphological", "laplacian"] = "sobel"
    tversky: float = Field(0.0, ge=0)
    tversky_alpha: float = Field(0.3, gt=0, description="price of false positives in the Tversky term")
    tversky_beta: float = Field(0.7, gt=0, description="price of false negatives in the Tversky term")
    background_weight: float = Field(0.05, gt=0)
    dice_on_alignment: bool = Field(False, description="add the Dice and Tversky terms to the alignment as well")

    @model_validator(mode="after")
    def _has_a_term(self) -> LossConfig:
        if not any((self.cross_entropy, self.alignment, self.spatial_dice, self.edge_dice, self.tversky)):
            raise ValueError("at least one term needs a positive weight")
        return self


class TrainConfig(Config):
    """Optimiser and schedule. Defaults are CPU-friendly; the paper's are sgd, 1e-3, decay 0.95, batch 1."""

    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(5e-4, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["step", "warmup-cosine", "constant"] = "warmup-cosine"
    decay: float = Field(0.95, gt=0, le=1, description="step schedule: factor per `decay_every` steps")
    decay_every: int = Field(1000, ge=1)
    batch: int = Field(4, ge=1, description="episodes per step")
    clip_norm: float | None = Field(1.0, gt=0, description="gradient norm; None does not clip")
