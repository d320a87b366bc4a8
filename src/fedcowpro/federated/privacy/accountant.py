"""Epsilon and delta of a run, by Opacus' Renyi accountant.

Unit of privacy: the whole contribution of one site in a run, all of its patients. Every site takes part in every round,
so there is no gain from sampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedcowpro.config import PrivacyConfig
from fedcowpro.core.errors import FedCoWProError

UNIT = "a site's whole contribution to the run"
_RELATIONS = {
    "central": "with the site against without it (its update zero), seen in the models",
    "local": "the site's data against any other data, seen in its messages",
}


@dataclass(frozen=True)
class Spent:
    """What so many releases cost; `epsilon` is infinite without noise."""

    epsilon: float
    delta: float
    releases: int
    mechanism: str
    unit: str
    relation: str
    randomness: str

    def facts(self) -> dict[str, object]:
        """For JSON: an infinite epsilon is null."""
        return {**self.__dict__, "epsilon": round(self.epsilon, 4) if math.isfinite(self.epsilon) else None}

    def sentence(self) -> str:
        """The same for people."""
        if not math.isfinite(self.epsilon):
            return f"{self.mechanism} clipping without noise: no differential privacy (epsilon is infinite)"
        text = f"{self.mechanism} differential privacy: epsilon {self.epsilon:.3g} at delta {self.delta:g} after "
        text += f"{self.releases} releases; unit: {self.unit} ({self.relation})"
        if self.randomness == "seed":
            text += "; noise from the seed: an experiment, no protection against who knows the seed"
        return text


def spent(config: PrivacyConfig, releases: int) -> Spent | None:
    """Cost of `releases` releases, one for each round and each repetition of one; None without a mechanism.

    The central mechanism's sum changes by at most `clip` when a site's update becomes zero. A local release changes by
    up to twice that when the site's data are replaced, so there the multiplier counts half.

    Raises:
        FedCoWProError: Opacus is not installed.
    """
    if config.mechanism == "none":
        return None
    epsilon = math.inf if releases else 0.0
    if config.noise_multiplier and releases:
        multiplier = config.noise_multiplier / (2 if config.mechanism == "local" else 1)
        epsilon = _epsilon(multiplier, releases, config.delta)
    relation = _RELATIONS[config.mechanism]
    return Spent(epsilon, config.delta, releases, config.mechanism, UNIT, relation, config.randomness)


def privacy_facts(config: PrivacyConfig, releases: int) -> dict[str, object]:
    """What is done to updates and what `releases` releases cost, for records in JSON; empty where nothing is done."""
    if not config.active:
        return {}
    cost = spent(config, releases)
    facts = {"secure_aggregation": config.secure_aggregation, "clip": config.clip}
    return {"privacy": {**facts, **({} if cost is None else cost.facts())}}


def privacy_lines(config: PrivacyConfig, releases: int) -> list[str]:
    """The same for people, a line for each thing that is done."""
    cost = spent(config, releases)
    lines = [] if cost is None else [cost.sentence()]
    if config.secure_aggregation:
        lines.append("secure aggregation: the server saw sums of updates only, if it kept to the protocol")
    return lines


def _epsilon(multiplier: float, releases: int, delta: float) -> float:
    try:
        from opacus.accountants.analysis import rdp
    except ImportError as error:
        raise FedCoWProError(
            "differential privacy without the package 'opacus', which counts epsilon",
            "Opacus 1.5 or later",
            "pip install 'fedcowpro[privacy]', or set federation.privacy.mechanism to none",
        ) from error
    orders = [1 + x / 100 for x in range(1, 100)] + [2 + x / 10 for x in range(100)] + list(range(12, 513))
    costs = rdp.compute_rdp(q=1.0, noise_multiplier=multiplier, steps=releases, orders=orders)
    epsilon, _ = rdp.get_privacy_spent(orders=orders, rdp=costs, delta=delta)
    return float(epsilon)
