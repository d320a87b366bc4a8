"""The settings of privacy: what happens to an update before it counts. `fedcowpro.config` offers them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedcowpro.config.base import Config

FEWEST_IN_A_SUM = 3  # sites: of two, each knows the other's part


class PrivacyConfig(Config):
    """Differential privacy and secure aggregation; docs/privacy.md says what each protects against whom."""

    mechanism: Literal["none", "central", "local"] = Field(
        "none",
        description="differential privacy; central: the server clips and adds noise to the mean; "
        "local: each site clips and adds noise before it sends",
    )
    secure_aggregation: bool = Field(
        False, description="the server learns the sum of the sites' updates and no single one"
    )
    clip: float = Field(1.0, gt=0, description="largest L2 norm of a site's update of the learnt tensors")
    noise_multiplier: float = Field(1.0, ge=0, description="standard deviation of the noise, in units of clip")
    delta: float = Field(1e-5, gt=0, lt=1)
    randomness: Literal["os", "seed"] = Field(
        "os", description="source of noise; seed is for experiments: whoever knows the seed can take the noise off"
    )

    @property
    def active(self) -> bool:
        """Whether anything is done to an update; then nothing but learnt tensors leaves a site."""
        return self.mechanism != "none" or self.secure_aggregation

    @property
    def site_clips(self) -> bool:
        """Whether a site bounds its own update, because the server sees no single one as it was."""
        return self.mechanism == "local" or self.secure_aggregation
