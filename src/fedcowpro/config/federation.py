"""The settings of a federation: its rounds, and how one model comes of many. `fedcowpro.config` offers them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedcowpro.config.base import Config
from fedcowpro.config.privacy import PrivacyConfig


class FederationConfig(Config):
    """Rounds of federated learning; the defaults are federated averaging."""

    rounds: int = Field(10, ge=1)
    local_steps: int = Field(20, ge=1, description="optimiser steps per site and round")
    fraction: float = Field(1.0, gt=0, le=1, description="share of the sites that a round asks")
    trainable: tuple[Literal["projection", "normalisation", "adapter"], ...] = Field(
        (), description="which parameters train and travel; all others stay as they are at first. None = all do"
    )
    weighting: Literal["slices", "uniform"] = "slices"
    aggregate: Literal["mean", "trimmed-mean", "median"] = Field(
        "mean", description="what becomes of the sites' tensors, coordinate by coordinate"
    )
    trim: float = Field(0.25, gt=0, lt=0.5, description="trimmed-mean: share of the sites cut off at either end")
    proximal: float = Field(0.0, ge=0, description="FedProx: mu of mu/2 |w - w_global|^2 in the local loss")
    server_optimizer: Literal["none", "adam"] = Field(
        "none", description="adam = FedAdam: the change that the aggregate makes is a gradient for the server's Adam"
    )
    server_lr: float = Field(0.01, gt=0)
    server_beta1: float = Field(0.9, ge=0, lt=1)
    server_beta2: float = Field(0.99, ge=0, lt=1)
    server_tau: float = Field(0.001, gt=0, description="adam: added to the root of the second moment")
    normalisation: Literal["averaged", "local"] = Field(
        "averaged", description="local = FedBN: normalisation layers stay at their site"
    )
    new_site_layers: Literal["average", "initial"] = Field(
        "average",
        description="local normalisation: layers of the model for sites that did not train; "
        "average: the sites send theirs once, after the last round",
    )
    precision: Literal["float32", "float16"] = Field(
        "float32", description="of the tensors that travel, both ways; float16 sends changes in half the bytes"
    )
    initial: Literal["rebuild", "send"] = Field(
        "rebuild", description="sites build the initial model, and its digest is sent; send = its bytes are"
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="rounds after which sites score the model on their held-out cases; default: never"
    )
    slice_size: int | None = Field(
        None, ge=32, le=4096, multiple_of=32, description="height and width of the sites' slices, in pixels"
    )
    min_sites: int | None = Field(None, ge=1, description="fewest good replies per round; default: all that it asks")
    join_timeout: float = Field(
        600.0, gt=0, description="seconds to wait for sites before the first round; without effect in one process"
    )
    round_timeout: float | None = Field(
        None, gt=0, description="seconds that a site has for a round; without effect in one process"
    )
    update_limits: Literal["auto", "off"] = Field(
        "auto",
        description="auto: no update may be longer than the local steps can make it, and from three sites on none 10 "
        "times as long as the median; without effect under privacy, where the clip bounds it",
    )
    max_update_norm: float | None = Field(
        None, gt=0, description="largest L2 norm of a site's update of the learnt tensors"
    )
    norm_factor: float | None = Field(
        None, gt=1, description="largest norm of a site's update as a multiple of the round's median norm"
    )
    norm_rule: Literal["reject", "clip"] = Field(
        "reject", description="what becomes of an update above a limit: left out, or scaled down to it"
    )
    privacy: PrivacyConfig = PrivacyConfig()

    @model_validator(mode="after")
    def _robust_aggregates_have_no_weights(self) -> FederationConfig:
        if self.aggregate != "mean" and self.weighting != "uniform":
            raise ValueError(
                f"aggregate: '{self.aggregate}' counts all sites alike; set weighting to uniform, or aggregate to mean"
            )
        return self

    @model_validator(mode="after")
    def _layers_come_of_sites_that_trained(self) -> FederationConfig:
        if self.fraction < 1 and self.normalisation == "local" and self.new_site_layers == "average":
            raise ValueError(
                "fraction: with local normalisation a site that no round asked has no layers to average; set fraction "
                "to 1, normalisation to averaged, or new_site_layers to initial"
            )
        return self

    @model_validator(mode="after")
    def _private_updates_count_alike(self) -> FederationConfig:
        if self.privacy.active and (self.aggregate != "mean" or self.weighting != "uniform"):
            raise ValueError(
                "privacy: bounds and hides sites, not slices, and works on their mean; set weighting to uniform and "
                "aggregate to mean"
            )
        return self

    @model_validator(mode="after")
    def _private_updates_are_not_looked_at(self) -> FederationConfig:
        if self.privacy.site_clips and self.precision != "float32":
            raise ValueError(
                f"precision: '{self.precision}' with updates that the site clips itself; set it to float32"
            )
        if self.privacy.secure_aggregation and (self.max_update_norm is not None or self.norm_factor is not None):
            raise ValueError("max_update_norm, norm_factor: secure aggregation shows no single update; leave out")
        return self
