"""Every setting of the program as frozen models: YAML in, digest out.

Unknown keys, wrong types and values out of range are refused with a message that names the field.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from fedcowpro.config.base import Config, Device
from fedcowpro.config.federation import FederationConfig
from fedcowpro.config.inference import InferConfig
from fedcowpro.config.model import ModelConfig
from fedcowpro.config.teaching import TeachingConfig
from fedcowpro.config.training import AugmentConfig, EpisodeConfig, LossConfig, TrainConfig


class SiteConfig(Config):
    """One participant: a name and its prepared folder."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    path: Path | None = Field(None, description="site folder; may come from the command line instead")
    policy: Path | None = Field(None, description="the site's policy; without one, in one process, nothing is refused")


class ExperimentConfig(Config):
    """A whole federated run."""

    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1, description="CPU threads; None leaves torch's choice")
    device: Device = "auto"
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    episodes: EpisodeConfig = EpisodeConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    federation: FederationConfig = FederationConfig()
    inference: InferConfig = InferConfig()
    teaching: TeachingConfig | None = Field(
        None, description="a second stage, in which annotated cases of some sites teach organs to all"
    )
    sites: tuple[SiteConfig, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> ExperimentConfig:
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names):
            raise ValueError(f"sites: names must differ, got {names}")
        return self

    @model_validator(mode="after")
    def _what_trains_is_there(self) -> ExperimentConfig:
        parts, federation = self.federation.trainable, self.federation
        if parts and (not self.model.frozen_norm or federation.normalisation == "local"):
            raise ValueError(
                "federation.trainable: normalisation statistics would change, too; set model.frozen_norm, and "
                "federation.normalisation to averaged"
            )
        for part, there in {"projection": self.model.channels, "adapter": self.model.adapter_rank}.items():
            if part in parts and there is None:
                field = "channels" if part == "projection" else "adapter_rank"
                raise ValueError(f"federation.trainable: the model has no {part}; set model.{field}")
        return self

    @model_validator(mode="after")
    def _private_statistics_stay(self) -> ExperimentConfig:
        federation = self.federation
        stay = (
            federation.new_site_layers == "initial" if federation.normalisation == "local" else self.model.frozen_norm
        )
        if federation.privacy.active and not stay:
            raise ValueError(
                "federation.privacy: running statistics are neither clipped nor noised and must not leave a site; set "
                "model.frozen_norm, or federation.normalisation to local and federation.new_site_layers to initial"
            )
        return self

    @model_validator(mode="after")
    def _teaching_is_plain_averaging(self) -> ExperimentConfig:
        federation = self.federation
        if self.teaching is None:
            return self
        if self.model.encoder != "lite0":
            raise ValueError(f"teaching: takes the depths of the encoder 'lite0', got '{self.model.encoder}'")
        if federation.privacy.active or federation.normalisation == "local":
            raise ValueError(
                "teaching: works neither under federation.privacy nor with local normalisation; leave one of them out"
            )
        return self

    @property
    def first_stage(self) -> ExperimentConfig:
        """The settings without `teaching`."""
        return self.model_copy(update={"teaching": None})

    @property
    def second_stage(self) -> ExperimentConfig:
        """The settings of `teaching`, whose rounds and steps are those of the federation; sites check them there."""
        if self.teaching is None:
            raise ValueError("no teaching")
        changes: dict[str, object] = {"rounds": self.teaching.rounds, "local_steps": self.teaching.local_steps}
        changes |= {"trainable": (), "initial": "send"}
        changes |= {"fraction": 1.0}  # an annotated case is at few sites: each round needs them
        return self.model_copy(update={"federation": self.federation.model_copy(update=changes)})
