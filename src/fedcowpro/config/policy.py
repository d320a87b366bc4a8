"""What a site permits to be done with its data: a file of its own, which no server can change."""

from __future__ import annotations

import math
import sys
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from fedcowpro.config.base import Config

Kind = Literal["train", "evaluate", "layers"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]
_KEY_LINE = r"^ecdsa-sha2-nistp\d+ [A-Za-z0-9+/]+=*( [^\n]*)?$"
PublicKey = Annotated[str, StringConstraints(strip_whitespace=True, pattern=_KEY_LINE)]
ANY = "any"  # for `packages`: no matter which
PACKAGE = "package"  # for `initial_weights`: those that the site's own package builds


class PrivacyPolicy(Config):
    """The least privacy, compared with `federation.privacy` of the announced settings; None = not asked for."""

    mechanism: tuple[Literal["none", "central", "local"], ...] = Field(
        ("none", "central", "local"), min_length=1, description="differential privacy: those that are enough"
    )
    max_clip: float | None = Field(None, gt=0, description="largest bound on the norm of an update")
    min_noise_multiplier: float | None = Field(None, gt=0, description="least noise, in units of that bound")
    secure_aggregation: bool = Field(False, description="whether the server may see nothing but sums of updates")


class SitePolicy(Config):
    """What a site permits. The defaults hold where a deployed site has no file."""

    apps: tuple[str, ...] = Field(
        (),
        description="SHA-256 of Flower app bundles that may be installed at the site's SuperNode",
    )
    packages: tuple[str, ...] = Field(
        (), description="digests of the server's fedcowpro that are allowed, or 'any'; none = the site's own"
    )
    architectures: tuple[str, ...] = Field((), description="digests of allowed model settings; none = any")
    initial_weights: tuple[str, ...] = Field(
        (),
        description="digests of the weights that a run may begin with, or 'package': those that the site's own package "
        "builds from the announced settings and seed; none = any",
    )
    max_weight: float = Field(1000.0, gt=0, description="largest value of a received weight")
    max_norm_ratio: float = Field(
        10.0, gt=1, description="how far the norm of received weights may move between rounds of a run, as a factor"
    )
    max_rounds: int | None = Field(None, ge=1, description="of one run: as announced, and as counted")
    max_rounds_per_day: int | None = Field(
        None, ge=1, description="of all runs in any 24 hours, as counted in the audit log; None = as many as max_rounds"
    )
    max_total_rounds: int | None = Field(None, ge=1, description="of all runs together, as counted in the audit log")
    max_local_steps: int | None = Field(None, ge=1, description="per round")
    max_step_images: int = Field(
        256, ge=1, description="slices encoded in a step: train.batch times (1 + episodes.support_views)"
    )
    max_channels: int = Field(1024, ge=8, description="model.channels")
    max_support_slices: int | None = Field(
        None, ge=1, description="annotated slices per organ in an evaluation: inference.support_slices; None = all"
    )
    max_scales: float = Field(
        16.0, gt=0, description="sum of the squares of inference.scales: what a slice costs in an evaluation"
    )
    min_participants: int = Field(1, ge=0, description="fewest sites whose updates make an average")
    privacy: PrivacyPolicy = PrivacyPolicy()
    peers: dict[Name, PublicKey] = Field(
        {}, description="public key of each other site that may be in a sum of secure aggregation; none = any site"
    )
    messages: tuple[Kind, ...] = ("train", "evaluate", "layers")
    teaching: bool = Field(
        False, description="whether the site's annotated cases and labels of its volumes may teach a network of organs"
    )
    min_cases: int = Field(3, ge=2, description="fewest held-out cases behind a number that leaves the site")
    hours: tuple[int, int] | None = Field(
        None, description="from, to: hours of the day (local time) in which the site works; may pass midnight"
    )

    @field_validator("peers")
    @classmethod
    def _peers_are_sites_of_their_own(cls, peers: dict[str, str]) -> dict[str, str]:
        if len({tuple(key.split()[:2]) for key in peers.values()}) < len(peers):
            raise ValueError("two sites with one key")
        if len(peers) == 1:
            raise ValueError("one other site: in a sum of two each knows the other's part; name two at least")
        return peers

    @model_validator(mode="after")
    def _sums_are_of_known_sites(self) -> SitePolicy:
        if self.privacy.secure_aggregation and not self.peers:
            raise ValueError(
                "privacy.secure_aggregation: needs 'peers', the public keys of the other sites; without them a server "
                "can invent sites, and takes the site's own update out of the sum with them"
            )
        return self

    @field_validator("hours")
    @classmethod
    def _hours_of_a_day(cls, hours: tuple[int, int] | None) -> tuple[int, int] | None:
        if hours is not None and (not all(0 <= hour <= 24 for hour in hours) or hours[0] == hours[1]):
            raise ValueError("two different hours between 0 and 24")
        return hours


# Where one person holds all sites in one process: there is nobody to protect them from.
OPEN = SitePolicy(
    packages=(ANY,),
    teaching=True,
    min_participants=0,
    max_weight=math.inf,
    max_norm_ratio=math.inf,
    max_step_images=sys.maxsize,
    max_channels=sys.maxsize,
    max_scales=math.inf,
)
