"""Which sites a round asks (`federation.fraction`): a number of them, or each by itself with that probability."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sized

from fedcowpro.config import FEWEST_IN_A_SUM, FederationConfig
from fedcowpro.federated.privacy.noise import noise_key


def drawn_alone(config: FederationConfig) -> bool:
    """Whether each site is drawn by itself, as accounting for differential privacy takes it; a round may have none.

    Without differential privacy, and where sums of too few sites would tell a site's part, the number is fixed.
    """
    private = config.privacy.mechanism != "none" and not config.privacy.secure_aggregation
    return config.fraction < 1 and private


def counted_rate(config: FederationConfig) -> float:
    """Chance of a site to be in a release as epsilon counts it: only where each is drawn alone and nobody sees whom.

    Local noise is to hold against the server, which knows whom it asked.
    """
    return config.fraction if drawn_alone(config) and config.privacy.mechanism == "central" else 1.0


def planned_rates(config: FederationConfig) -> list[float]:
    """Those of a run without a repeated round, for the accountant."""
    return [counted_rate(config)] * config.rounds


def sites_per_round(config: FederationConfig, sites: int) -> int:
    """How many of so many sites a round asks; where each is drawn alone, about so many."""
    fewest = max(config.min_sites or 1, FEWEST_IN_A_SUM if config.privacy.secure_aggregation else 1)
    return min(sites, max(fewest, round(config.fraction * sites)))


def draw(nodes: Mapping[int, str], config: FederationConfig, seed: int, number: int, sites: int) -> dict[int, str]:
    """Nodes that a round asks, with their sites' names.

    A site's lot depends on the seed, the round and its name alone; in one that is drawn alone on random bytes of the
    operating system, unless `privacy.randomness` says otherwise: what is amplified by sampling is secret.

    Args:
        nodes: name of the site at each node that is there.
        seed: of the experiment.
        number: of the round.
        sites: of the federation, also those that are not there.
    """
    if config.fraction == 1:
        return dict(nodes)
    alone = drawn_alone(config)
    key = noise_key(config.privacy.randomness if alone else "seed", seed, "sampling", number)
    lots = {node: _lot(key, name) for node, name in nodes.items()}
    if alone:
        return {node: name for node, name in nodes.items() if lots[node] < config.fraction}
    first = sorted(nodes, key=lots.__getitem__)[: sites_per_round(config, sites)]
    return {node: nodes[node] for node in first}


def told_participants(asked: Sized, config: FederationConfig, sites: int) -> int:
    """What sites are told of how many a round asks: where each is drawn alone, the number that is to be expected.

    The true one would tell something of who was drawn, which is to be secret.
    """
    return sites_per_round(config, sites) if drawn_alone(config) else len(asked)


def _lot(key: bytes, name: str) -> float:
    """Uniform in 0..1, 1 excluded."""
    digest = hashlib.sha256(key + name.encode()).digest()
    return float((int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53)
