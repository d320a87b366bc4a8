"""How one example segments other volumes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedcowpro.config.base import Config


class InferConfig(Config):
    """How one example segments other volumes. Kept in the checkpoint's card; the command line can override."""

    support_slices: int | Literal["all"] = Field(
        3,
        description="annotated slices used per organ: n at the middles "
        "of n equal parts of its extent, as published, or all",
    )
    pairing: Literal["all-slices", "same-part"] = Field(
        "all-slices",
        description="all-slices: every query slice sees all support slices; same-part: the one of its third, which "
        "takes the query's truth (published; evaluation within gt-range only)",
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
    background_slices: int = Field(
        24,
        ge=0,
        description="slices evenly spaced over a wholly annotated volume; those without an organ add to the background",
    )
    exclusive: bool = Field(
        True,
        description="organs compete: a pixel belongs to the likeliest alone; False, in evaluation only, segments each "
        "organ for itself, as published",
    )
    axial_prior: float = Field(
        0.0,
        ge=0,
        description="log-odds taken off where a slice, matched with the support's by features, lies 60 mm or more "
        "outside the organ's annotated extent; less from 15 mm on",
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
        return self
