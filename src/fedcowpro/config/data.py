"""How a raw volume becomes slices, and slices pseudo-labels."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from fedcowpro.config.base import Config

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
