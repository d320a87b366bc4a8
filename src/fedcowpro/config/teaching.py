"""The settings of a federation's second stage, in which annotated examples of some sites teach all."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from fedcowpro.config.base import Config


class TeachingConfig(Config):
    """Rounds after those of `federation`. In the first ones, only sites with an annotated case train."""

    organs: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1, description="names, as the sites' `prepare --organs` gives them"
    )
    rounds: int = Field(8, ge=1, description="of this stage in all")
    example_rounds: int = Field(
        4,
        ge=1,
        description="rounds with the annotated cases only; in later ones all sites train on labels of the model",
    )
    local_steps: int = Field(200, ge=1, description="optimiser steps per site and round")

    @model_validator(mode="after")
    def _is_consistent(self) -> TeachingConfig:
        if len(set(self.organs)) != len(self.organs):
            raise ValueError(f"organs: each once, got {', '.join(self.organs)}")
        if self.example_rounds > self.rounds:
            raise ValueError(f"example_rounds: at most rounds ({self.rounds}), got {self.example_rounds}")
        return self
