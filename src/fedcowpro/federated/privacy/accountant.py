"""Epsilon and delta of a run, by two accountants of the package `dp-accounting`; both are upper bounds.

RDP: Renyi divergences, composed order by order (Mironov 2017, arXiv 1702.07476). PLD: the distribution of the privacy
loss, composed as it is on a grid and rounded up (Koskela et al. 2020, arXiv 1906.03049), which is tighter; where the
loss is huge, no grid holds it and there is RDP alone. What counts is the smaller one.

Unit of privacy: the whole contribution of one site in a run, all of its patients.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedcowpro.config import PrivacyConfig

UNIT = "a site's whole contribution to the run"
_RELATIONS = {
    "central": "with the site against without it (its update zero), seen in the models",
    "local": "the site's data against any other data, seen in its messages",
}
_MOST = 200.0  # epsilon by RDP up to which PLD is asked; above it nothing is protected, and its grid fills the memory
_STEP = 1e-3  # of the grid; rounding up, it adds some 1e-6 to epsilon


@dataclass(frozen=True)
class Spent:
    """What so many releases cost; `epsilon` is the smaller of the two, infinite without noise.

    `sampling` is the largest chance that a site had to be in a release, 1 where sampling does not count.
    """

    epsilon: float
    epsilon_rdp: float
    epsilon_pld: float | None
    delta: float
    releases: int
    sampling: float
    mechanism: str
    unit: str
    relation: str
    randomness: str

    def facts(self) -> dict[str, object]:
        """For JSON: an infinite epsilon is null, and so is one that was not counted."""
        names = ("epsilon", "epsilon_rdp", "epsilon_pld")
        values = {name: getattr(self, name) for name in names}
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        return {**self.__dict__, **{name: round(known[name], 4) if name in known else None for name in names}}

    def sentence(self) -> str:
        """The same for people."""
        if not math.isfinite(self.epsilon):
            return f"{self.mechanism} clipping without noise: no differential privacy (epsilon is infinite)"
        pld = "too large for PLD" if self.epsilon_pld is None else f"{self.epsilon_pld:.3g} by PLD"
        text = f"{self.mechanism} differential privacy: epsilon {self.epsilon:.3g} at delta {self.delta:g} after "
        text += f"{self.releases} releases ({self.epsilon_rdp:.3g} by RDP, {pld}); unit: {self.unit} ({self.relation})"
        if self.sampling < 1:
            text += f"; each site was in a release with chance {self.sampling:g}"
        if self.randomness == "seed":
            text += "; noise from the seed: an experiment, no protection against who knows the seed"
        return text


def spent(config: PrivacyConfig, rates: Sequence[float]) -> Spent | None:
    """Cost of some releases, one for each round and each repetition of one; None without a mechanism.

    The central mechanism's sum changes by at most `clip` when a site's update becomes zero. A local release changes by
    up to twice that when the site's data are replaced, so there the multiplier counts half.

    Args:
        rates: for each release the chance of each site, drawn by itself and in secret, to be in it; 1 = all were.
    """
    if config.mechanism == "none":
        return None
    rdp, pld = math.inf if rates else 0.0, None
    if config.noise_multiplier and rates:
        multiplier = config.noise_multiplier / (2 if config.mechanism == "local" else 1)
        rdp, pld = _epsilons(multiplier, tuple(sorted(Counter(rates).items())), config.delta)
    return Spent(
        epsilon=rdp if pld is None else min(rdp, pld),
        epsilon_rdp=rdp,
        epsilon_pld=pld,
        delta=config.delta,
        releases=len(rates),
        sampling=max(rates, default=1.0),
        mechanism=config.mechanism,
        unit=UNIT,
        relation=_RELATIONS[config.mechanism],
        randomness=config.randomness,
    )


def privacy_facts(config: PrivacyConfig, rates: Sequence[float]) -> dict[str, object]:
    """What is done to updates and what such releases cost, for records in JSON; empty where nothing is done."""
    if not config.active:
        return {}
    cost = spent(config, rates)
    facts = {"secure_aggregation": config.secure_aggregation, "clip": config.clip}
    return {"privacy": {**facts, **({} if cost is None else cost.facts())}}


def privacy_lines(config: PrivacyConfig, rates: Sequence[float]) -> list[str]:
    """The same for people, a line for each thing that is done."""
    cost = spent(config, rates)
    lines = [] if cost is None else [cost.sentence()]
    if config.secure_aggregation:
        lines.append("secure aggregation: the server saw sums of updates only, if it kept to the protocol")
    return lines


@lru_cache(maxsize=64)
def _epsilons(multiplier: float, counts: tuple[tuple[float, int], ...], delta: float) -> tuple[float, float | None]:
    """By RDP and by PLD, of so many releases at each rate."""
    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    noised = dp.GaussianDpEvent(multiplier)
    releases = dp.ComposedDpEvent(
        [
            dp.SelfComposedDpEvent(noised if rate == 1 else dp.PoissonSampledDpEvent(rate, noised), count)
            for rate, count in counts
        ]
    )
    # Below 2 the divergence of a sampled release is a series that often does not converge.
    low = [1 + x / 100 for x in range(1, 100)] if all(rate == 1 for rate, _ in counts) else []
    orders = [*low, *(2 + x / 10 for x in range(100)), *range(12, 513)]
    rdp = float(RdpAccountant(orders).compose(releases).get_epsilon(delta))
    if rdp > _MOST:
        return rdp, None
    return rdp, float(PLDAccountant(value_discretization_interval=_STEP).compose(releases).get_epsilon(delta))
